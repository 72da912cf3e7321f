"""When a job runs next: against dateutil's rules and a clock that is read step by step, and by hand at odd jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from bootpoint_common.job import LAST_DAY, Schedule, Window
from bootpoint_common.job.recurrence import first_after, last_run, last_until, next_run
from bootpoint_common.job.timetable import read_timetable
from tests.service.almanac import compare

HOUR = 3600.0
HOWE = "Australia/Lord_Howe"
ALL_DAYS = tuple(range(7))


def clock(text: str) -> datetime:
    """Return what a clock shows: a time without an offset."""
    return datetime.fromisoformat(text)


def runs(rule: Schedule, zone: str, after: str, count: int) -> list[str]:
    """Return the next runs as a clock of the zone shows them, with its offset."""
    place = ZoneInfo(zone)
    at: datetime | None = datetime.fromisoformat(after).replace(tzinfo=place)
    found = []
    for _ in range(count):
        assert at is not None
        at = next_run(rule, at, place)
        found.append("none" if at is None else at.astimezone(place).strftime("%Y-%m-%d %H:%M %z"))
        if at is None:
            break
    return found


def test_random_schedules_run_when_dateutil_says(rng: Random) -> None:
    compare(rng, 800)


def daily(at: str, **more: object) -> Schedule:
    hour, minute = map(int, at.split(":"))
    start = hour * 60 + minute
    return Schedule(weekly=ALL_DAYS, window=Window(start, 1440), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("zone", "rule", "after", "expected"),
    [
        # An hour is skipped: the run happens when it is over.
        ("Europe/Rome", daily("02:30"), "2026-03-28T12:00", ["2026-03-29 03:00 +0200", "2026-03-30 02:30 +0200"]),
        # An hour comes twice: the run happens in the first one.
        ("Europe/Rome", daily("02:30"), "2026-10-24T12:00", ["2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"]),
        # Half an hour.
        (HOWE, daily("02:15"), "2026-10-03T12:00", ["2026-10-04 02:30 +1100", "2026-10-05 02:15 +1100"]),
        (HOWE, daily("01:45"), "2026-04-04T12:00", ["2026-04-05 01:45 +1100", "2026-04-06 01:45 +1030"]),
        # A day that never was: its run and the next day's are two, for they are not at one time.
        ("Pacific/Apia", daily("08:00"), "2011-12-29T12:00", ["2011-12-31 00:00 +1400", "2011-12-31 08:00 +1400"]),
        # Two hours.
        ("Antarctica/Troll", daily("02:00"), "2026-03-28T12:00", ["2026-03-29 03:00 +0200", "2026-03-30 02:00 +0200"]),
        # The clock goes back for Ramadan, and forward after it.
        ("Africa/Casablanca", daily("02:30"), "2026-02-14T12:00", ["2026-02-15 02:30 +0100", "2026-02-16 02:30 +0000"]),
        ("Africa/Casablanca", daily("02:30"), "2026-03-21T12:00", ["2026-03-22 03:00 +0100", "2026-03-23 02:30 +0100"]),
        # Midnight is skipped.
        ("Asia/Beirut", daily("00:00"), "2026-03-28T12:00", ["2026-03-29 01:00 +0300", "2026-03-30 00:00 +0300"]),
        ("America/Sao_Paulo", daily("00:00"), "2018-11-03T12:00", ["2018-11-04 01:00 -0200", "2018-11-05 00:00 -0200"]),
    ],
)
def test_where_the_clock_jumps(zone: str, rule: Schedule, after: str, expected: list[str]) -> None:
    assert runs(rule, zone, after, len(expected)) == expected


def test_starts_within_a_gap_are_one_run_and_those_of_an_hour_that_comes_twice_come_once() -> None:
    every = Schedule(weekly=ALL_DAYS, every_seconds=HOUR / 2)
    assert runs(every, "Europe/Rome", "2026-03-29T01:00", 3) == [
        "2026-03-29 01:30 +0100",
        "2026-03-29 03:00 +0200",
        "2026-03-29 03:30 +0200",
    ]
    assert runs(every, "Europe/Rome", "2026-10-25T01:30", 4) == [
        "2026-10-25 02:00 +0200",
        "2026-10-25 02:30 +0200",
        "2026-10-25 03:00 +0100",
        "2026-10-25 03:30 +0100",
    ]


def test_a_window_over_midnight_belongs_to_the_day_it_starts_on() -> None:
    rule = Schedule(weekly=(4,), window=Window(22 * 60, 2 * 60), every_seconds=2 * HOUR)
    assert runs(rule, "Europe/Rome", "2026-12-04T23:00", 3) == [
        "2026-12-05 00:00 +0100",
        "2026-12-11 22:00 +0100",
        "2026-12-12 00:00 +0100",
    ]


def test_a_month_without_the_31st_has_no_run_and_the_last_day_is_each_months() -> None:
    assert runs(Schedule(monthly=(31,)), "UTC", "2026-01-31T12:00", 3) == [
        "2026-03-31 00:00 +0000",
        "2026-05-31 00:00 +0000",
        "2026-07-31 00:00 +0000",
    ]
    assert runs(Schedule(monthly=(LAST_DAY,)), "UTC", "2028-01-31T12:00", 2) == [
        "2028-02-29 00:00 +0000",
        "2028-03-31 00:00 +0000",
    ]


def test_an_effective_period_begins_with_its_first_instant_and_ends_before_its_last() -> None:
    period = (clock("2031-05-01T08:00"), clock("2031-05-02T08:00"))
    rule = Schedule(weekly=ALL_DAYS, window=Window(8 * 60, 9 * 60), effective=period)
    assert runs(rule, "Europe/Rome", "2026-01-01T00:00", 2) == ["2031-05-01 08:00 +0200", "none"]


def test_a_single_run_is_over_once_it_was() -> None:
    rule = Schedule(once=clock("2026-03-29T02:30"))
    assert runs(rule, "Europe/Rome", "2021-01-01T00:00", 2) == ["2026-03-29 03:00 +0200", "none"]


@pytest.mark.parametrize("once", ["0001-01-01T23:00", "9999-12-31T23:00"])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_the_ends_of_the_calendar_are_no_error(once: str, zone: str) -> None:
    place, after = ZoneInfo(zone), datetime(2026, 1, 1, tzinfo=UTC)
    assert (next_run(Schedule(once=clock(once)), after, place) is None) == once.startswith("0")
    period = (clock("9999-12-30T00:00"), clock("9999-12-31T23:00"))
    assert next_run(Schedule(weekly=ALL_DAYS, effective=period), after, place) is not None


def test_rules_add_up_and_what_two_name_alike_is_one_run() -> None:
    spec = {
        "time_zone": "Europe/Rome",
        "schedule": [
            {"weekly": ["mon"], "window": ["08:00", "10:00"], "every": "1h"},
            {"monthly": [7], "window": ["09:00", "10:00"]},
        ],
    }
    table = read_timetable(spec)
    at = datetime(2026, 12, 7, tzinfo=ZoneInfo("Europe/Rome"))
    first = table.next(at)
    second = table.next(first) if first else None
    third = table.next(second) if second else None
    assert [each and each.astimezone(table.zone).strftime("%d %H:%M") for each in (first, second, third)] == [
        "07 08:00",
        "07 09:00",
        "14 08:00",
    ]
    assert table.last(at) == datetime(2026, 11, 30, 8, tzinfo=UTC)
    assert first_after((), at, UTC) is last_until((), at, UTC) is None


def test_the_last_run_is_the_one_before_the_next(rng: Random) -> None:
    place = ZoneInfo(HOWE)
    for _ in range(200):
        rule = Schedule(monthly=(rng.randint(1, 31), LAST_DAY), every_seconds=rng.choice((None, 5400.0)))
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=rng.randrange(600_000))
        found = next_run(rule, at, place)
        assert found is not None
        assert last_run(rule, found, place) == found
        before = last_run(rule, found - timedelta(seconds=1), place)
        assert before is not None
        assert before <= at
        assert next_run(rule, before, place) == found
