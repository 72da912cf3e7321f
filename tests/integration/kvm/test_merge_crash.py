"""A merge dies between any two steps, by the worker's death or that of qemu-img; no point is lost, and it is redone."""

from __future__ import annotations

import random
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.targets.journal import JournalPoint
from tests.integration.kvm.conftest import Bench, fill
from tests.service.merging import STEPS, Merges


@pytest.mark.timeout(300)
def test_a_merge_that_died_at_any_step_is_finished_by_the_next(
    bench: Bench, tmp_path: Path, rng: random.Random
) -> None:
    merges = Merges(bench, tmp_path, rng)
    for step in STEPS:
        merges.round(step, "worker")
    merges.round("merge", "tools")
    merges.round("settle", "tools")
    assert merges.results.total() == len(STEPS) + 2


def _code(bench: Bench, point: object) -> BootpointError:
    with closing(bench.connect()) as target, pytest.raises(BootpointError) as caught:
        target.consolidate(bench.replica, point)  # type: ignore[arg-type]
    return caught.value


def test_an_overlay_that_nobody_knows_keeps_its_point(bench: Bench) -> None:
    """The runbook makes such overlays, and so do people: by any path, and powered off they hold no lock."""
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"1" * GRAIN)
    second = bench.point(target, first, b"2" * GRAIN)
    bench.point(target, second, b"3" * GRAIN)
    below = bench.directory / first.disks[1].identity
    mine = bench.directory / "mine.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, mine], check=True)
    problem = _code(bench, first.point_id)
    assert problem.code is Code.POINT_IN_USE
    assert "mine.img" in problem.message
    journal = target.inspect(bench.replica)
    assert journal is not None
    assert len(journal.points) == 3
    # One above the successor is carried along, whoever made it.
    mine.unlink()
    above = bench.directory / second.disks[1].identity
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", above, mine], check=True)
    target.consolidate(bench.replica, first.point_id)
    assert not above.exists()
    subprocess.run(["qemu-img", "compare", "-q", mine, below], check=True)


def test_a_point_that_somebody_reads_is_left_alone(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"1" * GRAIN)
    second = bench.point(target, first, b"2" * GRAIN)
    with closing(target.open_reader(bench.replica, second.point_id, "data")) as reader:
        assert _code(bench, first.point_id).code is Code.BUSY
        assert reader.read(0, GRAIN) == b"2" * GRAIN
        journal = target.inspect(bench.replica)
        assert journal is not None
        assert (journal.consolidating, len(journal.points)) == (None, 2)
    target.consolidate(bench.replica, first.point_id)
    assert bench.start_of(target, second, GRAIN) == [b"2" * GRAIN] * 2


def test_a_full_storage_is_said_and_leaves_everything_right(small: Bench) -> None:
    """Said before anything is touched where it can be foreseen; half-way, it is finished once there is room."""
    disks = tuple(replace(disk, size_bytes=32 * MiB) for disk in small.replica.disks)
    small.replica = replace(small.replica, disks=disks)
    target = small.connect()
    target.create(small.replica)
    data = [random.Random(number).randbytes(12 * MiB) for number in range(2)]
    points: list[JournalPoint] = []
    for number, content in enumerate(data):
        layers = target.open(small.replica, small.opening(points[-1] if points else None))
        for layer in layers:
            with closing(target.open_writer(small.replica, layer, 1)) as writer:
                writer.write(number * 16 * MiB, content)
                writer.flush()
        points.append(target.commit(small.replica, small.sealing(layers)))

    def right(point: JournalPoint) -> None:
        for disk in small.replica.disks:
            with closing(target.open_reader(small.replica, point.point_id, disk.slot)) as reader:
                assert reader.read(0, 12 * MiB) == data[0]
                assert reader.read(16 * MiB, 12 * MiB) == data[1]

    ballast = fill(small, left=8 * MiB)
    assert _code(small, points[0].point_id).code is Code.HOST_FULL
    journal = target.inspect(small.replica)
    assert journal is not None
    assert (journal.consolidating, len(journal.points)) == (None, 2)
    ballast.unlink()

    def late(name: str) -> None:
        if name == "consolidate:merge" and not ballast.exists():
            fill(small, left=6 * MiB)

    small.step = late
    assert _code(small, points[0].point_id).code is Code.HOST_FULL
    small.step = lambda _name: None
    journal = target.inspect(small.replica)
    assert journal is not None
    assert journal.consolidating == points[0].point_id
    right(points[1])
    ballast.unlink()
    target.consolidate(small.replica, points[0].point_id)
    right(points[1])
