"""Ten thousand random schedules against dateutil's rules, in zones whose clocks jump."""

from __future__ import annotations

from random import Random

import pytest

from tests.service.almanac import compare


@pytest.mark.timeout(900)
def test_ten_thousand_random_schedules_run_when_dateutil_says(rng: Random) -> None:
    compare(rng, 10_000)
