"""A hundred random histories of one and two disks, as in `tests/system/test_sequences.py`."""

from __future__ import annotations

import random

import pytest

from tests.service.sequence import Ground, ground, play_all

__all__ = ["ground"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_point_of_a_random_history_equals_its_source(ground: Ground, rng: random.Random) -> None:
    play_all(ground, 100, rng.getrandbits(32), most_runs=5)
