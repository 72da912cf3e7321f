"""Test VMs and boot checks on the fake driver, step by step: whoever dies, the next one ends what was begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.identity import new_id
from bootpoint_common.metric import BOOT_CHECKS
from bootpoint_common.store import agent as agents
from bootpoint_common.store import claim as claims
from bootpoint_common.store import point
from bootpoint_common.store import trial as trials
from bootpoint_common.store.database import rows
from bootpoint_common.store.database import run as execute
from bootpoint_common.units import GiB, MiB
from bootpoint_ops import trial as shown
from bootpoint_worker.context import Context, Sessions
from bootpoint_worker.reaper import reap
from bootpoint_worker.replica import keep_definition
from bootpoint_worker.targets.fake import connect
from bootpoint_worker.targets.fake_fault import STEPS
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.kvm.conversion.v2v import V2V_SECONDS
from bootpoint_worker.targets.layer import CommitPoint, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Nic, Replica, ReplicaDisk
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.trial import PATIENCE, trial
from tests.service.fleet import Fleet, fleet
from tests.service.process import wait_for

#: A machine that neither comes up nor fails for as long as a test looks at it.
BOOTING = Sight(state="running", serial="[    1.0] Linux version 6.1\n", read_bytes=20 * MiB)


class Died(BaseException):
    """The worker died here."""


@dataclass
class Bench:
    """A fake host with jobs that have points, and a worker whose every step a test makes by hand.

    Attributes:
        fleet: The installation.
        host: The host.
        context: What the worker works with.
        jobs: Numbers of the jobs.
        points: The newest point of each.
    """

    fleet: Fleet
    host: FakeHost
    context: Context
    jobs: list[int]
    points: list[UUID]

    def begin(self, number: int = 0, kind: trials.Kind = "check", seconds: float = 3600.0) -> UUID:
        with self.fleet.database.transaction() as connection:
            found = point.get(connection, self.points[number])
            assert found is not None
            return trials.create(connection, found, kind, requested_by="ann", seconds=seconds).id

    def item(self, uid: UUID) -> dict[str, Any]:
        with self.fleet.database.transaction() as connection:
            return shown.by_id(connection, uid)

    def stop(self, uid: UUID) -> None:
        with self.fleet.database.transaction() as connection:
            shown.stop(connection, self.item(uid)["id"], actor="ann")

    def pass_time(self) -> None:
        """Let claims run out and lost tasks be missed."""
        with self.fleet.database.transaction() as connection:
            execute(connection, "UPDATE test_vm SET writer_until = '-infinity'")
            execute(connection, "UPDATE test_vm SET enqueued_at = enqueued_at - interval '1 hour'")

    def round(self) -> int:
        """Let the reaper look, and do every task that there is, delayed ones too; returns how many there were."""
        reap(self.context)
        with self.fleet.database.transaction() as connection:
            tasks = rows(connection, "DELETE FROM outbox WHERE kind = 'trial' RETURNING subject")
        for task in tasks:
            trial(self.context, UUID(task["subject"]))
        return len(tasks)

    def until(self, done: Callable[[], bool], rounds: int = 30) -> None:
        for _ in range(rounds):
            if done():
                return
            try:
                self.round()
            except Died:
                self.pass_time()
        assert done()

    def ended(self, uid: UUID) -> dict[str, Any]:
        self.until(lambda: self.item(uid)["state"] == "ended")
        return self.item(uid)

    def running(self) -> UUID:
        """Start a test, and wait until it runs."""
        uid = self.begin(kind="test")
        self.until(lambda: self.item(uid)["state"] == "running")
        return uid

    def tests(self) -> list[str]:
        return sorted(name for name in self.host.vms if "-test-" in name)

    def events(self, kind: str) -> list[str]:
        return [row["text"] for row in self.fleet.rows("SELECT text FROM event WHERE kind = %s ORDER BY id", kind)]

    def content(self, number: int = 0) -> bytes:
        row = self.fleet.row("SELECT id FROM replica WHERE job_id = %s", self.jobs[number])
        assert row is not None
        return self.host.content(row["id"], self.points[number], "system")


def _make(made: Fleet, directory: Path, jobs: int) -> Bench:
    host = FakeHost.install(FakeHost(f"fake-{directory.name}"))
    host_id = made.add_host(host.name)
    numbers, points = [], []
    for number in range(jobs):
        name = f"erp{number}"
        with made.database.transaction() as connection:
            agents.enroll(connection, name, "fake", b"")
        numbers.append(made.add_job(name, name, {"system": directory / name}, host_id))
        points.append(_point(made, host, numbers[-1], name))
    context = Context(
        database=made.database,
        carrier=made.broker.worker_carrier(),
        vault=made.vault,
        sessions=Sessions(made.vault),
        worker="by hand",
        renewing=False,
    )
    return Bench(made, host, context, numbers, points)


def _point(made: Fleet, host: FakeHost, job: int, name: str) -> UUID:
    """Make a committed point on the host, and write the rows that a run leaves of it."""
    row = made.row("SELECT id FROM replica WHERE job_id = %s", job)
    assert row is not None
    disk = ReplicaDisk("system", MiB, f"{name}-system")
    replica = Replica(row["id"], name, f"{name}-standby", "default", "", 1, GiB, "bios", (disk,), (_CARD,))
    point_id, run_uid = new_id(), new_id()
    target = connect(HostAccess(host.name, "fake", host.name, 0, "root"))
    target.create(replica)
    layers = target.open(replica, OpenPoint(point_id, None, 1, (OpenDisk("system", new_id(), MiB),)))
    writer = target.open_writer(replica, layers[0], 1)
    writer.write(0, b"content of the source" * 100)
    writer.flush()
    writer.close()
    committed = CommitPoint(point_id, "V20261203_093000", 1, _INSTANT, "full", "fs", 1, layers, {"system": "00" * 32})
    target.commit(replica, committed)
    with made.database.transaction() as connection:
        keep_definition(connection, replica)
        execute(connection, _ROWS, run_uid, job, name, name, point_id, replica.replica_id, run_uid, _INSTANT)
        execute(connection, "UPDATE replica SET head = %s WHERE id = %s", point_id, replica.replica_id)
    return point_id


_CARD = Nic("default", "virtio", "52:54:00:00:00:01")

_INSTANT = datetime(2026, 12, 3, 9, 30, tzinfo=UTC)

#: A run and its point.
_ROWS = """
WITH made AS (
    INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state, ended_at)
    SELECT %s, %s, %s, a.id, 'fake', 'manual', 'ann', 'succeeded', now() FROM agent a WHERE a.name = %s
)
INSERT INTO boot_point (id, replica_id, run_uid, sequence, name, state, kind, epoch, chain, consistency, instant,
    incarnation, committed_at, ended_at)
VALUES (%s, %s, %s, 1, 'V20261203_093000', 'committed', 'full', 1, 1, 'fs', %s, gen_random_uuid(), now(), now())
"""


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


@pytest.fixture
def bench(installation: Fleet, tmp_path: Path) -> Bench:
    return _make(installation, tmp_path, 1)


@pytest.fixture
def four(installation: Fleet, tmp_path: Path) -> Bench:
    return _make(installation, tmp_path, 4)


# --- tests of people


def test_a_test_runs_cut_off_until_it_is_stopped_and_changes_no_point(bench: Bench) -> None:
    before = bench.content()
    for number in range(3):
        uid = bench.running()
        item = bench.item(uid)
        assert bench.tests() == [item["vm"]]
        assert all(nic.network is None for nic in bench.host.vms[item["vm"]].nics)
        used = bench.fleet.row("SELECT in_use_by FROM v_boot_point")
        assert used is not None
        assert [use["kind"] for use in used["in_use_by"]] == ["test"]
        assert bench.fleet.row("SELECT standby FROM replica WHERE standby = 'test'")
        bench.host.guest_write(item["vm"], "system", 0, b"scribble" * 100)
        bench.stop(uid)
        assert "ann" in bench.ended(uid)["reason"]
        assert bench.tests() == []
        assert bench.content() == before, f"after test {number}"
    assert bench.fleet.row("SELECT 1 FROM reference") is None
    assert bench.fleet.row("SELECT standby FROM replica WHERE standby = 'off'")
    assert len(bench.events("test_started")) == len(bench.events("test_ended")) == 3


def test_a_test_ends_by_itself_when_its_time_is_over(bench: Bench) -> None:
    uid = bench.begin(kind="test", seconds=60.0)
    bench.until(lambda: bench.item(uid)["state"] == "running")
    bench.round()
    assert bench.item(uid)["state"] == "running"
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE test_vm SET until = now() - interval '1 second'")
    assert "time is over" in bench.ended(uid)["reason"]
    assert bench.tests() == []


@pytest.mark.parametrize("step", STEPS["start"])
def test_a_worker_that_dies_while_it_starts_one_leaves_nothing_behind(bench: Bench, step: str) -> None:
    bench.host.fail_at("start", step, Died())
    uid = bench.running()
    assert bench.tests() == [bench.item(uid)["vm"]]
    bench.stop(uid)
    bench.ended(uid)
    _nothing_left(bench)


def test_a_worker_that_thaws_before_a_start_leaves_no_vm_of_a_test_that_has_ended(bench: Bench) -> None:
    pause = bench.host.pause_at("start", STEPS["start"][0])
    uid = bench.begin(kind="test")
    frozen = threading.Thread(target=bench.round)
    frozen.start()
    pause.wait()
    bench.stop(uid)
    bench.pass_time()
    bench.ended(uid)
    pause.release()
    frozen.join()
    _nothing_left(bench)


def test_a_start_that_lasts_is_not_taken_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a conversion does: who took it over would begin it anew, and be taken over in its turn."""
    monkeypatch.setattr(claims, "PROGRESS_SECONDS", 0.1)
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.2)
    pause = bench.host.pause_at("start", STEPS["start"][0])
    uid = bench.begin(kind="test")
    with bench.fleet.database.transaction() as connection:
        execute(connection, "DELETE FROM outbox WHERE kind = 'trial'")
    lasting = threading.Thread(target=trial, args=(replace(bench.context, renewing=True), uid))
    lasting.start()
    pause.wait()
    time.sleep(claims.CLAIM_SECONDS + 1.0)
    assert claims.claim(bench.fleet.database, "test_vm", uid, renewing=False) is None
    pause.release()
    lasting.join()
    assert bench.item(uid)["state"] == "running"
    assert PATIENCE > V2V_SECONDS


@pytest.mark.parametrize("step", STEPS["start"])
def test_what_was_stopped_while_a_dead_worker_had_half_started_it_goes_too(bench: Bench, step: str) -> None:
    bench.host.fail_at("start", step, Died())
    uid = bench.begin(kind="test")
    with pytest.raises(Died):
        bench.round()
    bench.stop(uid)
    bench.pass_time()
    bench.ended(uid)
    _nothing_left(bench)
    assert bench.events("test_started") == []


@pytest.mark.parametrize("step", STEPS["stop"])
def test_a_worker_that_dies_while_it_ends_one_is_followed_by_another(bench: Bench, step: str) -> None:
    uid = bench.running()
    bench.host.fail_at("stop", step, Died())
    bench.stop(uid)
    bench.ended(uid)
    _nothing_left(bench)


def _nothing_left(bench: Bench) -> None:
    assert bench.tests() == []
    assert bench.fleet.row("SELECT 1 FROM reference") is None
    manifest = next(iter(bench.host.manifests.values()))
    assert manifest.tests == {}
    assert set(bench.host.layers) == manifest.layer_names()


def test_an_end_waits_for_a_host_that_is_away_and_holds_the_point_meanwhile(bench: Bench) -> None:
    uid = bench.running()
    bench.host.reachable = False
    bench.stop(uid)
    bench.round()
    bench.pass_time()
    bench.round()
    assert bench.item(uid)["state"] == "ending"
    assert bench.item(uid)["problem"]["code"] == "host_unreachable"
    assert bench.fleet.row("SELECT 1 FROM reference")
    bench.host.reachable = True
    bench.pass_time()
    bench.ended(uid)
    _nothing_left(bench)


def test_a_start_that_the_host_refuses_is_said_and_over(bench: Bench) -> None:
    bench.host.fail_at("start", "called", error(Code.HOST_PERMISSION, "no, said the host"))
    uid = bench.begin(kind="test")
    item = bench.ended(uid)
    assert item["problem"]["code"] == "host_permission"
    with bench.fleet.database.transaction() as connection:
        assert [line["id"] for line in shown.listed(connection)] == [item["id"]]
    _nothing_left(bench)


# --- boot checks


def test_a_check_keeps_verdict_seconds_reason_and_picture_with_its_point(bench: Bench) -> None:
    up = Sight(state="running", serial="\nerp login: ", picture=b"\x89PNG up")
    bench.host.sights["erp0-standby"] = [BOOTING, BOOTING, up]
    item = bench.ended(bench.begin())
    row = bench.fleet.row("SELECT boot, run FROM v_boot_point")
    assert row is not None
    assert row["boot"] == item["boot"]
    assert row["boot"]["verdict"] == "boots"
    assert "login" in row["boot"]["reason"]
    assert row["boot"]["screenshot"] == f"boot/{row['run']}.png"
    assert isinstance(row["boot"]["duration_seconds"], float)
    assert bytes((bench.fleet.row("SELECT png FROM boot_picture") or {})["png"]) == b"\x89PNG up"
    assert len(bench.events("boot_checked")) == 1
    assert bench.fleet.counted(BOOT_CHECKS, "boots") == 1
    age = bench.fleet.row("SELECT newest_bootable_point_age_seconds AS age FROM v_job")
    assert age is not None
    assert age["age"] is not None
    _nothing_left(bench)


def test_a_check_that_fails_is_kept_with_the_last_picture_and_the_next_one_replaces_it(bench: Bench) -> None:
    panic = Sight(state="running", serial="[ 9.0] Kernel panic - not syncing: VFS\n")
    bench.host.sights["erp0-standby"] = [Sight(state="running", picture=b"\x89PNG before"), panic]
    assert bench.ended(bench.begin())["boot"]["verdict"] == "does_not_boot"
    assert bytes((bench.fleet.row("SELECT png FROM boot_picture") or {})["png"]) == b"\x89PNG before"
    del bench.host.sights["erp0-standby"]
    assert bench.ended(bench.begin())["boot"]["verdict"] == "boots"
    assert bench.fleet.row("SELECT 1 FROM boot_picture") is None
    assert bench.fleet.row("SELECT 1 FROM boot_point WHERE boot->>'verdict' = 'boots'")


def test_a_check_without_any_sign_ends_as_unknown(bench: Bench) -> None:
    bench.host.sights["erp0-standby"] = [BOOTING]
    uid = bench.begin()
    bench.until(lambda: bench.item(uid)["state"] == "running")
    bench.round()
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE test_vm SET started_at = started_at - interval '11 minutes'")
    assert bench.ended(uid)["boot"]["verdict"] == "unknown"


@pytest.mark.parametrize("step", STEPS["look"])
def test_a_worker_that_dies_while_it_looks_is_followed_by_another(bench: Bench, step: str) -> None:
    bench.host.sights["erp0-standby"] = [BOOTING, BOOTING, Sight(state="running", agent=True)]
    bench.host.fail_at("look", step, Died(), after=1)
    assert bench.ended(bench.begin())["boot"]["verdict"] == "boots"
    assert len(bench.events("boot_checked")) == 1
    _nothing_left(bench)


def test_a_look_that_fails_is_made_again(bench: Bench) -> None:
    bench.host.sights["erp0-standby"] = [BOOTING, Sight(state="running", agent=True)]
    bench.host.disconnect_at("look", "called", times=2)
    uid = bench.begin()
    for _ in range(4):
        bench.round()
        bench.pass_time()
    assert bench.ended(uid)["boot"]["verdict"] == "boots"


def test_two_checks_of_a_host_go_on_at_a_time_and_the_others_wait(four: Bench) -> None:
    for number in range(4):
        four.host.sights[f"erp{number}-standby"] = [BOOTING]
    asked = [four.begin(number) for number in range(4)]
    for _ in range(5):
        four.round()
        states = [four.item(uid)["state"] for uid in asked]
        assert states.count("waiting") >= 2
        assert len(four.tests()) <= 2
    assert [four.item(uid)["state"] for uid in asked] == ["running", "running", "waiting", "waiting"]
    # A test of a person takes no place.
    test = four.begin(3, kind="test")
    four.until(lambda: four.item(test)["state"] == "running")
    four.host.sights["erp1-standby"] = [Sight(state="running", agent=True)]
    four.until(lambda: four.item(asked[2])["state"] == "running")
    assert [four.item(uid)["state"] for uid in asked] == ["running", "ended", "running", "waiting"]
    four.stop(asked[3])
    assert four.ended(asked[3])["boot"] is None


def test_a_point_that_is_being_checked_is_not_checked_twice(bench: Bench) -> None:
    bench.host.sights["erp0-standby"] = [BOOTING]
    assert bench.begin() == bench.begin()
    bench.round()
    assert len(bench.tests()) <= 1


def _due(bench: Bench, interval: str = "1d") -> None:
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE job SET spec = jsonb_set(spec, '{check,boot}', to_jsonb(%s::text))", interval)


def _skip_wait(bench: Bench) -> None:
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE boot_plan SET not_before = now()")


def test_the_newest_point_is_checked_once_an_interval(bench: Bench) -> None:
    assert bench.round() == 0
    _due(bench)
    bench.until(lambda: len(bench.events("boot_checked")) == 1)
    for _ in range(5):
        bench.round()
    assert len(bench.events("boot_checked")) == 1
    # In a day it is checked again, and not before.
    plan = bench.fleet.row("SELECT extract(epoch FROM not_before - now())::float AS seconds FROM boot_plan")
    assert plan is not None
    assert 86400 - 600 < plan["seconds"] <= 86400
    _skip_wait(bench)
    bench.until(lambda: len(bench.events("boot_checked")) == 2)
    _due(bench, "never")
    _skip_wait(bench)
    for _ in range(5):
        bench.round()
    assert len(bench.events("boot_checked")) == 2


def test_a_check_for_which_the_host_lacks_memory_is_skipped_and_shown(bench: Bench) -> None:
    bench.host.memory_bytes = int(1.4 * GiB)
    _due(bench)
    bench.until(lambda: len(bench.events("boot_check_skipped")) == 1)
    assert bench.tests() == []
    for _ in range(3):
        _skip_wait(bench)
        bench.round()
        bench.round()
    # Tried again, and said once a day only.
    assert len(bench.events("boot_check_skipped")) == 1
    with bench.fleet.database.transaction() as connection:
        (skipped,) = shown.skipped(connection, bench.jobs[0])
    assert skipped["code"] == "host_full"
    assert "1.0 GiB" in skipped["message"]
    assert bench.fleet.row("SELECT boot FROM boot_point WHERE boot IS NOT NULL") is None
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE boot_plan SET said_at = now() - interval '25 hours'")
    _skip_wait(bench)
    bench.until(lambda: len(bench.events("boot_check_skipped")) == 2)
    bench.host.memory_bytes = 2 * GiB
    _skip_wait(bench)
    bench.until(lambda: len(bench.events("boot_checked")) == 1)
    with bench.fleet.database.transaction() as connection:
        assert shown.skipped(connection, bench.jobs[0]) == []
    _nothing_left(bench)


def test_the_memory_of_running_vms_counts(four: Bench) -> None:
    four.host.memory_bytes = 3 * GiB
    running = [four.begin(number, kind="test") for number in range(2)]
    four.until(lambda: all(four.item(uid)["state"] == "running" for uid in running))
    item = four.ended(four.begin(2))
    assert item["problem"]["code"] == "host_full"
    four.stop(running[0])
    four.ended(running[0])
    assert four.ended(four.begin(2))["boot"]["verdict"] == "boots"


def test_a_host_without_saved_credentials_is_skipped(bench: Bench) -> None:
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE host SET kind = 'kvm', address = '192.0.2.1'")
    _due(bench)
    bench.until(lambda: len(bench.events("boot_check_skipped")) == 1)
    row = bench.fleet.row("SELECT code FROM event WHERE kind = 'boot_check_skipped'")
    assert row is not None
    assert row["code"] == "credentials_not_saved"
    assert bench.fleet.row("SELECT 1 FROM test_vm WHERE state <> 'ended'") is None


def test_a_host_that_cannot_test_while_a_point_is_open_lets_the_check_wait(bench: Bench) -> None:
    with bench.fleet.database.transaction() as connection:
        execute(connection, """UPDATE host SET settings = '{"can_test_while_open": false}'""")
    uid = bench.begin()
    with bench.fleet.database.transaction() as connection:
        execute(connection, _OPEN)
    bench.round()
    assert bench.item(uid)["state"] == "starting"
    assert bench.item(uid)["problem"]["code"] == "busy"
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE boot_point SET state = 'aborted' WHERE state = 'open'")
    bench.pass_time()
    assert bench.ended(uid)["boot"]["verdict"] == "boots"


#: Another run of the job, with a point that is being written.
_OPEN = """
WITH made AS (
    INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state)
    SELECT gen_random_uuid(), job_id, job_name, agent_id, pool, 'manual', 'ann', 'succeeded' FROM run LIMIT 1
    RETURNING uid
)
INSERT INTO boot_point (id, replica_id, run_uid, sequence, name, state, kind, epoch, chain, consistency, instant,
    incarnation)
SELECT gen_random_uuid(), p.replica_id, made.uid, 99, 'V20990101_000000', 'open', 'increment', 1, 1, 'crash', now(),
    p.incarnation
FROM boot_point p, made LIMIT 1
"""


def test_a_point_that_is_not_committed_is_refused(bench: Bench) -> None:
    with bench.fleet.database.transaction() as connection:
        execute(connection, "UPDATE replica SET consolidating = %s", bench.points[0])
    with pytest.raises(BootpointError) as caught:
        bench.begin(kind="test")
    assert caught.value.code == Code.POINT_IN_USE
    assert bench.fleet.row("SELECT 1 FROM test_vm") is None


def test_several_workers_and_reapers_make_a_due_check_once(installation: Fleet, tmp_path: Path) -> None:
    bench = _make(installation, tmp_path, 2)
    _due(bench)
    for number in range(3):
        installation.add_worker(f"worker-{number}")
    wait_for(lambda: len(bench.events("boot_checked")) >= 2, "both checks")
    bench.fleet.wait_until(lambda: bench.fleet.row("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM reference)"))
    assert len(bench.events("boot_checked")) == 2
    row = bench.fleet.row("SELECT count(*) AS n FROM test_vm")
    assert row is not None
    assert row["n"] == 2
