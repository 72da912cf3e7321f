"""What every driver promises of merging a point with its successor, tried on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.identity import new_id
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.journal import JournalPoint
from tests.contract.drivers import FACTORIES, Driver
from tests.contract.test_target import SIZE, Bench, _at, _bench, _code, _pattern


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


def _chain(bench: Bench, length: int, *, grains: int = 3) -> tuple[list[JournalPoint], list[bytes]]:
    """Make points with some random grains each; returns them with what each shows."""
    random = Random(length)
    points: list[JournalPoint] = []
    contents: list[bytes] = []
    for _ in range(length):
        writes = [(random.randrange(SIZE // GRAIN) * GRAIN, random.randbytes(GRAIN)) for _ in range(grains)]
        points.append(bench.point(points[-1] if points else None, *writes))
        contents.append(_at(contents[-1] if contents else None, *writes))
    return points, contents


def _same(bench: Bench, points: list[JournalPoint], contents: list[bytes], *, slot: str = "system") -> None:
    """Assert that the journal lists these points, and that each shows what it did."""
    assert [point.point_id for point in bench.journal().points] == [point.point_id for point in points]
    for point, content in zip(points, contents, strict=True):
        assert bench.read(point.point_id, slot) == content


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_merged_point_is_gone_and_the_others_show_what_they_did(bench: Bench, number: int) -> None:
    points, contents = _chain(bench, 4)
    successor = bench.target.consolidate(bench.replica, points[number].point_id)
    gone = points.pop(number)
    del contents[number]
    assert (successor.point_id, successor.name) == (points[number].point_id, points[number].name)
    assert successor == bench.journal().points[number]
    _same(bench, points, contents)
    assert bench.journal().consolidating is None
    assert _code(lambda: bench.target.open_reader(bench.replica, gone.point_id, "system")) == Code.NO_SUCH_POINT
    # Life goes on above it, and the standby stands on the head.
    head = bench.point(points[-1], (0, b"x" * GRAIN))
    assert bench.read(head.point_id) == _at(contents[-1], (0, b"x" * GRAIN))
    assert bench.journal().drift is None


def test_merging_again_only_says_where_the_content_is(bench: Bench) -> None:
    points, contents = _chain(bench, 4)
    first = bench.target.consolidate(bench.replica, points[0].point_id)
    assert bench.target.consolidate(bench.replica, points[0].point_id) == first
    second = bench.target.consolidate(bench.replica, points[1].point_id)
    assert bench.target.consolidate(bench.replica, points[0].point_id) == second
    _same(bench, points[2:], contents[2:])
    assert _code(lambda: bench.target.consolidate(bench.replica, new_id())) == Code.NO_SUCH_POINT


def test_both_disks_are_merged(two_disks: Bench) -> None:
    points, contents = _chain(two_disks, 3)
    layers = two_disks.open(points[-1])
    two_disks.write(layers["data"], (0, b"d" * GRAIN))
    points.append(two_disks.commit(layers))
    data = [*contents, _at(contents[-1], (0, b"d" * GRAIN))]
    contents.append(contents[-1])
    for number in (2, 0):
        two_disks.target.consolidate(two_disks.replica, points.pop(number).point_id)
        del contents[number], data[number]
        _same(two_disks, points, contents)
        _same(two_disks, points, data, slot="data")


def test_a_disk_that_grew_is_merged_at_its_new_size(bench: Bench) -> None:
    base = _pattern(1, SIZE)
    first = bench.point(None, (0, base))
    larger = SIZE + 3 * MiB
    bench.sizes["system"] = larger
    layer = bench.open(first)["system"]
    bench.write(layer, (larger - GRAIN, _pattern(2, GRAIN)))
    second = bench.commit({"system": layer})
    third = bench.point(second, (GRAIN, b"3" * GRAIN))
    expected = _at(base, (larger - GRAIN, _pattern(2, GRAIN)), size=larger)
    successor = bench.target.consolidate(bench.replica, first.point_id)
    assert successor.disks[0].size_bytes == larger
    assert bench.read(second.point_id, size=larger) == expected
    assert bench.read(third.point_id, size=larger) == _at(expected, (GRAIN, b"3" * GRAIN), size=larger)


@pytest.mark.parametrize("middle", [False, True])
def test_zeros_of_the_successor_hide_what_the_point_held(bench: Bench, middle: bool) -> None:
    base = _pattern(1, SIZE)
    points = [bench.point(None, (0, base))]
    if middle:
        points.append(bench.point(points[-1], (0, _pattern(2, 2 * GRAIN))))
    layer = bench.open(points[-1])["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer:
        writer.zero(0, 3 * GRAIN)
        writer.flush()
    points.append(bench.commit({"system": layer}))
    bench.target.consolidate(bench.replica, points[-2].point_id)
    expected = _at(base, (0, bytes(3 * GRAIN)))
    assert bench.read(points[-1].point_id) == expected
    if middle:
        assert bench.read(points[0].point_id) == base


def test_the_newest_point_is_never_merged(bench: Bench) -> None:
    points, contents = _chain(bench, 2)
    assert _code(lambda: bench.target.consolidate(bench.replica, points[-1].point_id)) == Code.POINT_IN_USE
    _same(bench, points, contents)


def test_nothing_is_merged_while_a_point_is_open(bench: Bench) -> None:
    points, contents = _chain(bench, 2)
    layer = bench.open(points[-1])["system"]
    assert _code(lambda: bench.target.consolidate(bench.replica, points[0].point_id)) == Code.POINT_OPEN
    bench.target.abort(bench.replica, layer.point_id, [layer])
    _same(bench, points, contents)


def test_a_test_vm_that_is_off_keeps_its_point(bench: Bench) -> None:
    """No file lock says so: the overlay of a VM that is powered off holds none."""
    points, contents = _chain(bench, 3)
    for number in (0, 1):
        request = StartRequest(point_id=points[number].point_id, test_id=f"t{number}", paused=True)
        vm = bench.target.start(bench.replica, request)
        bench.driver.hooks.guest_write(bench.replica, vm, "system", 0, b"guest" * 1024)
    for number in (0, 1):
        assert _code(lambda n=number: bench.target.consolidate(bench.replica, points[n].point_id)) == Code.POINT_IN_USE  # type: ignore[misc]
    assert bench.journal().consolidating is None
    bench.target.stop(bench.replica, "t0")
    if not bench.driver.carries_tests:
        assert _code(lambda: bench.target.consolidate(bench.replica, points[0].point_id)) == Code.POINT_IN_USE
        bench.target.stop(bench.replica, "t1")
    # The one above the successor is carried along.
    bench.target.consolidate(bench.replica, points[0].point_id)
    _same(bench, points[1:], contents[1:])
    bench.target.stop(bench.replica, "t1")
    bench.target.consolidate(bench.replica, points[1].point_id)
    _same(bench, points[2:], contents[2:])


def test_a_vm_that_runs_keeps_what_is_beneath_it_and_nothing_above(bench: Bench) -> None:
    points, contents = _chain(bench, 4)
    bench.target.start(bench.replica, StartRequest(point_id=points[1].point_id, test_id="t1"))
    for number in (0, 1):
        assert _code(lambda n=number: bench.target.consolidate(bench.replica, points[n].point_id)) == Code.POINT_IN_USE  # type: ignore[misc]
    bench.target.consolidate(bench.replica, points[2].point_id)
    assert bench.journal().consolidating is None
    bench.target.stop(bench.replica, "t1")
    bench.target.consolidate(bench.replica, points[0].point_id)
    _same(bench, [points[1], points[3]], [contents[1], contents[3]])
