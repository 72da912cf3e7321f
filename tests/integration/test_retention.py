"""Retention in a whole installation: which points go, what keeps others, and when a run is refused."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bootpoint_common.store import kept, reference, verification
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.point import Point
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker import admission, consolidation
from bootpoint_worker.replica import replica_of
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.fake import FakeHost, connect
from bootpoint_worker.targets.host import HostAccess
from tests.service.fleet import Fleet, fleet

#: Above the least that the entropy watch looks at.
SIZE = 72 * MiB


#: Where the host breaks off: nothing noted, half merged, all but done, and done without anybody having heard.
STRIKES = ("mark", "merge", "clear", "done")


class Machine:
    """A source with its job on a fake host."""

    def __init__(self, installation: Fleet, folder: Path, rng: random.Random, **target: Any) -> None:
        self.fleet, self.rng = installation, rng
        self.host = FakeHost.install(FakeHost(f"fake-{folder.name}"))
        self.disk = folder / "system.raw"
        settings = target.pop("settings", None)
        host_id = installation.add_host(self.host.name, settings=settings)
        self.change(40)
        installation.add_worker("w1")
        installation.add_agent("erp", [self.disk])
        self.snapshots = folder / "snapshots"
        script = {"run": ["/bin/sh", "-c", f"echo one >>{self.snapshots}"]}
        self.job = installation.add_job(
            "erp", "erp", {"system": self.disk}, host_id, target=target, scripts={"before_snapshot": script}
        )
        self.access = HostAccess(name="h", kind="fake", address=self.host.name, port=0, user="root")
        self.contents: dict[UUID, bytes] = {}

    def change(self, grains: int) -> None:
        with self.disk.open("r+b" if self.disk.exists() else "w+b") as stream:
            stream.truncate(SIZE)
            for _ in range(grains):
                stream.seek(self.rng.randrange(SIZE // GRAIN) * GRAIN)
                stream.write(self.rng.randbytes(GRAIN))

    def protect(self, *, state: str = "succeeded") -> Any:
        row = self.fleet.wait(self.fleet.run(self.job), state=state)
        if state == "succeeded":
            self.contents[self.fleet.points(self.job)[-1].id] = self.disk.read_bytes()
        return row

    @property
    def replica(self) -> UUID:
        row = self.fleet.row("SELECT id FROM replica WHERE job_id = %s", self.job)
        assert row is not None
        return UUID(str(row["id"]))

    def settled(self, count: int) -> list[str]:
        """Wait until so many points are left, and nothing is being merged; returns their names."""

        def look() -> Any:
            left = len(self.fleet.points(self.job))
            return self.fleet.row("SELECT 1 FROM replica WHERE consolidating IS NULL AND %s = %s", left, count)

        self.fleet.wait_until(look)
        return [point.name for point in self.fleet.points(self.job)]

    def check(self) -> None:
        """Every point that is left shows what its source was, in the rows and on the host."""
        points = self.fleet.points(self.job)
        manifest = self.host.manifest_of(self.replica)
        assert manifest is not None
        assert [point.point_id for point in manifest.points] == [point.id for point in points]
        for point in points:
            assert self.host.content(self.replica, point.id, "system") == self.contents[point.id]
        layers = {row["layer"] for row in self.fleet.rows("SELECT layer FROM boot_point_disk WHERE layer IS NOT NULL")}
        assert layers == {disk.identity for point in manifest.points for disk in point.disks}

    def verify(self) -> None:
        """Let every point that is left be verified, and wait for it."""
        for point in self.fleet.points(self.job):
            self.verify_one(point)

    def verify_one(self, point: Point) -> None:
        """Let a point be verified, and wait for it."""
        with self.fleet.database.transaction() as connection:
            verification.ask(connection, point.id, requested_by="test", budgeted=False)
        query = "SELECT 1 FROM boot_point WHERE id = %s AND verified_at IS NOT NULL AND damaged_at IS NULL"
        self.fleet.wait_until(lambda: self.fleet.row(query, point.id))

    def pin(self, name: str) -> None:
        with self.fleet.database.transaction() as connection:
            found = next(point for point in kept.points(connection, self.replica) if point.name == name)
            assert kept.pin(connection, found.id, reason="audit", user="test", until=None)

    def events(self, kind: str) -> list[Any]:
        return self.fleet.rows("SELECT * FROM event WHERE kind = %s ORDER BY id", kind)


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


def test_runs_leave_as_many_points_as_the_job_keeps(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    keep_five(installation, Machine(installation, tmp_path, rng, points=5), runs=11, pinned=1, verified=4)


def keep_five(installation: Fleet, machine: Machine, *, runs: int, pinned: int, verified: int) -> None:
    """Make runs, pin one of their points two runs later, and verify all when one is the head."""
    names = []
    for number in range(runs):
        machine.change(3)
        machine.protect()
        names.append(installation.points(machine.job)[-1].name)
        if number == pinned + 2:
            machine.pin(names[pinned])
        if number == verified:
            machine.settled(5)
            machine.verify()  # from here on the head of then is the last one that was verified
    left = machine.settled(5)
    assert left == [names[pinned], names[verified], *names[-3:]]
    machine.check()
    machine.verify()
    # A base and the moved digests: the next increment stands on them, and the agent needs no full copy.
    machine.change(3)
    machine.protect()
    machine.settled(5)
    machine.check()
    assert len(machine.events("point_consolidated")) == runs + 1 - 5
    row = installation.row("SELECT count(*) AS n FROM boot_point WHERE kind = 'full' OR reason = 'base_lost'")
    assert row == {"n": 1}


def test_a_run_that_would_be_one_too_many_is_refused_before_the_snapshot(
    installation: Fleet, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(installation, tmp_path, rng, points=3)
    for _ in range(3):
        machine.change(2)
        machine.protect()
    for point in installation.points(machine.job):
        machine.pin(point.name)
    machine.change(2)
    row = machine.protect(state="failed")
    assert row["reason"] == "retention_full"
    assert "pinned: audit" in row["message"]
    assert len(machine.snapshots.read_text().splitlines()) == 3
    assert installation.rows("SELECT 1 FROM boot_point WHERE run_uid = %s", row["uid"]) == []
    machine.check()
    with installation.database.transaction() as connection:
        kept.unpin(connection, installation.points(machine.job)[1].id)
    machine.protect()
    assert len(machine.settled(3)) == 3
    machine.check()


def test_that_nothing_may_go_at_the_next_run_is_said_once_and_beforehand(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    machine = Machine(installation, tmp_path, rng, points=3)
    for number in range(4):
        if number == 3:
            for point in installation.points(machine.job):
                machine.pin(point.name)
        machine.change(2)
        machine.protect(state="failed" if number == 3 else "succeeded")
    assert machine.events("retention_blocked") == []  # the pins came after the last commit: only the run could say it
    with installation.database.transaction() as connection:
        kept.unpin(connection, installation.points(machine.job)[0].id)
    machine.protect()
    machine.settled(3)
    machine.pin(installation.points(machine.job)[-1].name)
    with installation.database.transaction() as connection:
        for _ in range(2):
            consolidation.after(connection, machine.replica, most=22)
    (blocked,) = machine.events("retention_blocked")
    assert blocked["code"] == "retention_blocked"
    assert "pinned: audit" in blocked["text"]
    assert installation.row("SELECT retention_blocked AS it FROM replica") == {"it": True}


def test_at_the_hosts_limit_a_run_waits_until_a_point_has_gone(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    machine = Machine(installation, tmp_path, rng, points=4, settings={"point_limit": 4})
    for _ in range(4):
        machine.change(2)
        machine.protect()
    machine.settled(4)
    pause = machine.host.pause_at("consolidate", "merge")
    run = installation.run(machine.job)
    pause.wait()
    row = installation.wait_until(
        lambda: installation.row("SELECT line FROM run WHERE uid = %s AND line > ''", run.uid)
    )
    assert row["line"].startswith("waits for the consolidation of V")
    assert len(machine.snapshots.read_text().splitlines()) == 4
    pause.release()
    released = time.monotonic()
    installation.wait(run)
    assert time.monotonic() - released < admission.MERGE_SECONDS / 2  # the merge's end brought it back
    machine.contents[installation.points(machine.job)[-1].id] = machine.disk.read_bytes()
    machine.settled(4)
    machine.check()


def test_at_the_hosts_limit_a_run_is_refused_when_what_may_go_can_not(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    """A VM that runs above the oldest points locks them, though nothing keeps them."""
    machine = Machine(installation, tmp_path, rng, points=3, settings={"point_limit": 3})
    for _ in range(3):
        machine.change(2)
        machine.protect()
    with installation.database.transaction() as connection:
        replica = replica_of(connection, machine.replica)
    target = connect(machine.access)
    target.start(replica, StartRequest(test_id="t1"))
    row = machine.protect(state="failed")
    assert row["reason"] == "retention_full"
    assert "erp-standby-test-t1 runs above it" in row["message"]
    assert len(machine.events("consolidation_waits")) == 1
    assert len(machine.snapshots.read_text().splitlines()) == 3
    target.stop(replica, "t1")
    machine.protect()
    machine.settled(3)
    machine.check()
    target.close()


def test_a_point_in_use_stays_and_one_that_is_being_merged_can_not_be_taken(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    machine = Machine(installation, tmp_path, rng, points=3)
    for _ in range(3):
        machine.change(2)
        machine.protect()
    first, second, _third = installation.points(machine.job)
    with installation.database.transaction() as connection:
        held = reference.take(connection, first.id, "export", "ops", seconds=600)
    assert held is not None
    pause = machine.host.pause_at("consolidate", "merge")
    machine.change(2)
    machine.protect()
    pause.wait()
    with installation.database.transaction() as connection:
        assert reference.take(connection, second.id, "export", "ops", seconds=600) is None
        assert not kept.pin(connection, second.id, reason="late", user="ops", until=None)
        assert [point.used_by for point in kept.points(connection, machine.replica)] == [("export ops",), (), ()]
    pause.release()
    left = machine.settled(3)
    assert first.name in left
    assert second.name not in left
    machine.check()
    with installation.database.transaction() as connection:
        reference.drop(connection, held)
    machine.change(2)
    machine.protect()
    assert first.name not in machine.settled(3)
    machine.check()


def test_whoever_wants_a_point_while_its_merge_is_noted_gets_none(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    """They wait for the lock on its row, and must not go by what they saw before they waited."""
    machine = Machine(installation, tmp_path, rng, points=3)
    machine.protect()
    (point,) = installation.points(machine.job)

    def refer() -> object:
        with installation.database.transaction() as connection:
            return reference.take(connection, point.id, "export", "ops", seconds=600)

    def pin() -> object:
        with installation.database.transaction() as connection:
            return kept.pin(connection, point.id, reason="late", user="ops", until=None)

    waiting = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' HAVING count(*) >= 2"
    with ThreadPoolExecutor(2) as pool:
        with installation.database.transaction() as connection:
            execute(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", point.id)
            late = [pool.submit(refer), pool.submit(pin)]
            installation.wait_until(lambda: installation.row(waiting))
            kept.begin(connection, machine.replica, point.id)
        assert [answer.result() for answer in late] == [None, False]
    with installation.database.transaction() as connection:
        kept.give_back(connection, machine.replica)


def test_a_point_that_is_in_use_on_the_host_alone_is_passed_over(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    """Somebody started it with the host's own tools: no row knows."""
    machine = Machine(installation, tmp_path, rng, points=3)
    for number in range(5):
        machine.change(2)
        machine.protect()
        if number == 2:
            first = installation.points(machine.job)[0]
            with installation.database.transaction() as connection:
                replica = replica_of(connection, machine.replica)
            target = connect(machine.access)
            target.start(replica, StartRequest(point_id=first.id, test_id="mine", paused=True))
    left = machine.settled(3)
    assert left[0] == first.name
    machine.check()
    target.stop(replica, "mine")
    machine.change(2)
    machine.protect()
    assert first.name not in machine.settled(3)
    target.close()


def test_a_merge_that_broke_off_anywhere_is_finished_in_the_rows_as_well(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    machine = Machine(installation, tmp_path, rng, points=3)
    for _ in range(3):
        machine.change(2)
        machine.protect()
    for number, step in enumerate(STRIKES, 1):
        machine.host.crash_at("consolidate", step, rng)
        machine.change(2)
        machine.protect()
        query = "SELECT count(*) AS n FROM event WHERE kind = 'consolidation_waits' HAVING count(*) = %s"
        installation.wait_until(lambda query=query, number=number: installation.row(query, number))  # type: ignore[misc]
        with installation.database.transaction() as connection:  # as if 30 s had passed
            execute(connection, "UPDATE replica SET consolidation_enqueued_at = NULL")
        machine.settled(3)
        machine.check()
    machine.verify()
    assert len(machine.events("point_consolidated")) == len(STRIKES)


def test_an_increment_that_looks_like_encryption_pins_and_freezes(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    machine = Machine(installation, tmp_path, rng, points=4)
    for _ in range(5):
        machine.change(4)
        machine.protect()
    machine.settled(4)
    quiet = installation.points(machine.job)[-1]
    machine.disk.write_bytes(rng.randbytes(SIZE))
    machine.protect()
    (alert,) = machine.events("entropy_alert")
    assert quiet.name in alert["text"]
    row = installation.row("SELECT pinned FROM boot_point WHERE id = %s", quiet.id)
    assert row is not None
    assert row["pinned"]["user"] == "entropy-watch"
    for _ in range(3):
        machine.change(4)
        machine.protect()
    assert len(installation.points(machine.job)) == 8
    with installation.database.transaction() as connection:
        kept.unpin(connection, quiet.id)
        assert kept.thaw(connection, machine.replica, quiet.id)
        consolidation.after(connection, machine.replica, most=22)
    assert quiet.name not in machine.settled(4)
    machine.check()


def test_ordinary_large_increments_freeze_nothing(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    """A large copy that compresses, and random content of the usual size."""
    machine = Machine(installation, tmp_path, rng, points=22)
    for _ in range(4):
        machine.change(4)
        machine.protect()
    line = b"2026-12-03 10:00:00 INFO request served in 12 ms, 4711 bytes\n"
    machine.disk.write_bytes((line * (SIZE // len(line) + 1))[:SIZE])
    machine.protect()
    machine.change(6)
    machine.protect()
    assert machine.events("entropy_alert") == []
    assert installation.row("SELECT frozen FROM replica") == {"frozen": None}
