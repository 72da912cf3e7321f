"""Job files as one change: all or nothing, what is named must be there, and the history says who changed what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.service.commandline import JOB, Call, answer_of, error_of, job_file

SCHEDULE = '[[schedule]]\nweekly = ["mon"]'

DISK = {"path": "/dev/sda", "size_bytes": 1 << 30, "eligible": True, "reason": None, "partitions": []}
INVENTORY = {
    "machine": {
        "cpus": 2,
        "memory_bytes": 1 << 31,
        "firmware": "bios",
        "nics": [{"name": "e", "mac": "52:54:00:0:0:1"}],
    },
    "items": [
        {**DISK, "id": "serial:S3Z8NB0K"},
        {**DISK, "id": "serial:S3Z8NB0L", "path": "/dev/sdb", "eligible": False, "reason": "ldm"},
    ],
}
INFO = {
    "storages": [{"name": "default", "path": "/s", "size_bytes": 2, "free_bytes": 1}],
    "networks": [{"name": "br-dr", "kind": "bridge"}, {"name": "nat", "kind": "nat"}],
    "buses": ["virtio", "scsi"],
    "nic_models": ["virtio", "e1000e"],
    "resource_pools": ["standbys"],
}

Say = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def sql(database: str) -> Say:
    """Ask the database itself."""

    def ask(query: str, *arguments: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(database) as connection:
            done = connection.execute(query, arguments)
            return done.fetchall() if done.description else []

    return ask


@pytest.fixture
def known(site: Call, sql: Say) -> Call:
    """The agent has told its disks, and the host what it has."""
    sql("UPDATE agent SET inventory = %s, inventory_at = now()", Jsonb(INVENTORY))
    sql("UPDATE host SET info = %s", Jsonb(INFO))
    return site


def folder_of(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "jobs"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


def job(name: str, *, host: str = "h1", more: str = "") -> str:
    return JOB.format(top="", source="", target=more).replace('"erp"', f'"{name}"').replace('"h1"', f'"{host}"')


# --- all or none


def test_all_errors_of_all_files_are_said_and_nothing_is_applied(site: Call, tmp_path: Path, sql: Say) -> None:
    folder = folder_of(
        tmp_path,
        a=job("one"),
        b=job("two", host="h11"),
        c=job("three", more="points = 99\nfrobs = 1"),
        d=job("four").replace('"src"', '"srcc"'),
        e="no = toml = here",
        f=job("one"),
    )
    result = site("job", "apply", str(folder), "-o", "json")
    found = error_of(result)
    assert (result.exit_code, found["code"]) == (2, "spec_invalid")
    for said in (
        "b.toml: there is no host h11; did you mean 'h1'?",
        "c.toml: target[0].points",
        "c.toml: target[0].frobs",
        "d.toml: there is no agent srcc; did you mean 'src'?",
        "e.toml: is no TOML",
        "f.toml: name: job 'one' stands in",
    ):
        assert said in found["message"], said
    assert sql("SELECT 1 FROM job") == []
    assert sql("SELECT 1 FROM event WHERE starts_with(kind, 'job_')") == []


def test_the_first_file_is_not_applied_when_the_second_is_wrong(site: Call, tmp_path: Path, sql: Say) -> None:
    folder = folder_of(tmp_path, a=job("one"), b=job("two", host="nowhere"))
    assert site("job", "apply", str(folder)).exit_code == 3
    assert sql("SELECT 1 FROM job") == []
    assert sql("SELECT 1 FROM event WHERE kind = 'job_created'") == []


def test_jobs_without_a_file_are_listed_and_stay(site: Call, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a=job("one"), b=job("two"))
    first = answer_of(site("job", "apply", str(folder), "-o", "json"))
    assert ([item["job"] for item in first["items"]], first["without_file"]) == (["one", "two"], [])
    (folder / "b.toml").unlink()
    assert answer_of(site("job", "apply", str(folder), "-o", "json"))["without_file"] == ["two"]
    assert "job two has no file here, and stays as it is" in site("job", "apply", str(folder)).stdout
    # Of single files nothing follows for the others.
    assert answer_of(site("job", "apply", str(folder / "a.toml"), "-o", "json"))["without_file"] == []
    assert [item["name"] for item in answer_of(site("job", "list", "-o", "json"))["items"]] == ["one", "two"]


def test_what_is_no_job_file_is_an_error_of_its_own(site: Call, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no *.toml" in error_of(site("job", "apply", str(empty), "-o", "json"))["message"]
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "can't be read" in error_of(site("job", "apply", str(tmp_path / "binary.toml"), "-o", "json"))["message"]
    both = site("job", "apply", job_file(tmp_path), "--dry-run", "--run", "-o", "json")
    assert both.exit_code == 2


def test_a_run_that_is_under_way_does_not_take_the_files_back(site: Call, tmp_path: Path, sql: Say) -> None:
    file = job_file(tmp_path)
    assert site("job", "apply", file, "--run").exit_code == 0
    again = site("job", "apply", job_file(tmp_path, target="points = 5"), "--run", "-o", "json")
    assert (again.exit_code, error_of(again)["code"]) == (4, "already_running")
    assert json.loads(again.stdout)["items"][0]["result"] == "changed"
    assert sql("SELECT revision FROM job") == [(2,)]


def test_a_schedule_that_is_over_is_a_warning(site: Call, tmp_path: Path) -> None:
    over = "[[schedule]]\nonce = 2020-01-01T00:00:00\n" + SCHEDULE
    over += "\neffective = [2020-01-01T00:00:00, 2021-01-01T00:00:00]"
    result = site("job", "apply", job_file(tmp_path, top='time_zone = "Europe/Rome"', target=over))
    assert result.exit_code == 0
    assert "warning: job erp: schedule[0].once = 2020-01-01T00:00:00 is over" in result.stderr
    assert "schedule[1].effective ended at 2021-01-01T00:00:00" in result.stderr


# --- what a job names


@pytest.mark.parametrize(
    ("edit", "code", "key", "near"),
    [
        (
            {"source": 'disks = [{ slot = "s", id = "serial:S3Z8NBOK" }]'},
            "disk_missing",
            "source.disks[0].id",
            "S3Z8NB0K",
        ),
        (
            {"source": 'disks = [{ slot = "s", id = "serial:S3Z8NB0L" }]'},
            "source_ineligible",
            "source.disks[0].id",
            "ldm",
        ),
        ({"target": 'storage = { name = "defualt" }'}, "storage_unknown", "target[0].storage.name", "'default'"),
        ({"target": 'storage = { bus = "ide" }'}, "host_unsupported", "target[0].storage.bus", "virtio"),
        (
            {"target": 'storage = { resource_pool = "standby" }'},
            "host_unsupported",
            "target[0].storage.resource_pool",
            "'standbys'",
        ),
        ({"target": '[[target.nic]]\nnetwork = "br-d"'}, "network_unknown", "target[0].nic[0].network", "'br-dr'"),
        ({"target": '[[target.nic]]\nmodel = "virtio"'}, "network_unknown", "target[0].nic[0].network", "br-dr, nat"),
        ({}, "network_unknown", "target[0].nic", "br-dr, nat"),
        (
            {"target": '[[target.nic]]\nnetwork = "nat"\nmodel = "e1000"'},
            "host_unsupported",
            "target[0].nic[0].model",
            "'e1000e'",
        ),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    known: Call, tmp_path: Path, *, edit: dict[str, str], code: str, key: str, near: str
) -> None:
    result = known("job", "apply", job_file(tmp_path, **edit), "-o", "json")
    found = error_of(result)
    assert (found["code"], found["key"]) == (code, key), found
    assert near in f"{found['message']} {found['hint']}"
    assert answer_of(known("job", "list", "-o", "json")) == {"items": []}


def test_what_a_job_had_before_is_not_looked_at_again(known: Call, tmp_path: Path, sql: Say) -> None:
    source = 'disks = [{ slot = "s", id = "serial:S3Z8NB0K" }]'
    nic = '[[target.nic]]\nnetwork = "nat"'
    answer_of(known("job", "apply", job_file(tmp_path, source=source, target=nic), "-o", "json"))
    sql("UPDATE agent SET inventory = %s", Jsonb({**INVENTORY, "items": []}))
    sql("UPDATE host SET info = %s", Jsonb({**INFO, "networks": [{"name": "other", "kind": "nat"}], "storages": []}))
    file = job_file(tmp_path, source=source, target=f"points = 5\n{nic}")
    assert answer_of(known("job", "apply", file, "-o", "json"))["items"][0]["result"] == "changed"
    assert known("job", "disable", "erp").exit_code == 0


# --- credentials


@pytest.fixture
def remote(site: Call, tmp_path: Path) -> Call:
    """Another host, `kvm1`, that nobody can log in to."""
    words = ("--kind", "kvm", "--address", "192.0.2.1", "--fingerprint", "SHA256:x", "--timeout", "0")
    assert site("host", "add", "kvm1", *words).exit_code == 0
    (tmp_path / "pw").write_text("secret")
    return site


@pytest.mark.parametrize("itself", [SCHEDULE, "[run]\non_restart = true", "[run]\non_shutdown = { enabled = true }"])
def test_what_runs_by_itself_needs_saved_credentials(remote: Call, tmp_path: Path, *, itself: str) -> None:
    text = 'time_zone = "UTC"\n' + job("night", host="kvm1", more=itself)
    folder = folder_of(tmp_path, a=text)
    result = remote("job", "apply", str(folder), "-o", "json")
    found = error_of(result)
    assert (result.exit_code, found["code"], found["key"]) == (4, "credentials_not_saved", "target[0].host")
    assert "host set" in found["hint"]
    # By hand it may run: then somebody is there to give them.
    folder_of(tmp_path, a=job("night", host="kvm1"))
    assert remote("job", "apply", str(folder)).exit_code == 0
    folder_of(tmp_path, a="enabled = false\n" + text)
    assert remote("job", "apply", str(folder)).exit_code == 0
    assert error_of(remote("job", "enable", "night", "-o", "json"))["code"] == "credentials_not_saved"

    assert remote("host", "set", "kvm1", "--password-file", str(tmp_path / "pw")).exit_code == 0
    assert remote("job", "enable", "night").exit_code == 0


def test_credentials_that_a_schedule_needs_are_not_forgotten(remote: Call, tmp_path: Path) -> None:
    assert remote("host", "set", "kvm1", "--password-file", str(tmp_path / "pw")).exit_code == 0
    folder = folder_of(tmp_path, a='time_zone = "UTC"\n' + job("night", host="kvm1", more=SCHEDULE))
    assert remote("job", "apply", str(folder)).exit_code == 0
    result = remote("host", "set", "kvm1", "--forget-credentials", "-o", "json")
    found = error_of(result)
    assert (result.exit_code, found["code"], "night" in found["message"]) == (4, "credentials_not_saved", True)
    assert answer_of(remote("host", "list", "-o", "json"))["items"][1]["credentials"] == "saved"
    assert remote("job", "disable", "night").exit_code == 0
    assert remote("host", "set", "kvm1", "--forget-credentials").exit_code == 0


# --- secrets, and the history


def test_a_secret_reaches_neither_the_terminal_nor_the_database(site: Call, tmp_path: Path, database: str) -> None:
    file = job_file(tmp_path, target='[scripts]\nafter_point = { run = ["/bin/x", "--password=hunter2"] }')
    result = site("job", "apply", file, "-o", "json")
    found = error_of(result)
    assert (result.exit_code, found["code"], found["key"]) == (2, "secret_in_spec", "scripts.after_point.run[1]")
    with psycopg.connect(database) as connection:
        found_tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        tables = [name for (name,) in found_tables if name != "agent"]
        dump = "".join(str(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables)
    assert "hunter2" not in f"{dump}{result.output}{result.stderr}"


def test_every_change_of_a_job_has_its_event_with_who_made_it(site: Call, tmp_path: Path, sql: Say) -> None:
    site("job", "apply", job_file(tmp_path))
    site("job", "apply", job_file(tmp_path, target="points = 5"))
    site("job", "apply", job_file(tmp_path, target='storage = { name = "other" }'))
    site("job", "disable", "erp")
    site("job", "enable", "erp")
    site("job", "delete", "erp", "--yes")
    events = sql("SELECT kind, job, actor FROM event WHERE starts_with(kind, 'job_') ORDER BY id")
    assert [(kind, about) for kind, about, _ in events] == [
        ("job_created", "erp"),
        ("job_changed", "erp"),
        ("job_disabled", "erp"),
        ("job_enabled", "erp"),
        ("job_deleted", "erp"),
    ]
    assert all("@" in actor for *_, actor in events)


def test_force_cancels_the_run_and_deletes_the_job(site: Call, tmp_path: Path) -> None:
    site("job", "apply", job_file(tmp_path), "--run")
    assert error_of(site("job", "delete", "erp", "--yes", "-o", "json"))["code"] == "already_running"
    assert answer_of(site("job", "delete", "erp", "--yes", "--force", "-o", "json")) == {
        "job": "erp", "trash": [], "left": [],
    }  # fmt: skip
    assert answer_of(site("run", "show", "1", "-o", "json"))["state"] == "cancelled"
