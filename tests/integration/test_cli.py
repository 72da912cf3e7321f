"""The command line over a real database, without any other process: what it stores, says, refuses and exits with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_common.store import host as hosts
from bootpoint_common.store.database import Database
from bootpoint_ops.cli import main
from tests.service.commandline import JOB, Call, answer_of, error_of, job_file

# --- errors and exit codes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("host", "show", "none"), "no_such_host"),
        (("host", "remove", "none"), "no_such_host"),
        (("agent", "show", "none"), "no_such_agent"),
        (("agent", "revoke", "none"), "no_such_agent"),
        (("disk", "list", "none"), "no_such_agent"),
        (("job", "show", "none"), "no_such_job"),
        (("job", "run", "none"), "no_such_job"),
        (("run", "show", "7"), "no_such_run"),
        (("run", "watch", "7"), "no_such_run"),
        (("run", "log", "7"), "no_such_run"),
        (("run", "cancel", "7"), "no_such_run"),
        (("point", "list", "none"), "no_such_job"),
        (("vm", "list", "none"), "no_such_host"),
        (("vm", "start", "none", "vm", "--yes"), "no_such_vm"),
    ],
)
def test_what_does_not_exist_exits_with_3_and_its_code(call: Call, words: tuple[str, ...], code: str) -> None:
    result = call(*words, "-o", "json")
    assert (result.exit_code, error_of(result)["code"], result.stdout) == (3, code, "")


def test_an_error_object_has_all_keys_of_the_contract(call: Call) -> None:
    found = error_of(call("job", "show", "none", "--output=json"))
    assert list(found) == ["code", "message", "key", "value", "hint", "job", "host"]


def test_an_error_for_people_says_what_and_how_on(call: Call) -> None:
    result = call("job", "show", "none")
    assert result.stdout == ""
    assert "there is no job none (no_such_job)" in result.stderr
    assert "`bootpoint job list` lists them" in result.stderr


@pytest.mark.parametrize(
    "words", [("job", "show"), ("job", "frobnicate"), ("run", "show", "x"), ("host", "check"), ("vm", "points", "h")]
)
def test_wrong_words_exit_with_2(call: Call, words: tuple[str, ...]) -> None:
    result = call(*words, "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (2, "spec_invalid")


def test_a_name_that_is_no_utf_8_is_a_usage_error(call: Call) -> None:
    result = call("job", "show", "caf\udce9", "-o", "json")
    assert (result.exit_code, error_of(result)["value"]) == (2, "caf\\udce9")


@pytest.mark.parametrize("address", ["caf\udce9", "kvm1..example.org", "a" * 64])
@pytest.mark.parametrize("words", [("vm", "list", "--direct"), ("host", "add", "h2", "--kind", "kvm")])
def test_an_address_that_nobody_can_look_up_is_a_usage_error(call: Call, words: tuple[str, ...], address: str) -> None:
    result = call(*words, "--address", address, "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (2, "spec_invalid")
    assert "is neither a DNS name nor an address" in error_of(result)["message"]


def test_a_setting_that_is_no_utf_8_is_a_usage_error(call: Call) -> None:
    words = ("host", "add", "h2", "--kind", "esxi", "--address", "127.0.0.1", "--vddk-libdir", "caf\udce9")
    result = call(*words, "-o", "json")
    assert (result.exit_code, error_of(result)["value"]) == (2, "caf\\udce9")


def test_without_up_and_without_a_database_the_way_out_is_named(tmp_path: Path) -> None:
    state = {"BOOTPOINT_STATE": str(tmp_path), "BOOTPOINT_DATABASE_URL": ""}
    result = CliRunner().invoke(main, ["job", "list", "-o", "json"], env=state)
    assert result.exit_code == 1
    assert error_of(result)["code"] == "no_scheduler"
    assert "bootpoint up" in error_of(result)["hint"]


def test_a_database_that_was_never_migrated_names_the_command(empty_database: str, tmp_path: Path) -> None:
    env = {"BOOTPOINT_STATE": str(tmp_path), "BOOTPOINT_DATABASE_URL": empty_database}
    result = CliRunner().invoke(main, ["job", "list", "-o", "json"], env=env)
    assert result.exit_code == 1
    assert "db migrate" in error_of(result)["hint"]


def test_a_question_that_nobody_relays_ends_with_no_scheduler(site: Call) -> None:
    result = site("vm", "list", "h1", "--timeout", "0.1", "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (1, "no_scheduler")


def test_without_the_installations_key_nothing_is_saved(call: Call, tmp_path: Path) -> None:
    (tmp_path / "key").unlink()
    result = call("host", "add", "h2", "--kind", "fake", "--address", "h2", "--timeout", "0", "-o", "json")
    assert (result.exit_code, error_of(result)["key"]) == (2, "BOOTPOINT_INSTALLATION_KEY")
    assert not (tmp_path / "key").exists()


# --- hosts


def test_credentials_are_saved_encrypted_and_never_shown(call: Call, database: str, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter2-very-secret\n")
    added = call(
        "host",
        "add",
        "h1",
        "--kind",
        "fake",
        "--address",
        "h1",
        "--password-file",
        str(tmp_path / "pw"),
        "--timeout",
        "0",
    )
    assert added.exit_code == 0
    shown = answer_of(call("host", "list", "-o", "json"))["items"][0]
    assert (shown["name"], shown["credentials"], shown["port"], shown["pool"]) == ("h1", "saved", 0, "fake")
    with psycopg.connect(database) as connection:
        tables = [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        dump = "".join(str(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables)
    assert "hunter2" not in dump
    assert "hunter2" not in added.output


def test_a_password_is_read_from_standard_input(call: Call, env: dict[str, str], tmp_path: Path) -> None:
    words = ("--kind", "fake", "--address", "h1", "--password-file", "-", "--timeout", "0")
    assert call("host", "add", "h1", *words, stdin="hunter2-very-secret\n").exit_code == 0
    pool = Database(env["BOOTPOINT_DATABASE_URL"], size=1)
    with pool.transaction() as connection:
        found = hosts.by_name(connection, "h1")
    pool.close()
    vault = Vault(load_or_create_installation_key(tmp_path / "key"))
    assert found.secrets(vault) == {"password": "hunter2-very-secret"}


def test_what_only_one_kind_of_host_knows_is_refused_for_others(site: Call) -> None:
    for option in (("--virt-type", "qemu"), ("--legacy-tls",), ("--vddk-libdir", "/opt/vddk")):
        result = site("host", "set", "h1", *option)
        assert result.exit_code == 2
        assert f"{option[0]} is for hosts of kind" in result.stderr
        assert "this one is of kind fake" in result.stderr


def test_a_host_is_changed_and_removed(site: Call) -> None:
    changed = answer_of(
        site("host", "set", "h1", "--address", "h9", "--pool", "east", "--max-open-points", "2", "-o", "json")
    )
    assert (changed["address"], changed["pool"], changed["max_open_points"]) == ("h9", "east", 2)
    assert site("host", "add", "h1", "--kind", "fake", "--address", "x").exit_code == 2
    assert site("host", "remove", "h1").exit_code == 0
    assert answer_of(site("host", "list", "-o", "json")) == {"items": []}


def test_a_host_that_keeps_replicas_is_not_removed(site: Call, tmp_path: Path) -> None:
    site("job", "apply", job_file(tmp_path))
    result = site("host", "remove", "h1", "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (4, "point_in_use")


# --- jobs


def test_apply_makes_a_job_and_the_same_file_again_changes_nothing(site: Call, tmp_path: Path) -> None:
    file = job_file(tmp_path)
    first = answer_of(site("job", "apply", file, "-o", "json"))["items"][0]
    assert (first["job"], first["revision"], first["result"], first["run"]) == ("erp", 1, "created", None)
    again = answer_of(site("job", "apply", file, "-o", "json"))["items"][0]
    assert (again["revision"], again["result"], again["changes"]) == (1, "unchanged", [])
    shown = answer_of(site("job", "show", "erp", "-o", "json"))
    assert (shown["state"], shown["enabled"], shown["spec"]["target"][0]["pool"]) == ("never", True, "fake")
    assert shown["newest_point_age_seconds"] is None
    assert shown["targets"] == [
        {
            "host": "h1", "vm": "erp-standby", "chain": 1, "epoch": 1, "head": None, "points": 0, "points_limit": 14,
            "state": "ok", "standby": "off", "held": None, "drift": None,
        }
    ]  # fmt: skip


def test_a_change_says_when_it_takes_effect(site: Call, tmp_path: Path) -> None:
    site("job", "apply", job_file(tmp_path))
    file = job_file(tmp_path, target='points = 5\nvm = { name = "erp-standby", cpus = 3 }')
    item = answer_of(site("job", "apply", file, "-o", "json"))["items"][0]
    assert (item["revision"], item["result"]) == (2, "changed")
    assert {change["key"]: change["when"] for change in item["changes"]} == {
        "target[0].points": "at_once",
        "target[0].vm.cpus": "next_commit",
    }


@pytest.mark.parametrize(
    ("edit", "code", "exit_code", "key"),
    [
        ({"target": 'storage = { name = "other" }'}, "needs_move", 4, "target[0].storage.name"),
        ({"target": "points = 2"}, "spec_invalid", 2, "target[0].points"),
        ({"target": "points = 23"}, "spec_invalid", 2, "target[0].points"),
        ({"target": "frobs = 1"}, "spec_invalid", 2, "target[0].frobs"),
        ({"target": '[[target]]\nhost = "nowhere"'}, "no_such_host", 3, "target[1].host"),
    ],
)
def test_a_refused_change_names_its_key_and_changes_nothing(
    site: Call, tmp_path: Path, *, edit: dict[str, str], code: str, exit_code: int, key: str
) -> None:
    site("job", "apply", job_file(tmp_path))
    before = answer_of(site("job", "show", "erp", "-o", "json"))
    result = site("job", "apply", job_file(tmp_path, **edit), "-o", "json")
    found = error_of(result)
    assert (result.exit_code, found["code"], found["key"]) == (exit_code, code, key)
    assert answer_of(site("job", "show", "erp", "-o", "json")) == before


def test_an_agent_that_was_never_enrolled_is_named(call: Call, tmp_path: Path) -> None:
    result = call("job", "apply", job_file(tmp_path), "-o", "json")
    assert (result.exit_code, error_of(result)["code"], error_of(result)["key"]) == (3, "no_such_agent", "source.agent")


def test_a_folder_is_applied_whole_or_not_at_all(site: Call, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    job_file(folder, "a.toml")
    (folder / "b.toml").write_text(
        JOB.format(top="", source="", target="").replace("erp", "two").replace("h1", "nowhere")
    )
    assert site("job", "apply", str(folder)).exit_code == 3
    assert answer_of(site("job", "list", "-o", "json")) == {"items": []}
    (folder / "b.toml").write_text(JOB.format(top="", source="", target="").replace("erp", "two"))
    assert [item["job"] for item in answer_of(site("job", "apply", str(folder), "-o", "json"))["items"]] == [
        "erp",
        "two",
    ]


def test_a_target_that_is_no_longer_named_is_detached_and_comes_back(site: Call, tmp_path: Path) -> None:
    site("host", "add", "h2", "--kind", "fake", "--address", "h2", "--timeout", "0")
    both = '[[target]]\nhost = "h2"'
    site("job", "apply", job_file(tmp_path, target=both))
    site("job", "apply", job_file(tmp_path))
    states = {t["host"]: t["state"] for t in answer_of(site("job", "show", "erp", "-o", "json"))["targets"]}
    assert states == {"h1": "ok", "h2": "detached"}
    site("job", "apply", job_file(tmp_path, target=both))
    states = {t["host"]: t["state"] for t in answer_of(site("job", "show", "erp", "-o", "json"))["targets"]}
    assert states == {"h1": "ok", "h2": "ok"}


def test_status_names_the_jobs_that_are_not_ok_and_exits_with_1(site: Call, tmp_path: Path) -> None:
    assert site("status").exit_code == 0
    site("job", "apply", job_file(tmp_path))
    result = site("status")
    assert (result.exit_code, result.stdout) == (1, "erp: never, no boot point yet\n")
    assert json.loads(site("status", "-o", "json").stdout)["items"][0]["state"] == "never"


def test_a_job_is_disabled_and_enabled(site: Call, tmp_path: Path) -> None:
    site("job", "apply", job_file(tmp_path))
    assert answer_of(site("job", "disable", "erp", "-o", "json"))["state"] == "disabled"
    assert answer_of(site("job", "enable", "erp", "-o", "json"))["state"] == "never"


def test_delete_wants_the_name_typed_or_yes(site: Call, tmp_path: Path) -> None:
    site("job", "apply", job_file(tmp_path))
    assert site("job", "delete", "erp").exit_code == 2
    assert answer_of(site("job", "list", "-o", "json"))["items"]
    assert site("job", "delete", "erp", "--yes").exit_code == 0
    assert answer_of(site("job", "list", "-o", "json")) == {"items": []}
    assert site("host", "remove", "h1").exit_code == 0


def test_a_run_is_requested_once_and_cancelled(site: Call, tmp_path: Path) -> None:
    started = answer_of(site("job", "apply", job_file(tmp_path), "--run", "-o", "json"))["items"][0]["run"]
    second = site("job", "run", "erp", "-o", "json")
    assert (second.exit_code, error_of(second)["code"]) == (4, "already_running")
    assert site("job", "delete", "erp", "--yes").exit_code == 4
    assert answer_of(site("run", "cancel", str(started), "-o", "json"))["state"] == "cancelled"
    shown = answer_of(site("run", "show", str(started), "-o", "json"))
    assert (shown["state"], shown["reason"], shown["trigger"]) == ("cancelled", "cancelled", "manual")
    assert site("run", "watch", str(started)).exit_code == 130
    assert site("run", "cancel", str(started)).exit_code == 4
    kinds = [event["kind"] for event in answer_of(site("run", "log", str(started), "-o", "json"))["items"]]
    assert kinds[0] == "run_requested"
    assert "run_cancelled" in kinds


# --- the contract


@pytest.mark.parametrize(
    ("view", "keys"),
    [
        (
            "v_job",
            (
                "id name revision enabled state state_reason objective_seconds newest_point_age_seconds"
                " newest_bootable_point_age_seconds next_run_at next_run last_run running source targets"
                " unprotected_disks trend_changed_bytes spec"
            ),
        ),
        (
            "v_run",
            (
                "id job trigger requested_by state reason message hint retryable attempt due_at started_at ended_at"
                " plan consistency targets scripts"
            ),
        ),
        (
            "v_boot_point",
            (
                "job name host state chain depth instant committed_at run kind reason consistency changed_bytes"
                " wire_bytes stored_bytes read_digest applied_digest reread_digest verified_at damaged_at boot pinned"
                " in_use_by scanned_bytes"
            ),
        ),
    ],
)
def test_the_views_have_the_keys_of_the_contract(database: str, view: str, keys: str) -> None:
    with psycopg.connect(database) as connection:
        columns = connection.execute(f"SELECT * FROM {view} LIMIT 0").description
    assert [column.name for column in columns or ()] == keys.split()


def test_a_nodes_wrong_fingerprint_is_said_of_its_own_option(site: Call) -> None:
    said = error_of(site("host", "set", "hv1", "--node", "hv2=4F:0A", "-o", "json"))
    assert (said["code"], said["key"], said["value"]) == ("spec_invalid", "--node", "4F:0A")


#: A command that is interrupted while a library warns, as psycopg does of a transaction that is cut off.
INTERRUPTED = """
import logging, sys
import click
from bootpoint_ops.cli import main

@main.command()
@click.option("-o")
def interrupted(o):
    logging.getLogger("psycopg").warning("error ignored in rollback")
    raise KeyboardInterrupt

main(["interrupted", *sys.argv[1:]])
"""


@pytest.mark.parametrize("words", [["-o", "json"], []])
def test_what_a_library_logs_never_stands_beside_an_error(words: list[str], env: dict[str, str]) -> None:
    call = [sys.executable, "-c", INTERRUPTED, *words]
    done = subprocess.run(call, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stdout == ""
    if words:
        assert json.loads(done.stderr)["code"] == "cancelled"
    else:
        assert done.stderr.lstrip().startswith("error: interrupted (cancelled)\n")
        assert "rollback" not in done.stderr


def test_tables_fit_a_terminal_of_80_columns(site: Call, tmp_path: Path, env: dict[str, str]) -> None:
    site("job", "apply", job_file(tmp_path), "--run")
    program = str(Path(sys.executable).with_name("bootpoint"))
    for words in (
        ("job", "list"),
        ("job", "show", "erp"),
        ("host", "list"),
        ("agent", "list"),
        ("run", "list"),
        ("run", "show", "1"),
    ):
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with subprocess.Popen([program, *words], stdout=follower, env={**os.environ, **env, "TERM": "xterm"}) as child:
            os.close(follower)
            written = b""
            with contextlib.suppress(OSError):  # how Linux says that the other end is closed
                while part := os.read(leader, 65536):
                    written += part
            os.close(leader)
        assert child.returncode == 0
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
        assert "\x1b[" in written.decode()
        assert "erp" in text or "h1" in text or "src" in text
        assert max(map(len, text.splitlines())) <= 80, text


def test_every_command_takes_the_output_option() -> None:
    def walk(command: Any, path: tuple[str, ...]) -> list[str]:
        if hasattr(command, "commands"):
            return [line for name, child in command.commands.items() for line in walk(child, (*path, name))]
        return [] if any("-o" in option.opts for option in command.params) else [" ".join(path)]

    # These run until they are ended, and print what they do.
    assert sorted(walk(main, ())) == ["demo", "exporter", "scheduler", "up", "worker"]
