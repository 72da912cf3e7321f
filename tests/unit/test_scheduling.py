"""What to do with something that is due: late, missed, caught up, in the way of another run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.job.timetable import read_timetable
from bootpoint_common.store.due import Due, Kind
from bootpoint_worker.scheduling.decision import COUNTED, Decision, Streak, decide

#: A Thursday.
NOON = datetime(2026, 12, 3, 12, tzinfo=UTC)

DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def due(at: datetime = NOON, *, kind: Kind = Kind.SCHEDULE, every: str = "1h", **more: Any) -> Due:
    spec = {
        "time_zone": "UTC",
        "schedule": [{"weekly": DAY, "every": every}],
        "run": {"catch_up": more.pop("catch_up", "24h")},
    }
    values = {"until": None, "details": {}, "busy": None} | more
    return Due(job_id=1, job="erp", agent="erp", kind=kind, at=at, timetable=read_timetable(spec), **values)


def after(**more: float) -> datetime:
    return NOON + timedelta(**more)


def test_what_is_due_is_started_and_comes_again() -> None:
    assert decide(due(), after(seconds=1), 0.5) == Decision(start=NOON, next=after(hours=1))


def test_a_minute_late_is_no_outage() -> None:
    assert decide(due(), after(seconds=60), 0.5).start == NOON
    assert decide(due(), after(seconds=61), 0.5).start is None


def test_a_job_that_still_runs_is_left_alone() -> None:
    found = decide(due(busy=7), after(seconds=1), 0.5)
    assert (found.start, found.skip, found.next) == (NOON, Code.ALREADY_RUNNING, after(hours=1))
    assert not found.makes_run


def test_missed_runs_become_one_catch_up() -> None:
    found = decide(due(), after(hours=5, minutes=10), 0.5)
    assert found == Decision(
        made_up=Streak(NOON, after(hours=5), 6), catch_up=after(hours=5, minutes=13), next=after(hours=6)
    )


@pytest.mark.parametrize(
    ("every", "late", "most"),
    [
        ("1h", timedelta(minutes=5), timedelta(minutes=6)),  # a tenth of the interval
        ("12h", timedelta(minutes=5), timedelta(minutes=10)),
        ("1h", timedelta(minutes=58), timedelta(minutes=1)),  # half of the time to the next run
    ],
)
def test_a_catch_up_waits_at_random_and_never_long(every: str, late: timedelta, most: timedelta) -> None:
    waits = []
    for chance in (0.0, 0.5, 1.0):
        at = decide(due(every=every), NOON + late, chance).catch_up
        assert at is not None
        waits.append(at - NOON - late)
    assert waits == [timedelta(0), most / 2, most]


def test_what_is_missed_for_too_long_is_not_made_up() -> None:
    found = decide(due(catch_up="2h"), after(hours=5, minutes=10), 0.0)
    assert found.missed == Streak(NOON, after(hours=3), 4)
    assert found.made_up == Streak(after(hours=4), after(hours=5), 2)
    assert found.catch_up == after(hours=5, minutes=10)
    gone = decide(due(catch_up="5m"), after(hours=5, minutes=10), 0.0)
    assert gone == Decision(missed=Streak(NOON, after(hours=5), 6), next=after(hours=6))


def test_a_run_that_is_due_when_an_outage_ends_makes_up_for_the_others() -> None:
    found = decide(due(catch_up="2h"), after(hours=5, seconds=20), 0.0)
    assert found.start == after(hours=5)
    assert found.catch_up is None
    assert found.made_up == Streak(after(hours=4), after(hours=4), 1)
    assert found.missed == Streak(NOON, after(hours=3), 4)


def test_an_outage_of_years_is_counted_as_far_as_anybody_cares() -> None:
    found = decide(due(every="1m", catch_up="1h"), after(days=1500, minutes=3, seconds=30), 0.0)
    assert found.start == after(days=1500, minutes=3)
    assert found.missed is not None
    assert found.missed.count == COUNTED
    assert found.missed.last == after(days=1500, minutes=-57)
    assert "1000 or more" in str(found.missed)


def test_a_catch_up_is_a_run_unless_the_job_runs() -> None:
    late = due(kind=Kind.CATCH_UP)
    assert decide(late, after(hours=3), 0.0) == Decision(start=NOON)
    assert decide(due(kind=Kind.CATCH_UP, busy=7), NOON, 0.0).skip is Code.ALREADY_RUNNING


def test_another_attempt_is_not_made_beside_a_run_nor_long_after() -> None:
    assert decide(due(kind=Kind.RETRY), NOON, 0.0).makes_run
    assert decide(due(kind=Kind.RETRY, busy=7), NOON, 0.0).dropped is not None
    assert decide(due(kind=Kind.RETRY), after(hours=24, seconds=1), 0.0).dropped is not None


def test_the_run_of_an_event_is_not_begun_after_its_deadline() -> None:
    assert decide(due(kind=Kind.EVENT, until=after(seconds=15)), after(seconds=15), 0.0).makes_run
    assert decide(due(kind=Kind.EVENT, until=after(seconds=15)), after(seconds=16), 0.0).skip is Code.DEADLINE
