"""What every driver promises of deleted replicas: they rest beside their place, come back whole, or go for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.identity import new_id
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.journal import JournalPoint
from tests.contract.drivers import FACTORIES, Driver
from tests.contract.test_target import Bench, _at, _bench, _code, _pattern

AT = datetime(2026, 12, 4, 9, 0, tzinfo=UTC)


@pytest.fixture(params=sorted(FACTORIES))
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """A driver with a host of its own."""
    with FACTORIES[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def bench(driver: Driver) -> Iterator[Bench]:
    """A replica with two disks; what a test leaves in the trash goes with it."""
    for made in _bench(driver, 2):
        yield made
        made.target.purge(made.replica)


def _chain(bench: Bench) -> tuple[list[JournalPoint], list[bytes]]:
    first = bench.point(None, (0, _pattern(1, 2 * GRAIN)))
    second = bench.point(first, (GRAIN, _pattern(2, GRAIN)))
    content = _at(None, (0, _pattern(1, 2 * GRAIN)))
    return [first, second], [content, _at(content, (GRAIN, _pattern(2, GRAIN)))]


def _names(bench: Bench) -> set[str]:
    return {vm.name for vm in bench.target.inspect_host().vms}


def test_a_deleted_replica_is_gone_from_its_place_and_comes_back_whole(bench: Bench, driver: Driver) -> None:
    points, contents = _chain(bench)
    assert bench.replica.vm_name in _names(bench)
    bench.target.discard(bench.replica, AT)
    bench.target.discard(bench.replica, AT)
    assert bench.target.inspect(bench.replica) is None
    assert bench.replica.vm_name not in _names(bench)
    ids = {found.journal.replica_id for found in bench.target.find_replicas()}
    assert bench.replica.replica_id not in ids
    with closing(driver.connect()) as other:
        assert [each.journal.replica_id for each in other.find_discarded()] == [bench.replica.replica_id]
    (found,) = bench.target.find_discarded([bench.replica])
    assert (found.journal.replica_id, found.journal.discarded_at) == (bench.replica.replica_id, AT)
    assert [point.point_id for point in found.journal.points] == [point.point_id for point in points]

    bench.target.restore(found.replica)
    bench.target.restore(found.replica)
    assert bench.target.find_discarded([bench.replica]) == []
    journal = bench.journal()
    assert (list(journal.points), journal.discarded_at, journal.drift) == (points, None, None)
    assert bench.replica.vm_name in _names(bench)
    for slot in ("system", "data"):
        assert [bench.read(point.point_id, slot) for point in points] == contents
    # It can be written on, and started.
    third = bench.point(points[-1], (3 * GRAIN, _pattern(3, GRAIN)))
    assert bench.read(third.point_id) == _at(contents[-1], (3 * GRAIN, _pattern(3, GRAIN)))
    bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True))
    bench.target.stop(bench.replica, "t1")


def test_what_goes_for_good_leaves_nothing_and_can_be_removed_again(bench: Bench) -> None:
    _chain(bench)
    bench.target.purge(bench.replica)  # it isn't in the trash: nothing happens
    assert len(bench.journal().points) == 2
    bench.target.discard(bench.replica, AT)
    bench.target.purge(bench.replica)
    bench.target.purge(bench.replica)
    assert bench.target.find_discarded([bench.replica]) == []
    assert bench.target.inspect(bench.replica) is None
    assert _code(lambda: bench.target.restore(bench.replica)) is Code.NO_SUCH_VM
    bench.target.create(bench.replica)


def test_an_open_point_goes_and_the_committed_ones_stay(bench: Bench) -> None:
    points, contents = _chain(bench)
    bench.open(points[-1])
    bench.target.discard(bench.replica, AT)
    bench.target.restore(bench.replica)
    journal = bench.journal()
    assert (list(journal.points), journal.open_point_id) == (points, None)
    assert bench.read(points[-1].point_id) == contents[-1]


def test_the_place_is_free_for_another_replica_and_each_keeps_its_own(bench: Bench) -> None:
    _, contents = _chain(bench)
    bench.target.discard(bench.replica, AT)
    second = replace(bench.replica, replica_id=new_id())
    bench.target.create(second)
    other = Bench(bench.driver, bench.target, second)
    point = other.point(None, (0, _pattern(9, GRAIN)))
    # A worker that comes late with the first one's deletion, and somebody who wants it back.
    bench.target.discard(bench.replica, AT)
    assert _code(lambda: bench.target.restore(bench.replica)) is Code.VM_NAME_TAKEN
    assert other.read(point.point_id) == _at(None, (0, _pattern(9, GRAIN)))
    # Both in the trash, and the first one back.
    bench.target.discard(second, AT)
    bench.target.restore(bench.replica)
    assert bench.read(bench.journal().points[-1].point_id) == contents[-1]
    bench.target.purge(second)
    assert bench.read(bench.journal().points[0].point_id) == contents[0]


def test_a_replica_that_is_used_is_not_deleted(bench: Bench) -> None:
    points, _ = _chain(bench)
    bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True))
    assert _code(lambda: bench.target.discard(bench.replica, AT)) is Code.POINT_IN_USE
    bench.target.stop(bench.replica, "t1")
    bench.target.start(bench.replica, StartRequest())
    try:
        assert _code(lambda: bench.target.discard(bench.replica, AT, dry_run=True)) is Code.STANDBY_RUNNING
        assert _code(lambda: bench.target.discard(bench.replica, AT)) is Code.STANDBY_RUNNING
    finally:
        bench.target.stop(bench.replica, None)
    bench.target.discard(bench.replica, AT, dry_run=True)
    assert list(bench.journal().points) == points
