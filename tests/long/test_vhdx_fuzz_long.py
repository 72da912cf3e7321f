"""A hundred thousand mutated VHDX files: an error, or a disk that reads; never a crash, a hang, or a write."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.image import identify
from bootpoint_worker.vhdx.writer import VhdxWriter
from tests.hyperv import avhdx
from tests.vhdx import disk
from tests.vhdx.mutant import Mutant, Mutator, loaded

_log = logging.getLogger(__name__)

#: Mutated files.
ROUNDS = 100_000

#: Size of the disk, in bytes, and most bytes of a mutated one that are read.
SIZE, MOST = 5 * MiB, 8 * MiB

#: Seconds that one may take on a loaded machine, where most take a thousandth.
PATIENCE = 20.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def test_mutated_files_are_refused_or_read(tmp_path: Path, rng: random.Random) -> None:
    chain = loaded(_chain(tmp_path, rng))
    mutator = Mutator(chain, rng)
    codes: Counter[Code] = Counter()
    read, slowest = 0, 0.0
    for _ in range(ROUNDS):
        mutator.mutate()
        began = time.monotonic()
        try:
            read += _use(chain)
        except BootpointError as exc:
            codes[exc.code] += 1
        slowest = max(slowest, time.monotonic() - began)
        mutator.restore()
    _log.info("%d files: %d could be read, slowest %.2f s", ROUNDS, read, slowest)
    assert set(codes) == {Code.TARGET_CHECK_FAILED}
    assert slowest < PATIENCE
    assert ROUNDS // 20 < read < ROUNDS, "the dice leave some files sound, and not all"
    assert _use(chain) == 1, "nothing was written"


def _chain(place: Path, rng: random.Random) -> list[Path]:
    """Return a leaf with blocks of every kind above another and a base."""
    avhdx.create_dynamic(place / "base.vhdx", SIZE, MiB)
    paths = [place / "base.vhdx"]
    for name in ("lower", "upper"):
        with closing(disk.writer(paths)) as writer:
            disk.apply(writer, disk.increment(rng, SIZE, (MiB, 2 * MiB), 5))
        paths = disk.child(paths, name, MiB)
    with closing(disk.writer(paths)) as writer:
        writer.write(0, rng.randbytes(MiB))
        writer.write(MiB + 512, rng.randbytes(1024))
        writer.flush()
    return paths


def _use(files: list[Mutant]) -> int:
    """Do what the worker does with files that it finds; returns 1 when they are a chain that reads."""
    for file in files:
        identify(file)
    chain = Chain(files)
    end = 0
    extents = list(chain.extents(0, chain.size_bytes))
    assert all(offset + length == after for (offset, length, _), (after, _, _) in pairwise(extents))
    for offset, length, zero in extents:
        end = offset + length
        if not zero and offset < MOST:
            assert len(chain.read(offset, min(length, MOST - offset))) == min(length, MOST - offset)
    assert end == chain.size_bytes
    VhdxWriter(chain)
    return 1
