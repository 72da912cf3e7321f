"""`bootpoint up` as a user has it: one process, commands beside it, a host of the fake kind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bootpoint_ops.embedded import running_url
from tests.service.component import need
from tests.service.process import wait_for

BOOTPOINT = str(Path(sys.executable).with_name("bootpoint"))

JOB = """
name = "one"
[source]
agent = "src"
disks = [{{ slot = "system", id = "file:{disk}" }}]
[check]
boot = "never"
[[target]]
host = "fk"
"""

MIB = 1 << 20


class Up:
    """A running `bootpoint up` and commands beside it, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "disk.raw"
        self.log = folder / "up.log"
        self.state = folder / "state"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BOOTPOINT_")},
            "BOOTPOINT_STATE": str(self.state),
            "BOOTPOINT_METRICS": "off",
        }
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def child(self) -> subprocess.Popen[bytes]:
        assert self._child is not None
        return self._child

    def start(self) -> None:
        command = [
            BOOTPOINT,
            "up",
            "--agent",
            "src",
            "--file",
            str(self.disk),
            "--agent-config",
            str(self.folder / "none"),
        ]
        said = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: self._said(said), "bootpoint up")

    def _said(self, after: int) -> bool:
        text = self.log.read_bytes()[after:].decode()
        assert self.child.poll() is None, text
        return "bootpoint is up" in text

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        code = self.child.wait(90)
        self._child = None
        return code

    def close(self) -> None:
        if self._child is not None:
            self.end(signal.SIGKILL)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BOOTPOINT, *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def json(self, *words: str) -> dict[str, Any]:
        done = self.call(*words, "-o", "json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def postgres(self) -> int | None:
        """The pid of its database server, if that lives."""
        try:
            pid = int((self.state / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return None
        return pid


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    need("pgserver")
    made = Up(tmp_path)
    with made.disk.open("wb") as disk:
        disk.truncate(16 * MIB)
        disk.write(os.urandom(2 * MIB))
    made.start()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def job(up: Up) -> Up:
    up.json("host", "add", "fk", "--kind", "fake", "--address", "fk")
    file = up.folder / "one.toml"
    file.write_text(JOB.format(disk=up.disk))
    up.json("job", "apply", str(file))
    return up


def change(up: Up, offset: int) -> None:
    with up.disk.open("r+b") as disk:
        disk.seek(offset)
        disk.write(os.urandom(4096))


def test_the_way_of_a_first_user(job: Up) -> None:
    up = job
    disks = up.json("disk", "list", "src")
    found = next(item for item in disks["items"] if item["id"] == f"file:{up.disk}")
    assert (found["size_bytes"], found["eligible"], found["protected_by"]) == (16 * MIB, True, ["one"])

    planned = up.json("job", "apply", str(up.folder / "one.toml"), "--dry-run")["items"][0]
    assert planned["result"] == "unchanged"
    assert (planned["preflight"][0]["plan"]["kind"], planned["preflight"][0]["error"]) == ("full", None)

    done = up.call("job", "run", "one", "--wait")
    assert done.returncode == 0, done.stderr
    assert re.search(r"run 1 of one succeeded after .*: V\d{8}_\d{6} on fk; read 2.0 MiB, changed 2.0 MiB", done.stdout)
    change(up, MIB)
    second = up.json("job", "run", "one", "--wait")
    assert (second["state"], second["plan"]["kind"]) == ("succeeded", "increment")
    assert second["targets"][0]["disks"][0]["changed_bytes"] == 64 << 10

    points = up.json("point", "list", "one")["items"]
    assert [(item["kind"], item["reason"], item["depth"], item["run"]) for item in points] == [
        ("increment", None, 2, 2),
        ("full", "first", 1, 1),
    ]
    verified = up.json("point", "verify", "one", points[0]["name"])
    assert verified["reread_digest"] == verified["read_digest"] == points[0]["read_digest"]
    assert verified["verified_at"] is not None

    (rescanned,) = up.json("host", "rescan", "fk")["items"]
    found = [rescanned[key] for key in ("job", "state", "points_both", "adopt")]
    assert found == ["one", "ok", 2, None]

    assert [machine["name"] for machine in up.json("vm", "list", "fk")["items"]] == ["one-standby"]
    assert [item["name"] for item in up.json("vm", "points", "fk", "one-standby")["items"]] == [
        item["name"] for item in points[::-1]
    ]
    refused = up.call("vm", "start", "fk", "one-standby")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    light = up.call("vm", "start", "fk", "one-standby", "--test", "t1", "--yes", "--conversion", "light")
    assert light.returncode == 1
    assert "conversion_failed" in light.stderr
    started = up.json("vm", "start", "fk", "one-standby", points[1]["name"], "--test", "t1", "--yes")
    assert started["state"] == "running"
    assert started["profile"] == up.json("point", "show", "one", "latest")["profile"]
    assert not started["profile"]["problems"][0]["bootable"]
    # The agent within `up` answers the machine's own commands.
    event = [str(Path(BOOTPOINT).with_name("bootpoint-agent")), "event", "restart", "--state", str(up.state / "agent")]
    said = subprocess.run(event, env=up.env, capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stdout) == (0, "no job of this machine wants a run at its restart\n")
    # Before it: the disks of the test's machine, which no job protects.
    assert up.call("status").stdout.endswith("1 job, all ok\n")

    used = up.call("job", "delete", "one", "--delete-replica", "--yes", "-o", "json")
    assert (used.returncode, json.loads(used.stderr)["code"]) == (4, "point_in_use")
    up.json("vm", "stop", "fk", "one-standby", "--test", "t1", "--yes")
    assert delete_with_replica(up)["left"] == []
    assert up.json("vm", "list", "fk") == {"items": []}
    (item,) = up.json("replica", "list")["items"]
    assert (item["job"], item["state"], item["points"], item["purge_at"] is None) == ("one", "trash", 2, False)

    # It comes back: the job's file, and what the host has.
    up.json("job", "apply", str(up.folder / "one.toml"))
    (taken,) = up.json("host", "rescan", "fk", "--adopt")["items"]
    assert (taken["state"], len(taken["adopted"]["points"]), taken["adopted"]["error"]) == ("trash", 2, None)
    back = up.json("point", "list", "one")["items"]
    assert [(each["name"], each["read_digest"]) for each in back] == [(p["name"], p["read_digest"]) for p in points]
    change(up, 3 * MIB)
    assert up.json("job", "run", "one", "--wait")["plan"]["kind"] == "increment"

    delete_with_replica(up)
    refused = up.call("host", "remove", "fk")
    assert (refused.returncode, "one (trash)" in refused.stderr) == (4, True)
    assert up.call("replica", "forget", "one", "fk", "--yes").returncode == 0
    assert up.json("replica", "list") == {"items": []}
    assert up.call("host", "remove", "fk").returncode == 0


def delete_with_replica(up: Up) -> dict[str, Any]:
    deleted = up.json("job", "delete", "one", "--delete-replica", "--yes")
    assert [(each["host"], each["state"], each["problem"]) for each in deleted["trash"]] == [("fk", "resting", None)]
    return deleted


def test_a_run_that_fails_exits_with_1_and_says_why_on_stderr(job: Up) -> None:
    with job.disk.open("r+b"):  # somebody writes to the disk: the snapshot reaches only crash
        done = job.call("job", "run", "one", "--wait", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["code"] == "consistency_too_low"
    assert json.loads(done.stdout)["state"] == "failed"
    assert job.call("status").returncode == 1


def test_what_the_preflight_finds_costs_the_source_nothing(job: Up) -> None:
    file = job.folder / "two.toml"
    file.write_text(JOB.format(disk=job.disk).replace('"one"', '"two"') + '[[target.nic]]\nnetwork = "nowhere"\n')
    dry = job.call("job", "apply", str(file), "--dry-run", "-o", "json")
    found = json.loads(dry.stderr)
    assert (dry.returncode, found["code"], found["key"]) == (1, "network_unknown", "target[0].nic[0].network")
    assert job.call("job", "apply", str(file)).returncode == 1
    # What the host had when it was asked last, it need not have any more.
    with psycopg.connect(running_url(job.state) or "") as connection:
        connection.execute("UPDATE host SET info = NULL")
    job.json("job", "apply", str(file))
    failed = job.call("job", "run", "two", "--wait", "-o", "json")
    assert failed.stdout, failed.stderr
    assert (failed.returncode, json.loads(failed.stdout)["reason"]) == (1, "network_unknown")
    assert json.loads(failed.stdout)["started_at"] is None


def test_job_init_writes_a_file_that_apply_takes(up: Up) -> None:
    up.json("host", "add", "fk", "--kind", "fake", "--address", "fk")
    written = up.call("job", "init", "src", "--host", "fk")
    assert written.returncode == 0, written.stderr
    assert f"file:{up.disk}" in written.stdout
    (up.folder / "src.toml").write_text(written.stdout)
    assert up.json("job", "apply", str(up.folder / "src.toml"))["items"][0]["result"] == "created"


def test_a_test_boot_and_a_boot_check(job: Up) -> None:
    job.json("job", "run", "one", "--wait")
    assert job.json("switch", "list") == {"items": []}
    started = job.json("switch", "test", "one", "--for", "2h", "--wait")
    assert (started["state"], started["kind"], started["host"], started["problem"]) == ("running", "test", "fk", None)
    assert started["vm"].startswith(f"one-standby-test-{started['id']}-")
    assert started["vm"] in {vm["name"] for vm in job.json("vm", "list", "fk")["items"]}
    used = job.json("point", "show", "one", "latest")["in_use_by"]
    assert [use["kind"] for use in used] == ["test"]
    listed = job.call("switch", "list").stdout
    assert started["vm"] in listed
    ended = job.json("switch", "stop", str(started["id"]), "--wait")
    assert ended["state"] == "ended"
    assert started["vm"] not in {vm["name"] for vm in job.json("vm", "list", "fk")["items"]}
    assert job.json("switch", "list") == {"items": []}
    assert [item["id"] for item in job.json("switch", "list", "--all")["items"]] == [started["id"]]

    checked = job.json("point", "check", "one", "latest")
    assert checked["boot"]["verdict"] == "boots"
    assert set(checked["boot"]) == {"verdict", "at", "duration_seconds", "screenshot", "reason"}
    assert job.json("point", "list", "one")["items"][0]["boot"] == checked["boot"]
    assert "boots, seen after" in job.call("point", "check", "one", "latest").stdout
    # The fake host has no screens.
    shot = job.call("point", "show", "one", "latest", "--screenshot", str(job.folder / "shot.png"), "-o", "json")
    assert (shot.returncode, json.loads(shot.stderr)["code"]) == (3, "no_such_point")

    for words, code in (
        (("switch", "stop", "99"), 3),
        (("switch", "test", "one", "--for", "soon"), 2),
        (("point", "check", "one", "V1"), 3),
    ):
        assert job.call(*words).returncode == code, words


def test_one_up_a_state_directory_and_its_end_is_clean(job: Up) -> None:
    second = job.call("up")
    assert second.returncode == 1
    assert "runs already" in second.stderr
    job.json("job", "run", "one", "--wait")
    assert job.postgres() is not None
    assert job.end(signal.SIGTERM) == 0
    assert job.postgres() is None
    gone = job.call("job", "list", "-o", "json")
    assert (gone.returncode, json.loads(gone.stderr)["code"]) == (1, "no_scheduler")

    job.start()
    assert job.json("job", "show", "one")["targets"][0]["points"] == 1
    agent = job.json("agent", "show", "src")
    assert (agent["state"], agent["jobs"]) == ("online", ["one"])


def test_up_starts_again_after_it_was_killed(job: Up) -> None:
    job.end(signal.SIGKILL)
    job.start()
    assert job.json("job", "list")["items"][0]["name"] == "one"


def test_secrets_lie_in_files_of_their_owner_alone(up: Up) -> None:
    for name in ("installation.key", "postgres/password", "postgres/url", "agent/identity.json"):
        assert (up.state / name).stat().st_mode & 0o077 == 0, name
