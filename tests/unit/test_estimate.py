"""What the next run will copy and how long it will take: the model by itself."""

from __future__ import annotations

import random

import pytest

from bootpoint_common.units import GiB, MiB
from bootpoint_worker.estimate import Ahead, Past, against, changed_bytes, duration_seconds

HOUR = 3600.0


def increment(hours: float, changed: int, seconds: float = 10.0, *, read: int | None = None) -> Past:
    return Past(
        kind="increment", changed_bytes=changed, read_bytes=changed if read is None else read, seconds=seconds,
        gap_seconds=hours * HOUR,
    )  # fmt: skip


def ahead(hours: float | None, *, held: int | None = 100 * GiB, copied: int | None = 0, scanned: int = 0) -> Ahead:
    gap = None if hours is None else hours * HOUR
    return Ahead(copied_bytes=copied, held_bytes=held, scanned_bytes=scanned, gap_seconds=gap)


FULL = Past(kind="full", changed_bytes=80 * GiB, read_bytes=80 * GiB, seconds=800.0, gap_seconds=None)


def test_a_first_copy_is_what_the_disks_hold() -> None:
    assert changed_bytes([], ahead(None, held=0, copied=7 * GiB)) == 7 * GiB


def test_a_first_copy_of_disks_that_the_source_never_told_of_is_unknown() -> None:
    assert changed_bytes([], ahead(None, held=0, copied=None)) is None


def test_an_increment_nobody_has_seen_the_like_of_is_unknown() -> None:
    assert changed_bytes([FULL], ahead(1)) is None


@pytest.mark.parametrize(("hours", "expected"), [(1, 60), (2, 120), (0.5, 30), (10, 600)])
def test_change_grows_with_the_time_since_the_newest_point(hours: float, expected: int) -> None:
    past = [increment(1, 60 * MiB), increment(1, 50 * MiB), increment(1, 70 * MiB), FULL]
    assert changed_bytes(past, ahead(hours)) == pytest.approx(expected * MiB, rel=1e-6)


def test_the_rate_is_that_of_increments_over_a_like_time() -> None:
    """A day is not 24 times the hour in which everybody works."""
    past = [increment(0.5, 50 * MiB) for _ in range(6)] + [increment(24, 480 * MiB) for _ in range(5)]
    assert changed_bytes(past, ahead(24)) == pytest.approx(480 * MiB, rel=1e-6)
    assert changed_bytes(past, ahead(0.5)) == pytest.approx(50 * MiB, rel=1e-6)


def test_one_odd_run_turns_nothing() -> None:
    past = [increment(1, 60 * MiB) for _ in range(4)] + [increment(1, 90 * GiB, 900.0)]
    assert changed_bytes(past, ahead(1)) == 60 * MiB


def test_no_more_changes_than_the_disks_hold_and_new_disks_come_on_top() -> None:
    assert changed_bytes([increment(1, GiB)], ahead(10000, held=40 * GiB, copied=2 * GiB)) == 42 * GiB
    assert changed_bytes([increment(1, GiB)], ahead(2, held=None)) == 2 * GiB


def test_seconds_are_unknown_before_the_first_run_and_then_like_its() -> None:
    assert duration_seconds([], ahead(1), 60 * MiB) is None
    assert duration_seconds([increment(1, 60 * MiB, 42.0)], ahead(1), 60 * MiB) == 42.0


def test_seconds_are_fixed_costs_and_a_rate() -> None:
    """8 s, and 100 MiB a second of what is read and copied: found again through noise."""
    rng = random.Random(1)
    past = []
    for _ in range(14):
        changed = rng.randrange(10 * MiB, 4 * GiB)
        seconds = 8.0 + 2 * changed / (100 * MiB)
        past.append(increment(1, changed, seconds * rng.uniform(0.97, 1.03)))
    assert duration_seconds(past, ahead(1), GiB) == pytest.approx(8 + 2 * 1024 / 100, rel=0.1)


def test_a_disk_that_is_scanned_takes_the_time_of_reading_it() -> None:
    past = [increment(1, 50 * MiB, 4.0), increment(1, 80 * MiB, 4.6), FULL]
    followed = duration_seconds(past, ahead(1), 60 * MiB)
    scanned = duration_seconds(past, ahead(1, scanned=80 * GiB), 60 * MiB)
    assert followed is not None
    assert scanned is not None
    assert scanned > 50 * followed


def test_how_far_off_a_plan_was() -> None:
    plan = {"changed_bytes": 100, "duration_seconds": None}
    assert against(plan, {"changed_bytes": 150, "duration_seconds": 9.0}) == {
        "changed_bytes": 1.5, "duration_seconds": None,
    }  # fmt: skip
