"""No write is missed, whatever is done to a disk: a few rounds; `tests/long` has a hundred."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.service.component import need
from tests.service.tracker_workload import fuzz


@pytest.mark.timeout(300)
def test_no_write_is_missed_in_a_few_rounds_of_random_work(tmp_path: Path, rng: Random) -> None:
    need("root", "loop", "bpf", "fio", "xfs", "btrfs")
    rounds = fuzz(tmp_path, rng, 6)
    assert len(rounds) == 6
    assert sum(changed for changed, _, _ in rounds) > 500
