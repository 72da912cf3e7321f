"""Scripts of a job around a snapshot that really freezes: what is frozen is thawed, what is paused goes on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.store import ending
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Row
from bootpoint_common.units import MiB
from bootpoint_ops import read
from bootpoint_producer import run as agent_run
from bootpoint_producer.stage import Owed, OwedScripts
from bootpoint_producer.trackers.keeper import Cut
from bootpoint_worker import reaper
from bootpoint_worker.targets.fake_host import FakeHost
from tests.integration.source.loop import run as shell
from tests.integration.source.loop import thaw, unmount
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.postgres import PostgresServer
from tests.service.process import wait_for

#: Seconds within which a run has let go of everything after its cancel.
SOON = 5.0


@dataclass
class Here:
    """An installation whose agent protects a mounted file on storage that shares blocks: a snapshot freezes it.

    Attributes:
        fleet: The installation.
        disk: The file.
        point: Where the file system on the disk is mounted.
        notes: Directory where scripts leave what they did.
        host: Address of the target host.
        jobs: How many jobs were made.
    """

    fleet: Fleet
    disk: Path
    point: Path
    notes: Path
    host: str
    host_id: UUID
    jobs: int = 0

    def script(self, text: str, **more: Any) -> dict[str, Any]:
        return {"run": ["/bin/sh", "-c", text], **more}

    def job(self, *, limits: dict[str, Any] | None = None, **scripts: dict[str, Any]) -> int:
        self.jobs += 1
        name, disks = f"erp-{self.jobs}", {"system": self.disk}
        return self.fleet.add_job(
            name, "erp", disks, self.host_id, consistency="fs", scripts=scripts, limits=limits
        )

    def noted(self, name: str) -> str | None:
        file = self.notes / name
        return file.read_text() if file.exists() else None

    def scripts(self, begun: runs.Run) -> dict[str, Any]:
        """Return what the run's log has of its scripts, by stage."""
        row = self.fleet.row("SELECT scripts FROM run WHERE uid = %s", begun.uid)
        assert row is not None
        return {script["stage"]: script for script in row["scripts"]}

    def cancel(self, begun: runs.Run) -> None:
        with self.fleet.database.transaction() as connection:
            ending.cancel(connection, begun.id, actor="ops@desk", origin="run cancel")

    def release(self) -> None:
        """Wait until the agent has nothing of a run in hand."""
        wait_for(lambda: not self.fleet.agents["erp"]._runs, "the agent to be idle", 30.0)

    def snapshots(self) -> int:
        """Return how many nameless copies of the disk this process holds."""
        found = 0
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                found += target.startswith(str(self.disk.parent)) and target.endswith("(deleted)")
        return found

    def writable(self) -> bool:
        """Tell whether a write to the file system gets through."""
        writer = threading.Thread(target=(self.point / "written").write_bytes, args=(b"x",), daemon=True)
        writer.start()
        writer.join(SOON)
        return not writer.is_alive()


@pytest.fixture(scope="module")
def here(
    postgres_server: PostgresServer, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Here]:
    need("root", "loop", "xfs")
    directory = tmp_path_factory.mktemp("scripting")
    name = postgres_server.create_database(template_database)
    with contextlib.ExitStack() as undo:
        undo.callback(postgres_server.drop_database, name)
        store, point = directory / "store", directory / "mounted"
        for image, size, fs, at in (
            (directory / "store.img", "400M", "xfs", store),
            (store / "disk.img", "48M", "ext4", point),
        ):
            shell("truncate", "--size", size, image)
            shell(f"mkfs.{fs}", "-q", image)
            at.mkdir()
            shell("mount", "-o", "loop", image, at)
            undo.callback(unmount, at)
            undo.callback(thaw, at)
        (directory / "notes").mkdir()
        made = undo.enter_context(fleet(postgres_server.url(name), directory))
        made.add_worker("w1")
        host = f"fake-{directory.name}"
        host_id = made.add_host(host)
        made.add_agent("erp", [store / "disk.img"])
        yield Here(made, store / "disk.img", point, directory / "notes", host, host_id)


def pausing(here: Here, tail: str = "") -> dict[str, dict[str, Any]]:
    """Scripts that pause and resume a database on the disk: a state in a file, written through to it."""
    state = here.point / "state"
    return {
        "before_snapshot": here.script(f"echo paused > {state}; {tail}"),
        "after_snapshot": here.script(f"sync {state}; echo resumed by $BOOTPOINT_RUN > {state}"),
    }


# --- around the snapshot


def test_a_hanging_script_after_the_snapshot_finds_everything_thawed(here: Here) -> None:
    hanging = here.script(f"touch {here.notes}/hangs; sleep 300", timeout="2s")
    job = here.job(**{**pausing(here), "after_snapshot": hanging})
    run = here.fleet.run(job)
    wait_for((here.notes / "hangs").exists, "the script")
    assert here.writable()
    row = here.fleet.wait(run)
    assert (row["snapshot"], row["consistency"]) == ("fsfreeze", "fs")
    told = here.scripts(run)
    assert told["before_snapshot"]["exit_code"] == 0
    assert told["after_snapshot"]["exit_code"] is None
    assert 2.0 <= told["after_snapshot"]["duration_seconds"] < 10.0, "its own time limit, not the default's"
    event = here.fleet.row("SELECT * FROM event WHERE kind = 'script_failed' AND run = %s", run.id)
    assert event is not None
    assert event["details"]["stage"] == "after_snapshot"
    here.release()


def test_what_a_failing_script_paused_goes_on_and_the_source_is_left_alone(here: Here) -> None:
    job = here.job(**pausing(here, "echo no more connections >&2; exit 3"))
    run = here.fleet.run(job)
    row = here.fleet.wait(run, state="failed")
    assert row["reason"] == "script_failed"
    assert "exit code 3: no more connections" in row["message"]
    here.release()
    assert (here.point / "state").read_text() == f"resumed by {run.id}\n"
    told = here.scripts(run)
    assert told["before_snapshot"]["output"] == "no more connections\n"
    assert told["after_snapshot"]["exit_code"] == 0
    assert here.fleet.row("SELECT 1 FROM boot_point WHERE run_uid = %s", run.uid) is None


def test_what_is_paused_goes_on_where_there_is_no_snapshot(here: Here) -> None:
    job = here.job(
        before_snapshot=here.script("true"), after_snapshot=here.script(f"touch {here.notes}/resumed", abort=True)
    )
    shell("fsfreeze", "--freeze", here.point)
    try:
        run = here.fleet.run(job)
        row = here.fleet.wait(run, state="failed")
    finally:
        shell("fsfreeze", "--unfreeze", here.point)
    assert row["reason"] == "snapshot_failed"
    assert here.noted("resumed") == ""
    here.release()
    assert here.snapshots() == 0
    assert OwedScripts(here.fleet.directory / "agent-erp").all() == []


def test_what_is_paused_goes_on_though_the_snapshot_can_not_be_given_back(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(_run: agent_run.Run) -> None:
        raise OSError("the device is busy")

    monkeypatch.setattr(agent_run.Run, "_let_go", stuck)
    run = here.fleet.run(here.job(**pausing(here, "exit 3")))
    here.fleet.wait(run, state="failed")
    here.release()
    assert (here.point / "state").read_text() == f"resumed by {run.id}\n"


def test_an_agent_that_died_runs_what_it_owes_at_its_next_start(here: Here) -> None:
    job = here.job(
        before_snapshot=here.script(f"touch {here.notes}/paused; sleep 300"),
        after_snapshot=here.script(f"echo $BOOTPOINT_JOB $BOOTPOINT_RUN $BOOTPOINT_STAGE > {here.notes}/paid"),
    )
    run = here.fleet.run(job)
    wait_for((here.notes / "paused").exists, "the script before the snapshot")
    owed = OwedScripts(here.fleet.directory / "agent-erp").all()
    assert [each.run for each in owed] == [run.uid]
    here.cancel(run)
    here.release()
    assert here.noted("paid") == f"erp-{here.jobs} {run.id} after_snapshot\n"
    assert OwedScripts(here.fleet.directory / "agent-erp").all() == []

    # As a kill in its midst leaves it.
    (here.notes / "paid").unlink()
    here.fleet.agents["erp"].stop()
    OwedScripts(here.fleet.directory / "agent-erp").keep(owed[0])
    unreadable = Owed(run=UUID(int=0), number=0, job="old", pool="fake", scripts={"after_snapshot": {"run": 5}})
    OwedScripts(here.fleet.directory / "agent-erp").keep(unreadable)
    here.fleet.start_agent("erp", [here.disk])
    wait_for(lambda: here.noted("paid"), "the script that is owed")
    left = [unreadable]
    wait_for(lambda: OwedScripts(here.fleet.directory / "agent-erp").all() == left, "the debt to be forgotten")
    OwedScripts(here.fleet.directory / "agent-erp").drop(unreadable.run)


# --- after the point


def test_a_script_after_the_point_decides_how_the_run_ends_if_the_job_says_so(here: Here) -> None:
    go, told = here.notes / "go", here.notes / "told"
    text = f"echo $BOOTPOINT_POINT $BOOTPOINT_CONSISTENCY > {told}; until [ -e {go} ]; do sleep 0.05; done; exit 4"
    job = here.job(after_point=here.script(text, abort=True))
    run = here.fleet.run(job)
    wait_for(lambda: here.noted("told"), "the script after the point")
    (point,) = here.fleet.points(job)
    assert told.read_text() == f"{point.name} fs\n"
    row = here.fleet.row("SELECT state FROM run WHERE uid = %s", run.uid)
    assert row == {"state": "running"}
    with here.fleet.database.transaction() as connection:
        assert read.run_line(connection, run.id) == "the script after_point"
    with pytest.raises(BootpointError) as refused:
        here.cancel(run)
    assert refused.value.code is Code.TOO_LATE
    go.touch()
    row = here.fleet.wait(run, state="failed")
    assert row["reason"] == "script_failed"
    assert here.scripts(run)["after_point"]["exit_code"] == 4
    assert here.fleet.points(job) == [point], "the point stays"
    here.release()
    second = here.fleet.run(job)
    here.fleet.wait(second, state="failed")
    assert here.fleet.points(job)[1].kind == "increment"
    here.release()


def test_without_abort_the_failure_is_noted_only_and_a_lost_report_comes_again(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_run, "OFFER_SECONDS", 0.5)
    link = here.fleet.agents["erp"]._link
    send, lost = link.send, list[message.FromAgent]()

    def lossy(body: message.FromAgent, *, pool: str | None = None) -> bool:
        if isinstance(body, message.Report) and not lost:
            lost.append(body)
            return True
        return send(body, pool=pool)

    monkeypatch.setattr(link, "send", lossy)
    job = here.job(after_point=here.script("echo nobody answers; exit 1"))
    run = here.fleet.run(job)
    here.fleet.wait(run)
    here.release()
    assert lost
    assert here.scripts(run)["after_point"]["output"] == "nobody answers\n"
    events = here.fleet.rows("SELECT code FROM event WHERE kind = 'script_failed' AND run = %s", run.id)
    assert events == [{"code": "script_failed"}]


def test_a_run_whose_agent_dies_after_the_point_ends_all_the_same(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "RESEND_SECONDS", 1.0)
    job = here.job(after_point=here.script(f"touch {here.notes}/last; sleep 300", abort=True))
    run = here.fleet.run(job)
    wait_for((here.notes / "last").exists, "the script after the point")
    # Its last words don't get through.
    monkeypatch.setattr(here.fleet.agents["erp"]._link, "send", lambda *_args, **_more: False)
    here.fleet.agents["erp"].stop()
    here.fleet.start_agent("erp", [here.disk])
    row = here.fleet.wait(run, state="failed")
    assert row["reason"] == "agent_restarted"
    assert "after_point" in row["message"]
    assert len(here.fleet.points(job)) == 1


# --- cancelled meanwhile


def cancelled(here: Here, run: runs.Run) -> Row:
    """Cancel a run, and require that nothing of it is left soon."""
    here.cancel(run)
    row = here.fleet.wait(run, state="cancelled", seconds=SOON)
    wait_for(lambda: here.snapshots() == 0, "the snapshot to be gone", SOON)
    assert here.writable()
    return row


def test_a_cancel_ends_the_script_before_the_snapshot_and_what_it_paused_goes_on(here: Here) -> None:
    (here.notes / "began").unlink(missing_ok=True)
    job = here.job(**pausing(here, f"touch {here.notes}/began; sleep 300"))
    run = here.fleet.run(job)
    wait_for((here.notes / "began").exists, "the script")
    row = cancelled(here, run)
    assert row["reason"] == "cancelled"
    wait_for(lambda: not here.fleet.agents["erp"]._runs, "the agent to be idle", SOON)
    assert (here.point / "state").read_text() == f"resumed by {run.id}\n"
    told = here.scripts(run)
    assert "cancelled" in told["before_snapshot"]["output"]
    assert told["after_snapshot"]["exit_code"] == 0


def test_a_cancel_lets_go_of_the_snapshot_while_the_script_after_it_ends_its_work(here: Here) -> None:
    text = f"touch {here.notes}/resuming; until [ -e {here.notes}/resume ]; do sleep 0.05; done"
    job = here.job(before_snapshot=here.script("true"), after_snapshot=here.script(text))
    run = here.fleet.run(job)
    wait_for((here.notes / "resuming").exists, "the script")
    assert here.snapshots() > 0
    cancelled(here, run)
    assert here.fleet.agents["erp"]._runs, "the script was ended"
    (here.notes / "resume").touch()
    here.release()
    assert here.scripts(run)["after_snapshot"]["exit_code"] == 0


def test_a_cancel_in_the_midst_of_a_stream_leaves_nothing(here: Here) -> None:
    (here.point / "content").write_bytes(os.urandom(4 * MiB))
    run = here.fleet.run(here.job(limits={"network_kb_per_second": [{"value": 64}]}, **pausing(here)))
    query = (
        "SELECT d.id, d.stream_deleted_at AS gone_at FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
        " WHERE p.run_uid = %s AND p.state IN ('open', 'aborted')"
    )
    here.fleet.wait_until(lambda: here.fleet.row(query, run.uid))
    assert here.snapshots() > 0
    cancelled(here, run)
    wait_for(lambda: not here.fleet.agents["erp"]._runs, "the agent to be idle", SOON)
    row = here.fleet.wait_until(lambda: here.fleet.row(query + " AND d.stream_deleted_at IS NOT NULL", run.uid), SOON)
    assert row["gone_at"] is not None


@pytest.mark.parametrize("step", ["called", "done"])
def test_a_cancel_while_the_point_is_committed_is_too_late(here: Here, step: str) -> None:
    pause = FakeHost.at(here.host).pause_at("commit", step)
    job = here.job()
    run = here.fleet.run(job)
    pause.wait()
    try:
        with pytest.raises(BootpointError) as refused:
            here.cancel(run)
        assert refused.value.code is Code.TOO_LATE
    finally:
        pause.release()
    here.fleet.wait(run)
    assert len(here.fleet.points(job)) == 1
    here.release()


def test_a_cancel_while_everything_is_frozen(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    instant, frozen = Cut.instant, threading.Event()

    def hold(cut: Cut) -> None:
        instant(cut)
        frozen.set()
        (going,) = here.fleet.agents["erp"]._runs.values()
        going._over.wait(SOON)

    monkeypatch.setattr(Cut, "instant", hold)
    run = here.fleet.run(here.job(**pausing(here)))
    assert frozen.wait(30.0)
    cancelled(here, run)
    here.release()
    assert (here.point / "state").read_text() == f"resumed by {run.id}\n"
    assert here.fleet.row("SELECT 1 FROM boot_point WHERE run_uid = %s", run.uid) is None
