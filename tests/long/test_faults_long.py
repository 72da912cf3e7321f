"""Ten rounds of every fault of `tests/system/test_faults.py`, each on the points that the rounds before it left."""

from __future__ import annotations

import random

import pytest

from tests.service.round import HITS, Ring, ring

__all__ = ["ring"]

ROUNDS = 10


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", HITS)
def test_points_stay_right_however_often_a_part_is_hit(ring: Ring, fault: str, rng: random.Random) -> None:
    subject = ring.subject(fault, rng)
    for _ in range(ROUNDS):
        subject.round(HITS[fault])
