"""A hundred power cuts, as in `tests/system/test_powercut.py`."""

from __future__ import annotations

from random import Random

import pytest

from tests.service.blackout import Make, make

__all__ = ["make"]

#: Cuts of one replica: with the two points before them as many as a replica can have.
CUTS = 20


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_what_was_promised_survives_a_hundred_power_cuts_of_the_host(make: Make, rng: Random) -> None:
    for subject in range(5):
        blackout = make(f"erp-{subject}", rng)
        for number in range(CUTS):
            blackout.round(subject * CUTS + number)
        assert blackout.resumed > 0
