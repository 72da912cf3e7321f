"""Deleted jobs in an installation: what may be deleted, what rests, what comes back, and what goes for good."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.job import read_json
from bootpoint_common.store import ending, kept, reference, trash
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Row
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.request import ask_worker, wait
from bootpoint_common.units import MiB
from bootpoint_ops import deletion
from bootpoint_ops import job as editing
from bootpoint_ops.cli import main
from bootpoint_worker.targets.fake import FakeHost
from tests.service.fleet import Fleet
from tests.service.process import wait_for

DAY = timedelta(days=1)


class Site:
    """A job `erp` on a fake host, with a worker and an agent."""

    def __init__(self, installation: Fleet, directory: Path) -> None:
        self.fleet = installation
        self.host = FakeHost.install(FakeHost(f"trash-{directory.name}"))
        self.host_id = installation.add_host("h1", address=self.host.name)
        self.disk = directory / "disk.raw"
        self.disk.write_bytes(random.Random(7).randbytes(2 * MiB))
        installation.add_worker("w1")
        installation.add_agent("src", [self.disk])
        self.job = installation.add_job("erp", "src", {"system": self.disk}, self.host_id)
        self.spec = installation.row("SELECT spec FROM job WHERE id = %s", self.job)

    def run(self) -> None:
        self.fleet.wait(self.fleet.run(self.job))

    @property
    def replica(self) -> UUID:
        row = self.fleet.row("SELECT id FROM replica WHERE job_id = %s", self.job)
        assert row is not None
        return UUID(str(row["id"]))

    def delete(self, *, replicas: bool = True) -> deletion.Deletion:
        """Delete the job as soon as its commit has let go of the replica."""
        done = wait_for(lambda: self._delete(replicas=replicas), "the replica to be in nobody's hands")
        assert done is not None
        return done

    def _delete(self, *, replicas: bool) -> deletion.Deletion | None:
        try:
            with self.fleet.database.transaction() as connection:
                return deletion.delete(connection, "erp", replicas=replicas, actor="me")
        except BootpointError as problem:
            if problem.code is not Code.BUSY:
                raise
            return None

    def refused(self, *, replicas: bool = True) -> BootpointError:
        with pytest.raises(BootpointError) as caught:
            self.delete(replicas=replicas)
        return caught.value

    def state(self, replica_id: UUID) -> str | None:
        row = self.fleet.row("SELECT state FROM trash WHERE id = %s", replica_id)
        return None if row is None else str(row["state"])

    def rests(self, replica_id: UUID) -> Row:
        return self.fleet.wait_until(
            lambda: self.fleet.row("SELECT purge_at FROM trash WHERE id = %s AND state = 'resting'", replica_id)
        )

    def pass_time(self, by: timedelta) -> None:
        """Let the loop look as if so much time had gone by."""
        with self.fleet.database.transaction() as connection:
            trash.enqueue(connection, datetime.now(UTC) + by, 0.0)

    def apply_again(self) -> None:
        assert self.spec is not None
        with self.fleet.database.transaction() as connection:
            applied = editing.apply(connection, read_json(self.spec["spec"]), actor="me")
        assert applied.number is not None
        self.job = applied.number

    def rescan(self, *, adopt: bool) -> dict[str, Any]:
        arguments = {"host": "h1", "adopt": adopt, "actor": "me"}
        with self.fleet.database.transaction() as connection:
            asked = ask_worker(connection, "fake", "host_rescan", arguments, requested_by="me", seconds=30.0)
        nobody = BootpointError(Code.NO_WORKER, "nobody")
        (item,) = wait(self.fleet.database, asked, seconds=30.0, nobody=nobody)["items"]
        return dict(item)

    def events(self) -> list[str]:
        return [row["kind"] for row in self.fleet.rows("SELECT kind FROM event WHERE job = 'erp' ORDER BY id")]

    def contents(self) -> list[bytes]:
        points = self.fleet.points(self.job)
        return [self.host.content(point.replica_id, point.id, "system") for point in points]


@pytest.fixture
def site(installation: Fleet, tmp_path: Path) -> Site:
    return Site(installation, tmp_path)


def test_a_deleted_replica_rests_seven_days_and_then_goes_for_good(site: Site) -> None:
    site.run()
    replica = site.replica
    done = site.delete()
    assert [row.host for row in done.trashed] == ["h1"]
    row = site.rests(replica)
    assert abs(row["purge_at"] - datetime.now(UTC) - 7 * DAY) < timedelta(minutes=5)
    assert site.host.vms == {}
    with site.fleet.database.transaction() as connection:
        (item,) = deletion.replica_list(connection)
    assert (item["job"], item["host"], item["state"], item["points"]) == ("erp", "h1", "trash", 1)
    assert item["deleted_by"] == "me"
    assert item["purge_at"] is not None

    site.pass_time(6.9 * DAY)
    assert site.state(replica) == "resting"
    assert site.host.layers
    site.pass_time(7.1 * DAY)
    wait_for(lambda: site.state(replica) is None, "the trash to be empty", 30.0)
    assert (site.host.layers, site.host.manifests) == ({}, {})
    assert [kind for kind in site.events() if kind in ("job_deleted", "replica_in_trash", "replica_purged")] == [
        "job_deleted",
        "replica_in_trash",
        "replica_purged",
    ]


def test_it_comes_back_when_its_job_is_applied_again(site: Site) -> None:
    site.run()
    before = site.contents()
    replica = site.replica
    site.delete()
    site.rests(replica)
    site.apply_again()
    shown = site.rescan(adopt=False)
    assert (shown["state"], "comes back from the trash" in shown["adopt"]) == ("trash", True)
    assert site.state(replica) == "resting"
    site.rescan(adopt=True)
    wait_for(lambda: len(site.fleet.points(site.job)) == 1, "the point to be adopted", 30.0)
    assert site.state(replica) is None
    assert site.contents() == before
    assert "replica_restored" in site.events()
    # The next run goes on from there.
    wait_for(
        lambda: site.fleet.row("SELECT 1 FROM adoption WHERE state = 'asked'") is None, "the adoption to end", 30.0
    )
    with site.disk.open("r+b") as file:
        file.write(b"changed")
    site.run()
    assert [point.kind for point in site.fleet.points(site.job)] == ["full", "increment"]


@pytest.mark.parametrize(("verb", "step"), [("discard", "done"), ("purge", "done")])
def test_a_crash_at_any_step_is_gone_on_from(site: Site, verb: str, step: str) -> None:
    """The other steps: `tests/long/test_trash_long.py`."""
    crash_and_go_on(site, verb, step, Random(1))


def crash_and_go_on(site: Site, verb: str, step: str, rng: Random) -> None:
    """Delete a job and let its replica go for good; the host loses its power at a step of one of the two."""
    site.run()
    replica = site.replica
    site.host.crash_at(verb, step, rng)
    site.delete()
    wait_for(lambda: site.state(replica) == "resting" or _sent_again(site, timedelta()), "rest", 30.0)
    later = 8 * DAY
    wait_for(lambda: site.state(replica) is None or _sent_again(site, later), "the trash to be empty", 30.0)
    assert (site.host.layers, site.host.manifests, site.host.vms) == ({}, {}, {})


def _sent_again(site: Site, by: timedelta) -> bool:
    """Do what the reaper does half a minute after a task was lost."""
    site.pass_time(by)
    return False


def test_what_is_in_use_is_not_deleted(site: Site) -> None:
    site.run()
    replica = site.replica
    (point,) = site.fleet.points(site.job)

    def pinned(hold: bool) -> None:
        with site.fleet.database.transaction() as connection:
            if hold:
                kept.pin(connection, point.id, reason="audit", user="me", until=None)
            else:
                kept.unpin(connection, point.id)

    pinned(True)
    problem = site.refused()
    assert (problem.code, problem.value) == (Code.POINT_IN_USE, point.name)
    assert "audit" in problem.message
    assert f"point unpin erp {point.name}" in (problem.hint or "")
    pinned(False)
    for kind in ("test", "mount", "export", "check"):
        with site.fleet.database.transaction() as connection:
            held = reference.take(connection, point.id, kind, "someone", seconds=None)
            assert held is not None
        problem = site.refused()
        assert (problem.code, kind in problem.message) == (Code.POINT_IN_USE, True)
        with site.fleet.database.transaction() as connection:
            reference.drop(connection, held)
    with site.fleet.database.transaction() as connection:
        execute(connection, "UPDATE replica SET standby = 'running' WHERE id = %s", replica)
    assert site.refused().code is Code.STANDBY_RUNNING
    # Without its replica it can be deleted: nothing happens to that.
    site.delete(replicas=False)
    assert site.host.layers
    assert site.fleet.rows("SELECT 1 FROM trash") == []


def test_a_standby_that_was_started_behind_its_back_lets_the_deletion_wait(site: Site) -> None:
    site.run()
    replica = site.replica
    site.host.operator_start("erp-standby")
    site.delete()
    row = site.fleet.wait_until(lambda: site.fleet.row("SELECT state, problem FROM trash WHERE problem IS NOT NULL"))
    assert (row["state"], row["problem"]["code"]) == ("moving", "standby_running")
    assert site.host.vms["erp-standby"].state == "running"
    site.pass_time(timedelta())
    site.host.operator_stop("erp-standby")
    wait_for(lambda: site.state(replica) == "resting" or _sent_again(site, timedelta()), "rest", 30.0)
    assert site.events().count("trash_waits") == 1


def test_who_adopts_a_replica_that_waits_for_its_deletion_keeps_it(site: Site) -> None:
    site.run()
    before, replica = site.contents(), site.replica
    site.host.operator_start("erp-standby")
    site.delete()
    site.fleet.wait_until(lambda: site.fleet.row("SELECT 1 FROM trash WHERE problem IS NOT NULL"))
    site.apply_again()
    site.rescan(adopt=True)
    wait_for(lambda: len(site.fleet.points(site.job)) == 1, "the point to be adopted", 30.0)
    assert site.state(replica) is None, "its new job would lose it as soon as the standby is off"
    site.host.operator_stop("erp-standby")
    wait_for(
        lambda: site.fleet.row("SELECT 1 FROM adoption WHERE state = 'asked'") is None, "the adoption to end", 30.0
    )
    site.pass_time(timedelta())
    site.run()
    assert site.contents()[:1] == before
    assert [point.kind for point in site.fleet.points(site.job)] == ["full", "increment"]
    # It can be deleted once more.
    site.delete()
    site.rests(replica)


def test_a_job_with_a_run_under_way_is_not_deleted(site: Site) -> None:
    site.run()
    pause = site.host.pause_at("commit", "called")
    run = site.fleet.run(site.job)
    pause.wait()
    problem = site.refused(replicas=False)
    assert (problem.code, problem.value) == (Code.ALREADY_RUNNING, run.id)
    assert "--force" in (problem.hint or "")
    with site.fleet.database.transaction() as connection, pytest.raises(BootpointError) as late:
        ending.cancel(connection, run.id, actor="me")
    assert late.value.code is Code.TOO_LATE
    pause.release()
    site.fleet.wait(run)
    site.delete()


def test_force_waits_for_a_run_that_can_not_be_cancelled_any_more(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pause = site.host.pause_at("commit", "called")
    run = site.fleet.run(site.job)
    pause.wait()
    replica, real = site.replica, ending.cancel

    def cancel(*arguments: Any, **options: Any) -> runs.Run:
        try:
            return real(*arguments, **options)
        finally:
            pause.release()

    monkeypatch.setattr("bootpoint_ops.cli.deletion.ending.cancel", cancel)
    env = {"BOOTPOINT_STATE": str(tmp_path), "BOOTPOINT_DATABASE_URL": site.fleet.database.url}
    words = ["job", "delete", "erp", "--delete-replica", "--force", "--yes", "-o", "json"]
    done = CliRunner().invoke(main, words, env=env)
    assert done.exit_code == 0, done.stderr
    assert [each["host"] for each in json.loads(done.stdout)["trash"]] == ["h1"]
    assert site.fleet.wait(run)["state"] == "succeeded"
    site.rests(replica)


def test_a_forgotten_replica_stays_on_its_host(site: Site) -> None:
    site.run()
    replica = site.replica

    def forget(code: Code | None = None) -> None:
        with site.fleet.database.transaction() as connection:
            if code is None:
                deletion.forget(connection, "erp", "h1", actor="me")
                return
            with pytest.raises(BootpointError) as caught:
                deletion.forget(connection, "erp", "h1", actor="me")
            assert caught.value.code is code

    forget(Code.POINT_IN_USE)
    site.delete()
    site.rests(replica)
    layers = set(site.host.layers)
    forget()
    forget(Code.NO_SUCH_VM)
    assert set(site.host.layers) == layers
    site.apply_again()
    # The host's trash knows it still.
    assert site.rescan(adopt=True)["state"] == "trash"
    wait_for(lambda: len(site.fleet.points(site.job)) == 1, "the point to be adopted", 30.0)


def test_history_has_who_deleted(site: Site) -> None:
    site.delete()
    (row,) = site.fleet.rows("SELECT actor, job FROM event WHERE kind = 'job_deleted'")
    assert (row["actor"], row["job"]) == ("me", "erp")
