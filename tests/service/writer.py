"""Writes to random grains of a device, one after the other, until its standard input ends; notes when it wrote where.

usage: writer.py DEVICE GRAINS SEED LOG

The log is an array of unsigned 64-bit numbers: begin and end of each write (CLOCK_MONOTONIC, ns), and its grain.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import time
from array import array
from pathlib import Path
from random import Random

GRAIN = 65536


def main(device: str, grains: int, seed: int, log: Path) -> None:
    """Write until told to end."""
    rng = Random(seed)
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
    block = mmap.mmap(-1, 4096)
    block.write(rng.randbytes(4096))
    done = array("Q")
    print("ready", flush=True)  # noqa: T201 - what the test waits for
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(20):
            grain = rng.randrange(grains)
            begin = time.monotonic_ns()
            os.pwrite(descriptor, block, grain * GRAIN)
            done.extend((begin, time.monotonic_ns(), grain))
    log.write_bytes(done.tobytes())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
