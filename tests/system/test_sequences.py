"""Random histories of one and two disks: every point of each is what its source was; `tests/long` plays more."""

from __future__ import annotations

import random

import pytest

from tests.service.sequence import Ground, ground, play_all

__all__ = ["ground"]


@pytest.mark.timeout(400)
def test_every_point_of_a_random_history_equals_its_source(ground: Ground, rng: random.Random) -> None:
    play_all(ground, 10, rng.getrandbits(32))
