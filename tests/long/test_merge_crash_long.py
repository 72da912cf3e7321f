"""Eight deaths and more at each step of a merge, as in `tests/integration/kvm/test_merge_crash.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

from tests.conftest import SEED
from tests.integration.kvm.conftest import Bench, bench
from tests.service.merging import STEPS, Merges

__all__ = ["bench"]

#: Deaths at each step, of each way.
DEATHS = 8


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_no_point_is_lost_whatever_dies_in_a_merge(
    bench: Bench, tmp_path: Path, rng: Random, capsys: pytest.CaptureFixture[str]
) -> None:
    merges = Merges(bench, tmp_path, rng)
    for _ in range(DEATHS):
        for step in STEPS:
            for way in ("worker", "tools"):
                merges.round(step, way)
    with capsys.disabled():
        sys.stdout.write("\n" + merges.table(SEED) + "\n")
