"""When a job runs by itself: days, a window, a repeat interval; and the longest time between two runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache

#: Stands for the last day of the month in `Schedule.monthly`.
LAST_DAY = -1

#: Minutes of a day.
DAY_MINUTES = 24 * 60

#: Seconds of a day, as wall clocks count them.
_DAY = 86400.0

#: Where the search for the longest gap starts, and the days it covers. A pattern of week days repeats after
#: 7 days; one with days of the month after 28 years (until 2100). No gap is longer than the rest.
_FIRST_DAY = date(2001, 1, 1)
_WEEKLY_DAYS = 7 + 8
_MONTHLY_DAYS = 28 * 365 + 7 + 70


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the day, from ``start`` up to but not including ``end``.

    Attributes:
        start: Minutes since midnight, 0 to 1439.
        end: Minutes since midnight, 1 to 1440; not later than ``start`` means on the next day.
    """

    start: int = 0
    end: int = DAY_MINUTES

    @property
    def minutes(self) -> int:
        """How long it is."""
        return self.end - self.start if self.end > self.start else self.end - self.start + DAY_MINUTES

    def contains(self, minute: int) -> bool:
        """Say whether a minute of the day (0 to 1439) lies inside."""
        return (minute - self.start) % DAY_MINUTES < self.minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One rule; exactly one of weekly, monthly and once is set.

    Attributes:
        weekly: Days of the week, Monday is 0.
        monthly: Days of the month, `LAST_DAY` for the last; a month without the day has no run.
        once: A single instant, local to the job's time zone.
        window: On each day runs start inside it; one that ends on the next day belongs to the day it starts on.
        every_seconds: A run at the window's start and then as often as this; None: at its start only.
        effective: The rule counts from the first up to the second instant, local to the job's time zone.
    """

    weekly: tuple[int, ...] = ()
    monthly: tuple[int, ...] = ()
    once: datetime | None = None
    window: Window = Window()
    every_seconds: float | None = None
    effective: tuple[datetime, datetime] | None = None

    def falls_on(self, day: date) -> bool:
        """Say whether the rule's days include ``day``, its effective period left aside."""
        if self.once is not None:
            return self.once.date() == day
        if self.weekly:
            return day.weekday() in self.weekly
        return day.day in self.monthly or (LAST_DAY in self.monthly and (day + timedelta(days=1)).day == 1)

    def starts(self) -> tuple[float, ...]:
        """Return when runs start on one of its days, in seconds since that day's midnight on the wall clock.

        Values from 86,400 on lie on the next day. Empty for a rule that runs once.
        """
        if self.once is not None:
            return ()
        first = self.window.start * 60.0
        if self.every_seconds is None:
            return (first,)
        count = -int(-self.window.minutes * 60.0 // self.every_seconds)
        return tuple(first + number * self.every_seconds for number in range(count))


@lru_cache(maxsize=64)
def longest_gap(schedules: Sequence[Schedule]) -> float | None:
    """Return the longest time between two runs that the rules together leave, in seconds on the wall clock.

    Effective periods are left aside: outside of them no run is due, so none is late.

    Args:
        schedules: A tuple; rules that run once don't count.

    Returns:
        Seconds, or None where nothing repeats.
    """
    repeating = [schedule for schedule in schedules if schedule.once is None]
    starts = [schedule.starts() for schedule in repeating]
    days = _MONTHLY_DAYS if any(schedule.monthly for schedule in repeating) else _WEEKLY_DAYS
    summaries: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, float, float] | None] = {}
    longest: float | None = None
    previous: float | None = None
    yesterday: tuple[int, ...] = ()
    for number in range(days):
        day = _FIRST_DAY + timedelta(days=number)
        today = tuple(index for index, schedule in enumerate(repeating) if schedule.falls_on(day))
        key = (yesterday, today)
        if key not in summaries:
            summaries[key] = _day([starts[index] for index in yesterday], [starts[index] for index in today])
        yesterday = today
        summary = summaries[key]
        if summary is None:
            continue
        first, last, inner = summary
        if previous is not None:
            longest = max(longest or 0.0, inner, number * _DAY + first - previous)
        previous = number * _DAY + last
    return longest


def _day(yesterday: list[tuple[float, ...]], today: list[tuple[float, ...]]) -> tuple[float, float, float] | None:
    """Return the first and the last start of one day and the longest gap between, or None for a day without."""
    moments = sorted(
        {start - _DAY for starts in yesterday for start in starts if start >= _DAY}
        | {start for starts in today for start in starts if start < _DAY}
    )
    if not moments:
        return None
    gaps = (after - before for before, after in itertools.pairwise(moments))
    return moments[0], moments[-1], max(gaps, default=0.0)
