"""The host loses its power in the midst of runs; `tests/long` cuts it more often."""

from __future__ import annotations

from random import Random

import pytest

from tests.service.blackout import MOMENTS, Make, make

__all__ = ["make"]


@pytest.mark.timeout(400)
def test_what_was_promised_survives_a_power_cut_of_the_host(make: Make, rng: Random) -> None:
    blackout = make("erp", rng)
    for number in range(len(MOMENTS)):
        blackout.round(number)
    assert blackout.resumed > 0
