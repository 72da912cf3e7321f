"""The guest's storage: commands, and a writer that goes on while something else happens."""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN, KiB


def sh(command: str, *, check: bool = True) -> str:
    """Run a line of shell and return what it printed on stdout."""
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{command!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def write_at_random(device: Path, rng: random.Random, grains: int) -> int:
    """Overwrite 4 KiB in so many random grains of a device, to the disk; returns how many different ones it were."""
    chosen = set()
    with device.open("r+b", buffering=0) as file:
        count = os.lseek(file.fileno(), 0, os.SEEK_END) // GRAIN
        for _ in range(grains):
            grain = rng.randrange(count)
            chosen.add(grain)
            os.pwrite(file.fileno(), rng.randbytes(4 * KiB), grain * GRAIN + 4 * KiB * rng.randrange(16))
        os.fsync(file.fileno())
    return len(chosen)


@contextmanager
def writer(folder: Path, seed: int) -> Iterator[None]:
    """Write, sync and remove files in a folder until the block ends."""
    stop = threading.Event()
    failures: list[OSError] = []

    def work() -> None:
        rng, number = random.Random(seed), 0
        while not stop.is_set():
            number += 1
            file = folder / f"written-{number % 8}"
            try:
                with file.open("wb") as stream:
                    stream.write(rng.randbytes(rng.randrange(1, 64) * KiB))
                    stream.flush()
                    os.fsync(stream.fileno())
                if number % 3 == 0:
                    file.unlink()
            except OSError as failure:
                failures.append(failure)
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    if failures:
        raise failures[0]


@contextmanager
def refused(*codes: Code) -> Iterator[None]:
    """Expect that the block ends with an error of one of these codes."""
    try:
        yield
    except BootpointError as problem:
        if problem.code not in codes:
            raise
    else:
        raise AssertionError(f"nothing was refused with {codes}")
