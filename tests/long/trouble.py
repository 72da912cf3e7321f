"""What may go wrong with any host whose points are its own snapshots, and what others may do to a standby there.

Whatever it is, the point ends, and the next run succeeds. A module of tests takes these with an asterisk, and says by
the fixtures ``driver``, ``host`` and ``somebody`` on which host they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Protocol

import msgspec
import pytest

from bootpoint_common.errors import BootpointError, Code, Fenced
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.snapshots import place
from bootpoint_worker.targets.snapshots.target import SnapshotTarget
from tests.contract.drivers import Driver
from tests.contract.test_target import Bench, _at, _bench, _code, _pattern, _write_through

#: What the first point of each test shows.
BASE = (0, _pattern(1, 2 * GRAIN))


class Away(Protocol):
    """A host that can be gone for a while."""

    def cut(self) -> None:
        """Break all connections with it, and take no new ones."""

    def start(self) -> None:
        """Be there again."""


class Somebody(Protocol):
    """Somebody who has the standby in hand, by the hypervisor's own means."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """Switch it off."""

    def rename(self, name: str) -> None:
        """Give it another name."""

    def snapshot(self, name: str) -> None:
        """Make a snapshot of it."""

    def snapshots(self) -> list[str]:
        """Return the names of all its snapshots."""

    def remove_snapshots(self) -> None:
        """Remove all its snapshots."""


@pytest.fixture
def bench(driver: Driver) -> Iterator[Bench]:
    """A replica with one disk on a host."""
    yield from _bench(driver, 1)


def goes_on(bench: Bench, head: JournalPoint, layer: Layer) -> None:
    """Assert that the open point is aborted without a trace, and that the next one succeeds."""
    bench.target.abort(bench.replica, layer.point_id, [layer])
    # By its id: its files may have been moved.
    assert [point.point_id for point in bench.journal().points][-1] == head.point_id
    second = bench.point(head, (GRAIN, b"2" * GRAIN))
    assert bench.read(head.point_id) == _at(None, BASE)
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN))
    assert bench.journal().drift is None


def test_a_host_that_goes_in_mid_write_is_gone_on_with_when_it_is_back(bench: Bench, host: Away) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    writer = bench.target.open_writer(bench.replica, layer, 1)
    _write_through(writer, 0, b"torn" * 128)
    host.cut()
    with pytest.raises(BootpointError) as caught:
        _write_through(writer, GRAIN, b"late" * 128)
    assert caught.value.code in (Code.HOST_UNREACHABLE, Code.TARGET_WRITE_ERROR)
    writer.close()
    assert _code(bench.journal) is Code.HOST_UNREACHABLE
    host.start()
    goes_on(bench, head, layer)


def test_a_standby_that_somebody_starts_ends_the_run_and_is_let_run(bench: Bench, somebody: Somebody) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (0, b"half" * 128))
    somebody.start()
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 2)) is Code.STANDBY_RUNNING
    assert _code(lambda: bench.commit({"system": layer})) is Code.STANDBY_RUNNING
    bench.target.abort(bench.replica, layer.point_id, [layer])
    assert bench.journal().drift
    assert _code(lambda: bench.open(head)) is Code.STANDBY_RUNNING
    somebody.stop()
    goes_on(bench, head, layer)


def test_a_snapshot_that_somebody_makes_ends_the_point(bench: Bench, somebody: Somebody) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (0, b"half" * 128))
    somebody.snapshot("mine - (12/3/2026 - 10:00:00 AM)")
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 2)) is Code.LAYER_LOST
    assert _code(lambda: bench.commit({"system": layer})) is Code.LAYER_LOST
    goes_on(bench, head, layer)


def test_a_snapshot_that_somebody_removes_is_missed_by_name(bench: Bench, somebody: Somebody) -> None:
    head = bench.point(None, BASE)
    somebody.remove_snapshots()
    assert bench.journal().drift
    with pytest.raises(BootpointError) as caught:
        bench.open(head)
    assert caught.value.code is Code.LAYER_LOST
    assert head.name in caught.value.message


def test_a_standby_that_somebody_renames_is_still_known(bench: Bench, somebody: Somebody) -> None:
    head = bench.point(None, BASE)
    somebody.rename(f"{bench.replica.vm_name} (old)")
    second = bench.point(head, (GRAIN, b"2" * GRAIN))
    assert [point.point_id for point in bench.journal().points] == [head.point_id, second.point_id]
    assert [vm.name for vm in bench.target.inspect_host().vms] == [bench.replica.vm_name]


@pytest.mark.timeout(900)
def test_thirty_points_leave_room_for_one_more(bench: Bench) -> None:
    points: list[JournalPoint] = []
    for number in range(bench.target.point_limit + 1):
        points.append(bench.point(points[-1] if points else None, (number * 4096, b"%03d." % number * 1024)))
    layer = bench.open(points[-1])["system"]
    bench.target.abort(bench.replica, layer.point_id, [layer])
    bench.target.consolidate(bench.replica, points[0].point_id)
    content = _at(None, *((number * 4096, b"%03d." % number * 1024) for number in range(len(points))))
    assert bench.read(points[-1].point_id) == content
    assert len(bench.journal().points) == bench.target.point_limit


def test_what_a_standby_wrote_is_kept_beside_the_points(bench: Bench, somebody: Somebody) -> None:
    first = bench.point(None, BASE)
    second = bench.point(first, (GRAIN, b"2" * GRAIN))
    vm = bench.target.start(bench.replica, StartRequest(paused=True))
    bench.driver.hooks.guest_write(bench.replica, vm, "system", 0, b"guest" * 1024)
    bench.target.stop(bench.replica, None)
    third = bench.point(second, (GRAIN, b"3" * GRAIN))
    names = somebody.snapshots()
    assert third.name in names
    assert [name for name in names if name.startswith("kept-")]
    # The point that it stands on stays until somebody has decided.
    assert _code(lambda: bench.target.consolidate(bench.replica, second.point_id)) is Code.POINT_IN_USE
    bench.target.consolidate(bench.replica, first.point_id)


def test_a_writer_of_another_session_is_ended_by_the_next_claim(bench: Bench) -> None:
    layer = bench.open()["system"]
    late = bench.target.open_writer(bench.replica, layer, 1)
    with closing(bench.driver.connect()) as other, closing(other.open_writer(bench.replica, layer, 2)) as writer:
        _write_through(writer, 0, b"b" * GRAIN)
        with pytest.raises(Fenced):
            _write_through(late, 0, b"late" * 128)
    late.close()
    assert bench.read(bench.commit({"system": layer}).point_id) == _at(None, (0, b"b" * GRAIN))


def test_of_two_who_open_a_point_the_late_one_does_the_other_no_harm(bench: Bench) -> None:
    head = bench.point(None, BASE)
    layers: dict[str, Layer] = {}

    def be_overtaken(step: str) -> None:
        if step == "open:grow" and not layers:
            layers.update(bench.open(head))
            bench.write(layers["system"], (GRAIN, b"2" * GRAIN))

    with closing(bench.driver.connect()) as late:
        assert isinstance(late, SnapshotTarget)
        late.host.step = be_overtaken
        assert _code(lambda: late.open(bench.replica, bench.opened(head))) is Code.POINT_OPEN
    bench.write(layers["system"], (2 * GRAIN, b"3" * GRAIN), writer=2)
    second = bench.commit(layers)
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN), (2 * GRAIN, b"3" * GRAIN))


def test_of_two_who_change_the_same_journal_one_comes_late(bench: Bench) -> None:
    assert isinstance(bench.target, SnapshotTarget)
    host = bench.target.host
    one, two = place.must_read(host, bench.replica), place.must_read(host, bench.replica)
    one = place.change(one, msgspec.structs.replace(one.manifest, epoch=7))
    with pytest.raises(place.Changed):
        place.change(two, msgspec.structs.replace(two.manifest, epoch=8))
    # The number is free again when it is old.
    for epoch in (9, 10, 11):
        one = place.change(one, msgspec.structs.replace(one.manifest, epoch=epoch))
    with pytest.raises(place.Changed):
        place.change(two, msgspec.structs.replace(two.manifest, epoch=8))
    assert bench.journal().epoch == 11
    left = one.store.list(one.vm.folder, "bootpoint-journal-*")
    assert left == [f"{place.PREFIX}{number:08d}.json" for number in (one.number - 1, one.number)]
