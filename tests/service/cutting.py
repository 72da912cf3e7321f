"""Cuts under load: each write must be in a generation that was open while it was written."""

from __future__ import annotations

import subprocess
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.service import writer
from tests.service.tracked import TrackedDisk, numbers


@dataclass(frozen=True)
class Counts:
    """What was done: cuts, writes, and writes that no generation has in which they were possible."""

    cuts: int
    writes: int
    lost: int


@contextmanager
def writers(device: Path, grains: int, logs: list[Path]) -> Iterator[None]:
    """Let a process for each log write to the device while the context lasts."""
    started = [
        subprocess.Popen(
            [sys.executable, writer.__file__, str(device), str(grains), str(seed), str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for seed, log in enumerate(logs)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        for process in started:
            process.communicate(timeout=60)
            assert process.returncode == 0


def cut_under_load(tracked: TrackedDisk, directory: Path, grains: int, cuts: int) -> Counts:
    """Cut while two processes write, and look for every write in the generations.

    Args:
        tracked: The disk.
        directory: For the writers' logs.
        grains: Grains of the disk.
        cuts: How many.
    """
    logs = [directory / f"writer-{number}.log" for number in range(2)]
    begun, ended, seen = [0], [0], [set[int]()]
    tracked.cut()
    with writers(tracked.device, grains, logs):
        for _ in range(cuts):
            tracked.provider.arm(tracked.device)
            begun.append(time.monotonic_ns())
            sequence = tracked.provider.instant(tracked.device)
            ended.append(time.monotonic_ns())
            seen.append(numbers(tracked.take(sequence)))
    begun.append(time.monotonic_ns())
    ended.append(time.monotonic_ns())
    seen.append(numbers(tracked.cut()))
    writes = lost = 0
    for log in logs:
        noted = array("Q", log.read_bytes())
        for begin, end, grain in zip(noted[::3], noted[1::3], noted[2::3], strict=True):
            writes += 1
            # Generation k is open from somewhere in the cut before it to somewhere in its own.
            first = bisect_left(ended, begin)
            possible = [k for k in range(first, len(seen)) if begun[k - 1] <= end]
            lost += not any(grain in seen[k] for k in possible)
    return Counts(len(seen) - 2, writes, lost)
