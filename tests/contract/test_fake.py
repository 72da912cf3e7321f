"""The fake host is a faithful world: what a power cut takes, what it leaves, and what breaks off half-way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootpoint_common.errors import BootpointError, Code, Fenced
from bootpoint_common.identity import new_id
from bootpoint_common.units import GRAIN, SECTOR, MiB, TiB
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.fake import STEPS, FakeHost, FakeTarget, connect
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.journal import Journal
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Replica, ReplicaDisk

SIZE = MiB
SLOTS = ("system", "data")


class Died(BaseException):
    """The worker that made the call was killed."""


@dataclass
class World:
    """A host with one replica of two disks, and a session."""

    host: FakeHost
    target: FakeTarget
    replica: Replica

    def open(self, point_id: UUID) -> tuple[Layer, ...]:
        journal = self.journal()
        base = journal.head.point_id if journal.head else None
        disks = tuple(OpenDisk(slot, UUID(int=point_id.int ^ number), SIZE) for number, slot in enumerate(SLOTS))
        return self.target.open(self.replica, OpenPoint(point_id, base, 1, disks))

    def write(self, layers: tuple[Layer, ...], data: bytes) -> None:
        for layer in layers:
            with closing(self.target.open_writer(self.replica, layer, 1)) as writer:
                writer.write(0, data)
                writer.flush()

    def commit(self, layers: tuple[Layer, ...]) -> None:
        roots = dict.fromkeys(SLOTS, "0" * 64)
        instant = datetime(2026, 12, 3, tzinfo=UTC)
        point_id = layers[0].point_id
        point = CommitPoint(point_id, f"V{point_id.hex[-8:]}", 1, instant, "full", "fs", 1, layers, roots)
        self.target.commit(self.replica, point)

    def point(self, data: bytes) -> UUID:
        layers = self.open(new_id())
        self.write(layers, data)
        self.commit(layers)
        return layers[0].point_id

    def journal(self) -> Journal:
        journal = self.target.inspect(self.replica)
        assert journal is not None
        return journal

    def content(self, point_id: UUID) -> set[bytes]:
        return {self.host.content(self.replica.replica_id, point_id, slot)[:GRAIN] for slot in SLOTS}


def _world(*, room: int = TiB, provisioning: str = "thin") -> World:
    host = FakeHost.install(FakeHost(f"world-{new_id()}", storages={"default": room}))
    target = connect(HostAccess(name="h", kind="fake", address=host.name, port=0, user="root"))
    disks = tuple(ReplicaDisk(slot, SIZE, f"erp-{slot}", provisioning=provisioning) for slot in SLOTS)
    replica = Replica(new_id(), "erp", "erp", "default", "", 1, 64 * MiB, "bios", disks)
    target.create(replica)
    return World(host, target, replica)


@pytest.fixture
def world() -> World:
    return _world()


def _code(call: Callable[[], object]) -> Code:
    with pytest.raises(BootpointError) as caught:
        call()
    return caught.value.code


# --- power cuts -------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    writes=st.lists(st.tuples(st.integers(0, 63), st.integers(1, 40), st.booleans(), st.booleans()), max_size=12),
)
def test_a_power_cut_keeps_what_was_flushed_and_a_part_of_the_rest(
    seed: int, writes: list[tuple[int, int, bool, bool]]
) -> None:
    """Each sector shows the last flushed content, or one that was written after it."""
    world = _world()
    writer = world.target.open_writer(world.replica, world.open(new_id())[0], 1)
    allowed = [{bytes(SECTOR)} for _ in range(SIZE // SECTOR)]
    newest = [bytes(SECTOR)] * (SIZE // SECTOR)
    for number, (sector, count, zero, flush) in enumerate(writes, start=1):
        data = bytes(SECTOR) if zero else bytes([number]) * SECTOR
        first = sector * 31
        writer.zero(first * SECTOR, count * SECTOR) if zero else writer.write(first * SECTOR, data * count)
        for place in range(first, first + count):
            allowed[place].add(data)
            newest[place] = data
        if flush:
            writer.flush()
            allowed = [{sector_now} for sector_now in newest]
    world.host.crash(Random(seed))
    point_id = world.journal().open_point_id
    assert point_id is not None
    left = world.host.content(world.replica.replica_id, point_id, "system")
    for place, possible in enumerate(allowed):
        assert left[place * SECTOR : (place + 1) * SECTOR] in possible


def test_a_power_cut_loses_tears_and_keeps_unflushed_writes(world: World) -> None:
    seen = set()
    for seed in range(20):
        layers = world.open(new_id())
        world.target.open_writer(world.replica, layers[0], 1).write(0, b"x" * GRAIN)
        world.host.crash(Random(seed))
        left = world.host.content(world.replica.replica_id, layers[0].point_id, "system").count(b"x")
        seen.add("kept" if left == GRAIN else "torn" if left else "lost")
        assert left % SECTOR == 0
        world.target.abort(world.replica, layers[0].point_id, layers)
    assert seen == {"kept", "torn", "lost"}


def test_the_page_cache_survives_the_death_of_a_writer_but_not_a_power_cut(world: World) -> None:
    layers = world.open(new_id())
    writer = world.target.open_writer(world.replica, layers[0], 1)
    writer.write(0, b"x" * GRAIN)
    world.host.kill_writers()
    assert _code(writer.flush) == Code.TARGET_WRITE_ERROR
    successor = world.target.open_writer(world.replica, layers[0], 2)
    assert successor.read(0, GRAIN) == b"x" * GRAIN
    successor.flush()
    world.host.crash(Random(0))
    assert _code(lambda: successor.read(0, 1)) == Code.HOST_UNREACHABLE
    assert world.target.open_writer(world.replica, layers[0], 3).read(0, GRAIN) == b"x" * GRAIN


def test_what_a_dead_server_kept_to_itself_can_be_lost(world: World) -> None:
    left = set()
    for seed in range(20):
        layers = world.open(new_id())
        world.target.open_writer(world.replica, layers[0], 1).write(0, b"x" * GRAIN)
        world.host.kill_writers(Random(seed))
        left.add(world.host.content(world.replica.replica_id, layers[0].point_id, "system").count(b"x"))
        world.target.abort(world.replica, layers[0].point_id, layers)
    assert {0, GRAIN} < left


def test_a_committed_point_survives_every_power_cut(world: World) -> None:
    first = world.point(b"1" * GRAIN)
    layers = world.open(new_id())
    with closing(world.target.open_writer(world.replica, layers[0], 1)) as writer:
        writer.write(0, b"2" * GRAIN)
        world.host.crash(Random(1))
    assert world.content(first) == {b"1" * GRAIN}


def test_a_commit_makes_durable_what_no_writer_flushed(world: World) -> None:
    for seed in range(10):
        layers = world.open(new_id())
        for layer in layers:
            world.target.open_writer(world.replica, layer, 1).write(0, bytes([seed]) * GRAIN)
        world.commit(layers)
        world.host.crash(Random(seed))
        assert world.content(layers[0].point_id) == {bytes([seed]) * GRAIN}


def test_a_power_cut_in_the_midst_of_a_flush_may_leave_a_part(world: World) -> None:
    layers = world.open(new_id())
    writer = world.target.open_writer(world.replica, layers[0], 1)
    writer.write(0, b"x" * GRAIN)
    world.host.crash_at("flush", "called", Random(3))
    assert _code(writer.flush) == Code.HOST_UNREACHABLE
    assert world.journal().open_point_id == layers[0].point_id


# --- half-way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["died", "power"])
@pytest.mark.parametrize("step", STEPS["commit"])
def test_a_commit_that_broke_off_is_finished_by_the_next(world: World, step: str, fault: str) -> None:
    first = world.point(b"1" * GRAIN)
    layers = world.open(new_id())
    world.write(layers, b"2" * GRAIN)
    if fault == "died":
        world.host.fail_at("commit", step, Died())
    else:
        world.host.crash_at("commit", step, Random(1))
    with pytest.raises((Died, BootpointError)):
        world.commit(layers)
    visible = {point.point_id for point in world.journal().points}
    before = STEPS["commit"].index(step) <= STEPS["commit"].index("journal")
    assert visible == ({first} if before else {first, layers[0].point_id})
    world.commit(layers)
    assert [point.point_id for point in world.journal().points] == [first, layers[0].point_id]
    assert world.content(first) == {b"1" * GRAIN}
    assert world.content(layers[0].point_id) == {b"2" * GRAIN}
    manifest = world.host.manifest_of(world.replica.replica_id)
    assert manifest is not None
    assert len(manifest.runbook.splitlines()) == 3
    assert (world.journal().drift, world.journal().standby) == (None, "off")
    standby = world.target.start(world.replica, StartRequest())
    world.host.guest_write(standby.name, "system", 0, b"g" * GRAIN)
    assert world.content(layers[0].point_id) == {b"2" * GRAIN}


@pytest.mark.parametrize("step", STEPS["open"])
def test_an_open_that_broke_off_is_finished_by_the_next(world: World, step: str) -> None:
    point_id = new_id()
    world.host.fail_at("open", step, Died())
    with pytest.raises(Died):
        world.open(point_id)
    layers = world.open(point_id)
    assert world.journal().open_layers == layers
    assert set(world.host.layers) == {layer.identity for layer in layers}


@pytest.mark.parametrize("step", STEPS["abort"])
def test_an_abort_that_broke_off_is_finished_by_the_next_call(world: World, step: str) -> None:
    first = world.point(b"1" * GRAIN)
    layers = world.open(new_id())
    writer = world.target.open_writer(world.replica, layers[0], 1)
    world.host.fail_at("abort", step, Died())
    with pytest.raises(Died):
        world.target.abort(world.replica, layers[0].point_id, layers)
    world.target.abort(world.replica, layers[0].point_id, layers)
    assert world.journal().open_point_id is None
    with pytest.raises(Fenced):
        writer.write(0, b"late")
    second = world.open(new_id())
    assert not {layer.identity for layer in layers} & set(world.host.layers)
    assert {layer.identity for layer in second} <= set(world.host.layers)
    assert world.content(first) == {b"1" * GRAIN}


@pytest.mark.parametrize("fault", ["died", "power"])
@pytest.mark.parametrize("step", STEPS["consolidate"])
def test_a_merge_that_broke_off_is_finished_by_the_next(world: World, step: str, fault: str) -> None:
    first, second, third = (world.point(data * GRAIN) for data in (b"1", b"2", b"3"))
    if fault == "died":
        world.host.fail_at("consolidate", step, Died())
    else:
        world.host.crash_at("consolidate", step, Random(1))
    with pytest.raises((Died, BootpointError)):
        world.target.consolidate(world.replica, first)
    journal = world.journal()
    listed = [point.point_id for point in journal.points]
    assert listed in ([first, second, third], [second, third])
    assert world.content(second) == {b"2" * GRAIN}
    if journal.consolidating is not None:
        assert _code(lambda: world.open(new_id())) == Code.BUSY
    world.target.consolidate(world.replica, first)
    journal = world.journal()
    assert ([point.point_id for point in journal.points], journal.consolidating) == ([second, third], None)
    assert (world.content(second), world.content(third)) == ({b"2" * GRAIN}, {b"3" * GRAIN})
    manifest = world.host.manifest_of(world.replica.replica_id)
    assert manifest is not None
    assert len(manifest.runbook.splitlines()) == 3
    assert set(world.host.layers) == manifest.layer_names()


@pytest.mark.parametrize("step", STEPS["remove"])
def test_a_remove_that_broke_off_is_finished_by_the_next(world: World, step: str) -> None:
    world.point(b"1" * GRAIN)
    world.target.start(world.replica, StartRequest(test_id="t"))
    world.host.fail_at("remove", step, Died())
    with pytest.raises(Died):
        world.target.remove(world.replica)
    world.target.remove(world.replica)
    assert (world.host.layers, world.host.vms, world.host.manifests) == ({}, {}, {})


def _call(world: World, verb: str) -> None:
    if verb == "discard":
        world.target.discard(world.replica, datetime(2026, 12, 4, tzinfo=UTC))
    elif verb == "restore":
        world.target.restore(world.replica)
    else:
        world.target.purge(world.replica)


@pytest.mark.parametrize("fault", ["died", "power"])
@pytest.mark.parametrize("verb", ["discard", "restore", "purge"])
def test_a_deletion_that_broke_off_at_any_step_is_finished_by_the_next(verb: str, fault: str) -> None:
    for step in STEPS[verb]:
        world = _world()
        first, second = (world.point(data * GRAIN) for data in (b"1", b"2"))
        if verb != "discard":
            _call(world, "discard")
        if fault == "died":
            world.host.fail_at(verb, step, Died())
        else:
            world.host.crash_at(verb, step, Random(1))
        with pytest.raises((Died, BootpointError)):
            _call(world, verb)
        _call(world, verb)
        if verb == "purge":
            assert (world.host.layers, world.host.vms, world.host.manifests) == ({}, {}, {})
            continue
        assert (world.target.inspect(world.replica) is None) is (verb == "discard")
        world.target.restore(world.replica)
        assert (world.content(first), world.content(second)) == ({b"1" * GRAIN}, {b"2" * GRAIN})
        assert world.journal().drift is None
        manifest = world.host.manifest_of(world.replica.replica_id)
        assert manifest is not None
        assert set(world.host.layers) == manifest.layer_names()


@pytest.mark.parametrize("test_id", [None, "t"])
@pytest.mark.parametrize("step", STEPS["start"])
def test_a_start_that_broke_off_is_finished_by_the_next(world: World, step: str, test_id: str | None) -> None:
    point = world.point(b"1" * GRAIN)
    world.host.fail_at("start", step, Died())
    with pytest.raises(Died):
        world.target.start(world.replica, StartRequest(test_id=test_id))
    assert world.journal().drift is None
    with suppress(BootpointError):  # standby_running, when all was done but the answer
        world.target.start(world.replica, StartRequest(test_id=test_id))
    assert world.journal().standby == ("running" if test_id is None else "test")
    world.target.stop(world.replica, test_id)
    assert (world.journal().standby, world.journal().drift) == ("off", None)
    assert world.content(point) == {b"1" * GRAIN}


# --- what arrives late ------------------------------------------------------------------------------------


def test_a_write_that_arrives_after_the_takeover_is_refused(world: World) -> None:
    layers = world.open(new_id())
    late = world.target.open_writer(world.replica, layers[0], 1)
    pause = world.host.pause_at("write", "called")
    raised: list[BaseException] = []

    def write() -> None:
        try:
            late.write(0, b"late" * 128)
        except Fenced as fenced:
            raised.append(fenced)

    thread = threading.Thread(target=write)
    thread.start()
    pause.wait()
    successor = world.target.open_writer(world.replica, layers[0], 2)
    pause.release()
    thread.join()
    assert len(raised) == 1
    assert successor.read(0, 512) == bytes(512)


def test_an_abort_that_arrives_after_the_next_open_touches_nothing(world: World) -> None:
    earlier = world.open(new_id())
    other = connect(HostAccess(name="h", kind="fake", address=world.host.name, port=0, user="root"))
    pause = world.host.pause_at("abort", "called")
    late = threading.Thread(target=other.abort, args=(world.replica, earlier[0].point_id, earlier))
    late.start()
    pause.wait()
    world.target.abort(world.replica, earlier[0].point_id, earlier)
    layers = world.open(new_id())
    writer = world.target.open_writer(world.replica, layers[0], 1)
    pause.release()
    late.join()
    writer.write(0, b"x" * 512)
    writer.flush()
    assert world.journal().open_layers == layers


def test_a_cut_session_takes_its_writers_along_and_heals(world: World) -> None:
    layers = world.open(new_id())
    writer = world.target.open_writer(world.replica, layers[0], 1)
    world.host.disconnect_at("inspect", "called")
    assert _code(world.journal) == Code.HOST_UNREACHABLE
    assert _code(lambda: writer.write(0, b"x")) == Code.HOST_UNREACHABLE
    assert world.journal().open_layers == layers


# --- the host's answers -----------------------------------------------------------------------------------


def test_a_host_that_is_away_or_another_is_said(world: World) -> None:
    access = HostAccess(name="h", kind="fake", address=world.host.name, port=0, user="root")
    assert _code(connect(replace(access, fingerprint="SHA256:other")).inspect_host) == Code.HOST_KEY_CHANGED
    world.host.password = "secret"
    assert _code(connect(replace(access, password="wrong")).inspect_host) == Code.HOST_AUTH
    assert connect(replace(access, password="secret", fingerprint="SHA256:fake")).inspect_host().problems == ()
    world.host.reachable = False
    assert _code(connect(access).inspect_host) == Code.HOST_UNREACHABLE


def test_a_full_storage_is_said_at_the_opening_and_at_the_writing() -> None:
    thick = _world(room=2 * SIZE - 1, provisioning="thick")
    assert _code(lambda: thick.open(new_id())) == Code.HOST_FULL
    thin = _world(room=3 * GRAIN)
    layers = thin.open(new_id())
    writer = thin.target.open_writer(thin.replica, layers[0], 1)
    writer.write(0, bytes(3 * GRAIN))
    writer.write(0, b"again" * 100)
    assert _code(lambda: writer.write(3 * GRAIN, b"x")) == Code.HOST_FULL
    writer.zero(0, GRAIN)
    assert thin.target.inspect_host().storages[0].free_bytes == GRAIN
    writer.write(3 * GRAIN, b"x")


def test_a_damaged_layer_fails_the_targets_check_and_the_head_stays(world: World) -> None:
    first = world.point(b"1" * GRAIN)
    layers = world.open(new_id())
    world.host.damage(layers[1].identity)
    assert _code(lambda: world.commit(layers)) == Code.TARGET_CHECK_FAILED
    assert [point.point_id for point in world.journal().points] == [first]


def test_a_rotten_byte_shows_in_the_point(world: World) -> None:
    point = world.point(b"1" * GRAIN)
    world.host.rot(world.replica.replica_id, point, "data", 5)
    content = world.host.content(world.replica.replica_id, point, "data")
    assert [place for place in range(GRAIN) if content[place] != ord("1")] == [5]


def test_what_an_operator_started_is_drift_and_its_changes_are_kept(world: World) -> None:
    first = world.point(b"1" * GRAIN)
    world.host.operator_start("erp")
    assert "running" in str(world.journal().drift)
    world.host.guest_write("erp", "system", 0, b"operator")
    second = world.point(b"2" * GRAIN)
    world.host.operator_stop("erp")
    third = world.point(b"3" * GRAIN)
    manifest = world.host.manifest_of(world.replica.replica_id)
    assert manifest is not None
    kept = world.host.layers[manifest.branches[0].layers["system"]]
    assert kept.read(0, 8) == b"operator"
    assert "kept" in str(world.journal().drift)
    assert [world.content(point) for point in (first, second, third)] == [{c * GRAIN} for c in (b"1", b"2", b"3")]


def test_a_fault_strikes_the_named_call_only(world: World) -> None:
    world.host.fail_at("inspect", "called", OSError("third"), after=2)
    world.journal()
    world.journal()
    with pytest.raises(OSError, match="third"):
        world.journal()
    world.journal()
    with pytest.raises(ValueError, match="no step"):
        world.host.fail_at("commit", "lunch", OSError())


def test_an_address_leads_to_the_same_host() -> None:
    name = f"address-{new_id()}"
    assert FakeHost.at(name) is FakeHost.at(name)
