"""Thirty runs of a job that keeps five points."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_retention import Machine, keep_five
from tests.service.fleet import Fleet, fleet


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


@pytest.mark.long
@pytest.mark.timeout(600)
def test_thirty_runs_leave_as_many_points_as_the_job_keeps(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    keep_five(installation, Machine(installation, tmp_path, rng, points=5), runs=30, pinned=7, verified=14)
