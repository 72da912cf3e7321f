"""The worst age of the newest boot point over a time."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta

from bootpoint_ops.report import Made, Stretch, Worst, worst_age

START = datetime(2026, 12, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def made(instant: float, committed: float | None = None) -> Made:
    return Made(f"V{instant}", at(instant), at(instant if committed is None else committed))


def worst(points: list[Made], *stretches: tuple[float, float, float | None], begin: float = -100) -> Worst | None:
    pieces = [Stretch(at(a), at(b), None if o is None else o * 3600) for a, b, o in stretches]
    return worst_age(points, pieces, begin=at(begin))


def test_the_worst_is_between_two_points_though_the_present_is_fine() -> None:
    points = [made(-1), made(2), made(50), made(71)]
    assert worst(points, (0, 72, 24)) == Worst(48 * 3600.0, at(50), False)


def test_a_point_counts_from_its_commit_and_is_as_old_as_its_instant() -> None:
    assert worst([made(0, 0), made(4, 10)], (0, 11, 12)) == Worst(10 * 3600.0, at(10), True)


def test_without_any_point_the_age_counts_from_the_jobs_beginning() -> None:
    assert worst([], (0, 10, 5), begin=-2) == Worst(12 * 3600.0, at(10), False)
    assert worst([made(3)], (0, 10, None), begin=0) == Worst(7 * 3600.0, at(10), None)


def test_each_age_is_held_against_the_objective_of_its_time() -> None:
    points = [made(0), made(10), made(20)]
    assert worst(points, (0, 12, 11), (12, 21, 24)) == Worst(10 * 3600.0, at(10), True)
    found = worst(points, (0, 5, 4), (5, 21, 24))
    assert found is not None
    assert found.kept is False


def test_nothing_is_said_of_no_time() -> None:
    assert worst([made(0)]) is None


def test_years_of_boot_points_take_no_time() -> None:
    points = [made(hour / 4) for hour in range(100_000)]  # every quarter of an hour, for almost three years
    began = time.monotonic()
    assert worst(points, (0, 25_000, 24)) == Worst(900.0, at(0.25), True)
    assert time.monotonic() - began < 10.0


def test_it_is_the_greatest_of_all_ages_looked_at_one_by_one() -> None:
    rng = random.Random(7)
    for _ in range(50):
        instants = sorted(rng.sample(range(-20, 100), rng.randrange(0, 12)))
        points = [made(instant, instant + rng.choice([0.0, 0.5])) for instant in instants]
        found = worst(points, (0, 100, None), begin=-30)
        ages = []
        for step in range(1, 1001):
            moment = at(step / 10)
            newest = max((point.instant for point in points if point.at < moment), default=at(-30))
            ages.append((moment - newest).total_seconds())
        assert found is not None
        assert max(ages) == found.seconds
