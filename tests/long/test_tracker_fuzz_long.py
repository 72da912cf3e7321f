"""A hundred rounds of random work on a followed disk: no write is missed."""

from __future__ import annotations

import logging
from pathlib import Path
from random import Random

import pytest

from tests.service.component import need
from tests.service.tracker_workload import fuzz

_log = logging.getLogger(__name__)

#: Rounds that the tracker has to pass before it is believed.
ROUNDS = 100

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def test_no_write_is_missed_in_a_hundred_rounds_of_random_work(tmp_path: Path, rng: Random) -> None:
    need("root", "loop", "bpf", "fio", "xfs", "btrfs")
    rounds = fuzz(tmp_path, rng, ROUNDS)
    changed, reported = (sum(values) for values in list(zip(*rounds, strict=True))[:2])
    _log.info("%d rounds: %d grains differ, %d reported, none missed", ROUNDS, changed, reported)
