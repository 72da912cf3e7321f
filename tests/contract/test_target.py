"""What every driver of a target host promises (`bootpoint_worker.targets.base`), tried on each of them."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from bootpoint_common.errors import BootpointError, Code, Fenced, RetryableError
from bootpoint_common.identity import new_id
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.targets.base import PIECE, PIECES_KEPT, LayerWriter, StartRequest, Target
from bootpoint_worker.targets.journal import Journal, JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Nic, Replica, ReplicaDisk
from tests.contract.drivers import FACTORIES, Driver

#: Size of the disks that are tried: a few grains, and not a multiple of one.
SIZE = 4 * MiB + 5 * 4096

#: An address that every kind of host takes: vSphere lets only some be set by hand.
MAC = "00:50:56:12:34:56"

START = datetime(2026, 12, 3, 10, 0, tzinfo=UTC)


@dataclass
class Bench:
    """A replica on a host, with a short way to say what a test does."""

    driver: Driver
    target: Target
    replica: Replica
    sizes: dict[str, int] = field(default_factory=dict)
    committed: int = 0

    def opened(self, base: JournalPoint | None = None, *, point_id: UUID | None = None, epoch: int = 1) -> OpenPoint:
        """Return a point to open above ``base``."""
        disks = tuple(OpenDisk(d.slot, new_id(), self.sizes.get(d.slot, d.size_bytes)) for d in self.replica.disks)
        return OpenPoint(point_id or new_id(), base.point_id if base else None, epoch, disks)

    def open(self, base: JournalPoint | None = None, *, epoch: int = 1) -> dict[str, Layer]:
        """Open a new point; returns its layers by slot."""
        layers = self.target.open(self.replica, self.opened(base, epoch=epoch))
        return {layer.slot: layer for layer in layers}

    def commit_point(self, layers: dict[str, Layer], *, epoch: int = 1) -> CommitPoint:
        """Return what commits these layers."""
        self.committed += 1
        instant = START + timedelta(minutes=self.committed)
        return CommitPoint(
            point_id=next(iter(layers.values())).point_id,
            name=f"V{instant:%Y%m%d_%H%M%S}",
            sequence=self.committed,
            instant=instant,
            kind="full" if self.committed == 1 else "increment",
            consistency="fs",
            epoch=epoch,
            layers=tuple(layers.values()),
            roots=dict.fromkeys(layers, f"{self.committed:064x}"),
        )

    def commit(self, layers: dict[str, Layer], *, epoch: int = 1) -> JournalPoint:
        return self.target.commit(self.replica, self.commit_point(layers, epoch=epoch))

    def write(self, layer: Layer, *writes: tuple[int, bytes], writer: int = 1) -> None:
        """Write, flush and close."""
        with closing(self.target.open_writer(self.replica, layer, writer)) as out:
            for offset, data in writes:
                out.write(offset, data)
            out.flush()

    def point(self, base: JournalPoint | None, *writes: tuple[int, bytes]) -> JournalPoint:
        """Make a committed point with these writes on every disk."""
        layers = self.open(base)
        for layer in layers.values():
            self.write(layer, *writes)
        return self.commit(layers)

    def read(self, point_id: UUID, slot: str = "system", *, size: int = SIZE) -> bytes:
        """Return all bytes of a disk."""
        with closing(self.target.open_reader(self.replica, point_id, slot)) as reader:
            assert reader.size_bytes == size
            return reader.read(0, size)

    def journal(self) -> Journal:
        journal = self.target.inspect(self.replica)
        assert journal is not None
        return journal


def _replica(driver: Driver, *, disks: int) -> Replica:
    name = f"erp-{new_id().hex[-12:]}"
    slots = ("system", "data")[:disks]
    nic = Nic(driver.network, "virtio", MAC) if driver.network else None
    return Replica(
        replica_id=new_id(),
        job="erp-db",
        vm_name=name,
        storage=driver.storage,
        folder="bootpoint",
        cpus=1,
        memory_bytes=64 * MiB,
        firmware="bios",
        disks=tuple(ReplicaDisk(slot, SIZE, f"{name}-{slot}") for slot in slots),
        nics=(nic,) if nic else (),
    )


def _bench(driver: Driver, disks: int) -> Iterator[Bench]:
    with closing(driver.connect()) as target:
        replica = _replica(driver, disks=disks)
        target.create(replica)
        yield Bench(driver, target, replica)
        target.remove(replica)


@pytest.fixture(params=sorted(FACTORIES))
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """A driver with a host of its own."""
    with FACTORIES[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def bench(driver: Driver) -> Iterator[Bench]:
    """A replica with one disk."""
    yield from _bench(driver, 1)


@pytest.fixture
def two_disks(driver: Driver) -> Iterator[Bench]:
    """A replica with two disks."""
    yield from _bench(driver, 2)


def _pattern(seed: int, length: int) -> bytes:
    return Random(seed).randbytes(length)


def _at(content: bytes | None, *writes: tuple[int, bytes], size: int = SIZE) -> bytes:
    """Return a disk's content after some writes, worked out without any driver."""
    disk = bytearray(content or bytes(size))
    disk.extend(bytes(size - len(disk)))
    for offset, data in writes:
        disk[offset : offset + len(data)] = data
    return bytes(disk)


def _code(call: Callable[[], object]) -> Code:
    """Return the code of the error that a call raises."""
    with pytest.raises(BootpointError) as caught:
        call()
    return caught.value.code


def _write_through(writer: LayerWriter, offset: int, data: bytes) -> None:
    writer.write(offset, data)
    writer.flush()


def _refused(call: Callable[[], object]) -> None:
    """Assert that a call on a layer that isn't its caller's any more is refused."""
    with pytest.raises((Fenced, RetryableError)):
        call()


# --- host and replica -------------------------------------------------------------------------------------


def test_a_host_says_what_it_has(driver: Driver) -> None:
    with closing(driver.connect()) as target:
        info = target.inspect_host()
    storage = next(s for s in info.storages if s.name == driver.storage)
    assert 0 < storage.free_bytes <= storage.size_bytes
    assert "virtio" in info.buses
    assert info.cpus > 0
    assert info.problems == ()


def test_a_new_replica_is_empty_and_creating_it_again_changes_nothing(bench: Bench) -> None:
    bench.target.create(bench.replica)
    journal = bench.journal()
    assert journal.replica_id == bench.replica.replica_id
    assert (journal.points, journal.open_point_id, journal.standby, journal.drift) == ((), None, "off", None)


def test_the_room_for_a_replica_is_known_before_it_is_made(driver: Driver) -> None:
    replica = _replica(driver, disks=1)
    with closing(driver.connect()) as target:
        storage = next(s for s in target.inspect_host().storages if s.name == driver.storage)
        assert 0 < target.free_bytes(replica) <= storage.size_bytes
        elsewhere = replace(replica, storage="no-such-storage")
        assert _code(lambda: target.free_bytes(elsewhere)) == Code.STORAGE_UNKNOWN


def test_a_dry_run_makes_nothing(driver: Driver) -> None:
    replica = _replica(driver, disks=1)
    with closing(driver.connect()) as target:
        target.create(replica, dry_run=True)
        assert target.inspect(replica) is None


def test_what_the_host_lacks_is_said_by_a_dry_run(driver: Driver) -> None:
    replica = _replica(driver, disks=1)
    with closing(driver.connect()) as target:
        elsewhere = replace(replica, storage="no-such-storage")
        assert _code(lambda: target.create(elsewhere, dry_run=True)) == Code.STORAGE_UNKNOWN
        card = Nic("no-such-network", "virtio", MAC)
        unconnected = replace(replica, nics=(card,))
        assert _code(lambda: target.create(unconnected, dry_run=True)) == Code.NETWORK_UNKNOWN


def test_the_name_of_another_vm_is_refused(driver: Driver) -> None:
    replica = _replica(driver, disks=1)
    driver.hooks.add_vm(replica.vm_name)
    with closing(driver.connect()) as target:
        assert _code(lambda: target.create(replica)) == Code.VM_NAME_TAKEN
        assert _code(lambda: target.create(replica, dry_run=True)) == Code.VM_NAME_TAKEN


def test_another_replica_in_the_same_place_is_never_touched(bench: Bench) -> None:
    data = _pattern(1, GRAIN)
    point = bench.point(None, (0, data))
    stranger = replace(bench.replica, replica_id=new_id())
    assert _code(lambda: bench.target.create(stranger)) == Code.VM_NAME_TAKEN
    assert _code(lambda: bench.target.inspect(stranger)) == Code.VM_NAME_TAKEN
    assert _code(lambda: bench.target.remove(stranger)) == Code.VM_NAME_TAKEN
    assert bench.read(point.point_id) == _at(None, (0, data))


def test_an_existing_replica_takes_new_values_and_keeps_its_points(bench: Bench) -> None:
    point = bench.point(None, (0, b"x" * 512))
    bench.target.create(replace(bench.replica, cpus=2, memory_bytes=128 * MiB))
    assert bench.journal().head == point


def test_a_removed_replica_is_gone_and_can_be_removed_again(bench: Bench) -> None:
    point = bench.point(None, (0, b"x" * 512))
    bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True))
    bench.open(point)
    bench.target.remove(bench.replica)
    bench.target.remove(bench.replica)
    assert bench.target.inspect(bench.replica) is None
    names = {vm.name for vm in bench.target.inspect_host().vms}
    assert not {name for name in names if name.startswith(bench.replica.vm_name)}


# --- layers -----------------------------------------------------------------------------------------------


def test_what_was_written_is_what_the_point_shows(bench: Bench) -> None:
    writes = [(0, _pattern(1, GRAIN)), (3 * GRAIN + 512, _pattern(2, 4096)), (SIZE - 512, _pattern(3, 512))]
    point = bench.point(None, *writes)
    assert bench.read(point.point_id) == _at(None, *writes)
    assert [disk.size_bytes for disk in point.disks] == [SIZE]
    assert bench.journal().points == (point,)


def test_a_writer_reads_back_what_it_wrote_before_any_flush(bench: Bench) -> None:
    first = bench.point(None, (0, _pattern(1, 2 * GRAIN)))
    layer = bench.open(first)["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer:
        writer.write(GRAIN, _pattern(2, GRAIN))
        writer.zero(0, GRAIN)
        assert writer.read(0, 2 * GRAIN) == bytes(GRAIN) + _pattern(2, GRAIN)


@pytest.mark.parametrize(("offset", "length"), [(0, 2 * GRAIN), (GRAIN, GRAIN), (512, 4096), (0, SIZE)])
def test_zero_hides_the_base(bench: Bench, offset: int, length: int) -> None:
    base = _pattern(1, SIZE)
    first = bench.point(None, (0, base))
    layer = bench.open(first)["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer:
        writer.zero(offset, length)
        writer.flush()
    second = bench.commit({"system": layer})
    assert bench.read(second.point_id) == _at(base, (offset, bytes(length)))
    assert bench.read(first.point_id) == base


def test_a_range_outside_the_disk_is_refused(bench: Bench) -> None:
    layer = bench.open()["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer, pytest.raises(RetryableError):
        _write_through(writer, SIZE, b"x" * 512)
    with closing(bench.target.open_writer(bench.replica, layer, 2)) as writer:
        assert writer.read(0, SIZE) == bytes(SIZE)


def test_extents_cover_the_range_and_zero_is_certain(bench: Bench) -> None:
    point = bench.point(None, (2 * GRAIN, _pattern(1, GRAIN)), (9 * GRAIN, _pattern(2, 2 * GRAIN)))
    content = bench.read(point.point_id)
    with closing(bench.target.open_reader(bench.replica, point.point_id, "system")) as reader:
        extents = list(reader.extents(GRAIN, SIZE - GRAIN))
    position = GRAIN
    for offset, length, zero in extents:
        assert offset == position
        assert not zero or content[offset : offset + length] == bytes(length)
        position += length
    assert position == SIZE
    assert any(zero for _, _, zero in extents)


def test_a_stream_gives_every_range_in_order_and_keeps_what_was_taken_last(bench: Bench) -> None:
    data = _pattern(1, SIZE)
    point = bench.point(None, (0, data))
    ranges = [(0, 512), (GRAIN, 3 * MiB + 4096), (SIZE - 512, 512), *((at * GRAIN, GRAIN) for at in range(20))]
    with closing(bench.target.open_reader(bench.replica, point.point_id, "system")) as reader:
        kept: deque[tuple[int, memoryview]] = deque(maxlen=PIECES_KEPT)
        read: list[tuple[int, int]] = []
        for offset, piece in reader.stream(ranges):
            assert len(piece) <= PIECE
            kept.append((offset, piece))
            read.append((offset, len(piece)))
            assert all(data[at : at + len(held)] == held for at, held in kept)
        parts = [
            (at, min(PIECE, offset + length - at))
            for offset, length in ranges
            for at in range(offset, offset + length, PIECE)
        ]
        assert read == parts
        # One that is given up half-way leaves a reader that still reads.
        with closing(reader.stream([(0, SIZE)])) as stream:
            next(stream)
        assert reader.read(0, SIZE) == data
        with pytest.raises(RetryableError):
            list(reader.stream([(SIZE, 512)]))


def test_a_host_finds_its_replicas_by_itself(bench: Bench) -> None:
    point = bench.point(None, (0, _pattern(1, GRAIN)))
    found = {each.journal.replica_id: each for each in bench.target.find_replicas()}[bench.replica.replica_id]
    assert found.journal.points == (point,)
    assert found.replica.vm_name == bench.replica.vm_name
    with closing(bench.target.open_reader(found.replica, point.point_id, "system")) as reader:
        assert reader.read(0, GRAIN) == _pattern(1, GRAIN)


def test_a_grown_disk_goes_on_in_a_larger_layer(bench: Bench) -> None:
    base = _pattern(1, SIZE)
    first = bench.point(None, (0, base))
    larger = SIZE + 3 * MiB
    bench.sizes["system"] = larger
    layer = bench.open(first)["system"]
    bench.write(layer, (larger - GRAIN, _pattern(2, GRAIN)))
    second = bench.commit({"system": layer})
    expected = _at(base, (larger - GRAIN, _pattern(2, GRAIN)), size=larger)
    assert bench.read(second.point_id, size=larger) == expected
    assert bench.read(first.point_id) == base
    assert second.disks[0].size_bytes == larger


def test_a_shrunk_disk_is_refused(bench: Bench) -> None:
    first = bench.point(None)
    bench.sizes["system"] = SIZE - MiB
    assert _code(lambda: bench.open(first)) == Code.DISK_CHANGED
    assert bench.journal().open_point_id is None


# --- open -------------------------------------------------------------------------------------------------


def test_opening_again_gives_the_same_layers_with_what_was_written(bench: Bench) -> None:
    point = bench.opened()
    layers = bench.target.open(bench.replica, point)
    bench.write(layers[0], (0, b"y" * 4096))
    assert bench.target.open(bench.replica, point) == layers
    assert bench.journal().open_layers == layers
    with closing(bench.target.open_writer(bench.replica, layers[0], 2)) as writer:
        assert writer.read(0, 4096) == b"y" * 4096


def test_a_second_point_waits_for_the_open_one(bench: Bench) -> None:
    layers = bench.open()
    assert _code(bench.open) == Code.POINT_OPEN
    assert bench.journal().open_layers == tuple(layers.values())


def test_an_increment_on_another_base_is_refused(bench: Bench) -> None:
    first = bench.point(None)
    bench.point(first)
    for base in (first, None, replace(first, point_id=new_id())):
        assert _code(lambda base=base: bench.open(base)) == Code.BASE_MISMATCH  # type: ignore[misc]
    assert bench.journal().open_point_id is None


def test_a_run_of_an_earlier_epoch_is_refused(bench: Bench) -> None:
    layers = bench.open(epoch=3)
    head = bench.commit(layers, epoch=3)
    assert _code(lambda: bench.open(head, epoch=2)) == Code.EPOCH_STALE
    assert bench.journal().epoch == 3
    assert bench.open(head, epoch=3)


def test_points_are_read_while_a_layer_is_open_and_written(bench: Bench) -> None:
    base = _pattern(1, SIZE)
    first = bench.point(None, (0, base))
    layer = bench.open(first)["system"]
    with (
        closing(bench.target.open_writer(bench.replica, layer, 1)) as writer,
        closing(bench.driver.connect()) as other,
        closing(other.open_reader(bench.replica, first.point_id, "system")) as reader,
    ):
        _write_through(writer, 0, bytes(SIZE))
        assert reader.read(0, SIZE) == base


def test_the_open_layer_is_read_when_nobody_writes_it(bench: Bench) -> None:
    layer = bench.open()["system"]
    bench.write(layer, (GRAIN, _pattern(1, GRAIN)))
    assert bench.read(layer.point_id) == _at(None, (GRAIN, _pattern(1, GRAIN)))


def test_a_point_that_is_not_there_cannot_be_read(bench: Bench) -> None:
    assert _code(lambda: bench.target.open_reader(bench.replica, new_id(), "system")) == Code.NO_SUCH_POINT


# --- fences -----------------------------------------------------------------------------------------------


def test_a_later_writer_ends_the_earlier_one(bench: Bench) -> None:
    layer = bench.open()["system"]
    with closing(bench.driver.connect()) as other:
        late = bench.target.open_writer(bench.replica, layer, 1)
        _write_through(late, 0, b"a" * GRAIN)
        with closing(other.open_writer(bench.replica, layer, 2)) as writer:
            assert writer.read(0, GRAIN) == b"a" * GRAIN
            _write_through(writer, GRAIN, b"b" * GRAIN)
            _refused(lambda: _write_through(late, 0, b"late" * 128))
            _refused(late.flush)
        late.close()
    point = bench.commit({"system": layer})
    assert bench.read(point.point_id) == _at(None, (0, b"a" * GRAIN), (GRAIN, b"b" * GRAIN))


def test_a_lower_writer_number_gets_no_hold(bench: Bench) -> None:
    layer = bench.open()["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 5)) as writer:
        with pytest.raises(Fenced):
            bench.target.open_writer(bench.replica, layer, 4)
        _write_through(writer, 0, b"b" * 512)
    with pytest.raises(Fenced):
        bench.target.open_writer(bench.replica, layer, 4)


def test_nobody_writes_a_committed_point(bench: Bench) -> None:
    layer = bench.open()["system"]
    late = bench.target.open_writer(bench.replica, layer, 1)
    _write_through(late, 0, b"a" * 512)
    point = bench.commit({"system": layer})
    _refused(lambda: _write_through(late, 0, b"late" * 128))
    late.close()
    with pytest.raises(Fenced):
        bench.target.open_writer(bench.replica, layer, 2)
    assert bench.read(point.point_id) == _at(None, (0, b"a" * 512))


def test_nobody_writes_an_aborted_layer(bench: Bench) -> None:
    layer = bench.open()["system"]
    late = bench.target.open_writer(bench.replica, layer, 1)
    bench.target.abort(bench.replica, layer.point_id, [layer])
    _refused(lambda: _write_through(late, 0, b"late" * 128))
    late.close()
    _refused(lambda: bench.target.open_writer(bench.replica, layer, 2))


def test_a_killed_writer_is_followed_by_another_that_finds_what_was_flushed(bench: Bench) -> None:
    layer = bench.open()["system"]
    writer = bench.target.open_writer(bench.replica, layer, 1)
    _write_through(writer, 0, b"a" * GRAIN)
    bench.driver.hooks.kill_writers()
    with pytest.raises(RetryableError):
        _write_through(writer, GRAIN, b"late" * 128)
    writer.close()
    with closing(bench.target.open_writer(bench.replica, layer, 2)) as successor:
        assert successor.read(0, GRAIN) == b"a" * GRAIN
        _write_through(successor, GRAIN, b"b" * GRAIN)
    point = bench.commit({"system": layer})
    assert bench.read(point.point_id) == _at(None, (0, b"a" * GRAIN), (GRAIN, b"b" * GRAIN))


def test_a_lost_layer_is_not_written_and_not_committed(bench: Bench) -> None:
    head = bench.point(None, (0, b"x" * 512))
    layer = bench.open(head)["system"]
    bench.driver.hooks.lose_layer(bench.replica, layer)
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 1)) == Code.LAYER_LOST
    assert _code(lambda: bench.commit({"system": layer})) == Code.LAYER_LOST
    bench.target.abort(bench.replica, layer.point_id, [layer])
    assert bench.journal().head == head
    assert bench.open(head)


def test_a_layer_of_another_name_is_not_written(bench: Bench) -> None:
    layer = bench.open()["system"]
    other = replace(layer, identity=f"{layer.identity}x")
    assert _code(lambda: bench.target.open_writer(bench.replica, other, 1)) == Code.LAYER_LOST


# --- commit and abort -------------------------------------------------------------------------------------


def test_committing_again_returns_the_same_point(bench: Bench) -> None:
    layers = bench.open()
    bench.write(layers["system"], (0, b"a" * 512))
    wanted = bench.commit_point(layers)
    point = bench.target.commit(bench.replica, wanted)
    assert bench.target.commit(bench.replica, wanted) == point
    assert bench.journal().points == (point,)
    assert (point.name, point.sequence, point.instant, point.kind) == ("V20261203_100100", 1, wanted.instant, "full")
    assert point.disks[0].root == wanted.roots["system"]
    assert point.disks[0].stored_bytes > 0


def test_a_point_that_is_not_open_cannot_be_committed(bench: Bench) -> None:
    layers = bench.open()
    wanted = bench.commit_point(layers)
    bench.target.abort(bench.replica, wanted.point_id, wanted.layers)
    assert _code(lambda: bench.target.commit(bench.replica, wanted)) == Code.LAYER_LOST
    assert bench.journal().points == ()


def test_two_disks_appear_at_once(two_disks: Bench) -> None:
    layers = two_disks.open()
    two_disks.write(layers["system"], (0, b"s" * 512))
    two_disks.write(layers["data"], (0, b"d" * 512))
    assert two_disks.journal().points == ()
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        with closing(two_disks.driver.connect()) as other:
            while not done.is_set():
                journal = other.inspect(two_disks.replica)
                assert journal is not None
                seen.extend(len(point.disks) for point in journal.points)

    watcher = threading.Thread(target=watch)
    watcher.start()
    point = two_disks.commit(layers)
    done.set()
    watcher.join()
    assert set(seen) <= {2}
    assert two_disks.read(point.point_id, "system") == _at(None, (0, b"s" * 512))
    assert two_disks.read(point.point_id, "data") == _at(None, (0, b"d" * 512))


def test_a_disk_without_changes_is_part_of_the_point(two_disks: Bench) -> None:
    first = two_disks.point(None, (0, b"1" * GRAIN))
    layers = two_disks.open(first)
    two_disks.write(layers["data"], (0, b"2" * GRAIN))
    second = two_disks.commit(layers)
    assert two_disks.read(second.point_id, "system") == _at(None, (0, b"1" * GRAIN))
    assert two_disks.read(second.point_id, "data") == _at(None, (0, b"2" * GRAIN))


def test_aborting_leaves_the_head_as_it_was(bench: Bench) -> None:
    base = _pattern(1, SIZE)
    head = bench.point(None, (0, base))
    layer = bench.open(head)["system"]
    bench.write(layer, (0, bytes(SIZE)))
    for _ in range(2):
        bench.target.abort(bench.replica, layer.point_id, [layer])
    journal = bench.journal()
    assert (journal.head, journal.open_point_id, journal.open_layers) == (head, None, ())
    assert bench.read(head.point_id) == base


def test_an_abort_that_knows_no_layers_ends_the_open_point(bench: Bench) -> None:
    layer = bench.open()["system"]
    bench.target.abort(bench.replica, layer.point_id, [])
    assert bench.journal().open_point_id is None


def test_an_abort_delayed_past_the_next_open_touches_nothing(bench: Bench) -> None:
    earlier = bench.open()["system"]
    bench.target.abort(bench.replica, earlier.point_id, [earlier])
    layer = bench.open()["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer:
        writer.write(0, b"a" * GRAIN)
        bench.target.abort(bench.replica, earlier.point_id, [earlier])
        bench.target.abort(bench.replica, earlier.point_id, [])
        bench.target.abort(bench.replica, layer.point_id, [earlier])
        _write_through(writer, GRAIN, b"b" * GRAIN)
    point = bench.commit({"system": layer})
    assert bench.read(point.point_id) == _at(None, (0, b"a" * GRAIN), (GRAIN, b"b" * GRAIN))


def test_an_abort_of_a_committed_point_touches_nothing(bench: Bench) -> None:
    layers = bench.open()
    bench.write(layers["system"], (0, b"a" * 512))
    point = bench.commit(layers)
    bench.target.abort(bench.replica, point.point_id, list(layers.values()))
    assert bench.journal().points == (point,)
    assert bench.read(point.point_id) == _at(None, (0, b"a" * 512))


def test_every_point_of_a_chain_keeps_its_content(bench: Bench) -> None:
    random = Random(7)
    expected: dict[UUID, bytes] = {}
    content: bytes | None = None
    head: JournalPoint | None = None
    for _ in range(5):
        writes = [(random.randrange(SIZE // 512 - 16) * 512, random.randbytes(512 * 16)) for _ in range(4)]
        head = bench.point(head, *writes)
        content = expected[head.point_id] = _at(content, *writes)
    for point_id, wanted in expected.items():
        assert bench.read(point_id) == wanted


# --- VMs --------------------------------------------------------------------------------------------------


def test_a_test_vm_writes_beside_the_points(bench: Bench) -> None:
    base = _pattern(1, SIZE)
    first = bench.point(None, (0, base))
    second = bench.point(first, (0, b"2" * GRAIN))
    vm = bench.target.start(bench.replica, StartRequest(point_id=first.point_id, test_id="t1", paused=True))
    assert vm.name == f"{bench.replica.vm_name}-test-t1"
    assert vm.replica_id == bench.replica.replica_id
    bench.driver.hooks.guest_write(bench.replica, vm, "system", 0, b"guest" * 1024)
    assert bench.read(first.point_id) == base
    assert bench.read(second.point_id) == _at(base, (0, b"2" * GRAIN))
    assert bench.journal().drift is None
    for _ in range(2):
        bench.target.stop(bench.replica, "t1")
    assert vm.name not in {vm.name for vm in bench.target.inspect_host().vms}


def test_a_test_vm_runs_while_a_point_is_open_and_committed(bench: Bench) -> None:
    first = bench.point(None, (0, _pattern(1, GRAIN)))
    if not bench.target.can_test_while_open:
        return
    layer = bench.open(first)["system"]
    bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True))
    bench.write(layer, (0, b"2" * GRAIN))
    second = bench.commit({"system": layer})
    assert bench.read(second.point_id) == _at(None, (0, b"2" * GRAIN))
    assert bench.read(first.point_id) == _at(None, (0, _pattern(1, GRAIN)))
    bench.target.stop(bench.replica, "t1")


def test_the_standby_is_defined_by_the_first_commit_and_is_off(bench: Bench) -> None:
    bench.point(None, (0, b"x" * 512))
    journal = bench.journal()
    vm = next(vm for vm in bench.target.inspect_host().vms if vm.name == bench.replica.vm_name)
    assert (vm.state, vm.uuid, vm.replica_id) == ("off", journal.vm_uuid, bench.replica.replica_id)
    assert (journal.standby, journal.drift) == ("off", None)


def test_the_running_standby_is_refused_a_second_start_and_is_no_drift(bench: Bench) -> None:
    base = _pattern(1, SIZE)
    point = bench.point(None, (0, base))
    vm = bench.target.start(bench.replica, StartRequest())
    assert (vm.name, vm.state) == (bench.replica.vm_name, "running")
    assert (bench.journal().standby, bench.journal().drift) == ("running", None)
    assert _code(lambda: bench.target.start(bench.replica, StartRequest())) == Code.STANDBY_RUNNING
    for _ in range(2):
        bench.target.stop(bench.replica, None)
    assert (bench.journal().standby, bench.journal().drift) == ("off", None)
    assert bench.read(point.point_id) == base


def test_a_standby_that_ran_is_no_hindrance_to_the_next_point(bench: Bench) -> None:
    first = bench.point(None, (0, _pattern(1, GRAIN)))
    vm = bench.target.start(bench.replica, StartRequest(paused=True))
    bench.driver.hooks.guest_write(bench.replica, vm, "system", 0, b"guest" * 1024)
    bench.target.stop(bench.replica, None)
    assert bench.journal().drift is None
    second = bench.point(first, (GRAIN, b"2" * GRAIN))
    assert bench.read(second.point_id) == _at(None, (0, _pattern(1, GRAIN)), (GRAIN, b"2" * GRAIN))
    assert bench.journal().drift is None


def test_a_point_that_is_not_there_cannot_be_started(bench: Bench) -> None:
    assert _code(lambda: bench.target.start(bench.replica, StartRequest())) == Code.NO_SUCH_POINT
    bench.point(None)
    request = StartRequest(point_id=new_id(), test_id="t1")
    assert _code(lambda: bench.target.start(bench.replica, request)) == Code.NO_SUCH_POINT


def test_a_change_made_outside_bootpoint_is_drift(bench: Bench) -> None:
    bench.point(None, (0, _pattern(1, GRAIN)))
    vm = next(vm for vm in bench.target.inspect_host().vms if vm.name == bench.replica.vm_name)
    bench.driver.hooks.guest_write(bench.replica, vm, "system", 0, b"guest" * 1024)
    assert bench.journal().drift


def test_a_test_vm_is_looked_at_without_being_disturbed(bench: Bench) -> None:
    first = bench.point(None, (0, b"boots or not"))
    assert bench.target.look(bench.replica, "t1").state == "absent"
    bench.target.start(bench.replica, StartRequest(point_id=first.point_id, test_id="t1"))
    for _ in range(2):
        sight = bench.target.look(bench.replica, "t1")
        assert sight.state == "running"
        assert sight.resets == 0
    assert bench.target.look(bench.replica, "t2").state == "absent"
    assert bench.target.inspect_host().running_memory_bytes >= bench.replica.memory_bytes
    bench.target.stop(bench.replica, "t1")
    assert bench.target.look(bench.replica, "t1").state == "absent"
    assert bench.read(first.point_id) == _at(None, (0, b"boots or not"))


# --- revert -----------------------------------------------------------------------------------------------


def _stands(bench: Bench) -> tuple[UUID, bool]:
    standing = bench.journal().standing
    assert standing is not None
    assert standing.vm_name == bench.replica.vm_name
    return standing.point_id, standing.held


def test_a_reverted_standby_stays_where_it_is_until_it_is_let_go(bench: Bench) -> None:
    first = bench.point(None, (0, _pattern(1, GRAIN)))
    second = bench.point(first, (0, _pattern(2, GRAIN)))
    assert _stands(bench) == (second.point_id, False)
    for _ in range(2):
        vm = bench.target.revert(bench.replica, first.point_id)
        assert (vm.name, vm.uuid, vm.state) == (bench.replica.vm_name, bench.journal().vm_uuid, "off")
    third = bench.point(second, (0, _pattern(3, GRAIN)))
    assert _stands(bench) == (first.point_id, True)
    assert (bench.journal().standby, bench.journal().drift) == ("off", None)
    bench.target.revert(bench.replica, second.point_id)
    assert _stands(bench) == (second.point_id, True)
    bench.target.revert(bench.replica, None)
    assert _stands(bench) == (third.point_id, False)
    fourth = bench.point(third, (0, _pattern(4, GRAIN)))
    assert _stands(bench) == (fourth.point_id, False)
    for number, point in enumerate((first, second, third, fourth), start=1):
        assert bench.read(point.point_id) == _at(None, (0, _pattern(number, GRAIN)))


def test_a_reverted_standby_starts_from_where_it_stands(bench: Bench) -> None:
    first = bench.point(None, (0, _pattern(1, GRAIN)))
    second = bench.point(first, (0, _pattern(2, GRAIN)))
    bench.target.revert(bench.replica, first.point_id)
    bench.target.start(bench.replica, StartRequest())
    assert bench.journal().standby == "running"
    assert _stands(bench) == (first.point_id, True)
    assert _code(lambda: bench.target.revert(bench.replica, None)) == Code.STANDBY_RUNNING
    bench.target.stop(bench.replica, None)
    third = bench.point(second, (0, _pattern(3, GRAIN)))
    assert _stands(bench) == (first.point_id, True)
    bench.target.start(bench.replica, StartRequest(point_id=third.point_id, paused=True))
    assert _stands(bench) == (third.point_id, False)


def test_a_point_that_is_not_there_is_not_reverted_to(bench: Bench) -> None:
    assert _code(lambda: bench.target.revert(bench.replica, None)) == Code.NO_SUCH_POINT
    point = bench.point(None)
    assert _code(lambda: bench.target.revert(bench.replica, new_id())) == Code.NO_SUCH_POINT
    assert _stands(bench) == (point.point_id, False)


def test_a_revert_changes_no_point_though_the_standby_wrote(bench: Bench) -> None:
    first = bench.point(None, (0, _pattern(1, GRAIN)))
    second = bench.point(first, (0, _pattern(2, GRAIN)))
    vm = bench.target.start(bench.replica, StartRequest(point_id=first.point_id, paused=True))
    bench.driver.hooks.guest_write(bench.replica, vm, "system", 0, b"guest" * 1024)
    bench.target.revert(bench.replica, second.point_id)
    vm = bench.target.revert(bench.replica, first.point_id)
    bench.driver.hooks.guest_write(bench.replica, vm, "system", 0, b"other" * 1024)
    assert bench.journal().drift
    bench.target.revert(bench.replica, None)
    assert bench.read(first.point_id) == _at(None, (0, _pattern(1, GRAIN)))
    assert bench.read(second.point_id) == _at(None, (0, _pattern(2, GRAIN)))


def test_a_test_says_which_point_it_stands_on(bench: Bench) -> None:
    first = bench.point(None, (0, _pattern(1, GRAIN)))
    bench.point(first, (0, _pattern(2, GRAIN)))
    bench.target.start(bench.replica, StartRequest(point_id=first.point_id, test_id="t1", paused=True))
    tests = [(one.test_id, one.point_id) for one in bench.journal().standings if one.test_id]
    assert tests == [("t1", first.point_id)]
    bench.target.stop(bench.replica, "t1")
    assert [one for one in bench.journal().standings if one.test_id] == []


def test_a_point_is_shared_or_it_is_said_why_not(bench: Bench) -> None:
    point = bench.point(None, (0, _pattern(1, GRAIN)))
    if not bench.target.can_share:
        assert _code(lambda: bench.target.share(bench.replica, point.point_id, "system")) == Code.HOST_UNSUPPORTED
        return
    assert _code(lambda: bench.target.share(bench.replica, new_id(), "system")) == Code.NO_SUCH_POINT
    assert _code(lambda: bench.target.share(bench.replica, point.point_id, "tape")) == Code.NO_SUCH_POINT
    with bench.target.share(bench.replica, point.point_id, "system") as share:
        assert (share.slot, share.size_bytes) == ("system", SIZE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(share.socket)
            # NBD protocol, "newstyle negotiation": what a server says first.
            assert client.recv(8) == b"NBDMAGIC"


def _master_boot_record() -> bytes:
    """Return the first sector of a disk with a boot loader and a partition of nothing."""
    entry = b"\x80\0\0\0\x83\0\0\0" + (2048).to_bytes(4, "little") + (2048).to_bytes(4, "little")
    return (b"\xeb\x63" + bytes(444) + entry).ljust(510, b"\0") + b"\x55\xaa"


def test_a_point_is_examined_without_being_changed(bench: Bench) -> None:
    point = bench.point(None, (0, _master_boot_record()))
    assert bench.journal().profile is None
    profile = bench.target.examine(bench.replica, point.point_id)
    assert (profile.point_id, profile.firmware, profile.boot_disk) == (point.point_id, "bios", "system")
    assert profile.system.family == "unknown"
    assert bench.journal().profile == profile
    assert bench.journal().drift is None
    assert bench.read(point.point_id) == _at(None, (0, _master_boot_record()))
    second = bench.point(point, (GRAIN, b"2" * GRAIN))
    assert bench.journal().profile == profile
    assert bench.target.examine(bench.replica, second.point_id).point_id == second.point_id
    assert _code(lambda: bench.target.examine(bench.replica, new_id())) == Code.NO_SUCH_POINT


def test_a_machine_without_a_boot_loader_is_said_not_to_boot(bench: Bench) -> None:
    point = bench.point(None, (0, b"data"))
    profile = bench.target.examine(bench.replica, point.point_id)
    assert (profile.bootable, profile.boot_disk, profile.route) == (False, None, "none")


def test_a_conversion_that_fails_leaves_the_host_as_it_was(bench: Bench) -> None:
    point = bench.point(None, (0, _master_boot_record()))
    bench.target.examine(bench.replica, point.point_id)
    before, vms = bench.journal(), {vm.name for vm in bench.target.inspect_host().vms}
    request = StartRequest(test_id="t1", paused=True, conversion="light")
    assert _code(lambda: bench.target.start(bench.replica, request)) == Code.CONVERSION_FAILED
    assert bench.journal() == before
    assert {vm.name for vm in bench.target.inspect_host().vms} == vms
    assert bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True, conversion="none")).state == "off"
    bench.target.stop(bench.replica, "t1")
