"""Every part of a fleet is hit once in the midst of a run; `tests/long` does ten rounds of each."""

from __future__ import annotations

import random

import pytest

from tests.service.round import HITS, Ring, ring

__all__ = ["ring"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", HITS)
def test_points_stay_right_when_a_part_is_hit(ring: Ring, fault: str, rng: random.Random) -> None:
    ring.subject(fault, rng).round(HITS[fault])
