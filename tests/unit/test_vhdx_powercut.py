"""The power goes while an increment is written; tests/long looks at more of it."""

from __future__ import annotations

import random
from pathlib import Path

from bootpoint_common.units import MiB
from tests.vhdx.powercut import cut_everywhere


def test_every_moment_of_an_increment_reads_as_old_or_new(tmp_path: Path, rng: random.Random) -> None:
    assert cut_everywhere(tmp_path, rng, block=2 * MiB, flushes=1, variants=1) > 30
