"""Memory of who reads replicas: a verification reads whole disks, and a worker lives for months."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import closing

from bootpoint_common.units import GRAIN, MiB
from tests.integration.kvm.conftest import SIZE, Bench

#: How often the disk is read whole.
TIMES = 32


def _kept(read: Callable[[int, int], object]) -> int:
    """Return the bytes of memory that reading a disk over and over leaves behind."""
    read(0, SIZE)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(TIMES):
            read(0, SIZE)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before


def test_reading_leaves_no_memory_behind(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"1" * GRAIN)
    with closing(target.open_reader(bench.replica, first.point_id, "system")) as reader:
        assert _kept(reader.read) < MiB
        assert _kept(lambda at, size: sum(len(piece) for _, piece in reader.stream([(at, size)]))) < MiB
    layer = target.open(bench.replica, bench.opening(first))[0]
    with closing(target.open_writer(bench.replica, layer, 1)) as writer:
        assert _kept(writer.read) < MiB
