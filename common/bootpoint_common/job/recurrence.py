"""When a job runs next by itself: from rules on the wall clock of a time zone to instants.

A rule names starts as a wall clock shows them. A start happens at the first instant at which the clock of the zone
shows its time, or a later one::

    clock    00:00 ─── 01:59 │ 03:00 ───      forward: 02:30 happens at 03:00, once, however many starts the gap holds
    clock    00:00 ─── 02:59 │ 02:00 ───      back: 02:30 happens the first time that the clock shows it

So the order of starts is the order of their instants, and a search halves its way through the starts of a day. No day
holds more than 1,440 starts, and between two days of a rule lie two months at most (the 31st).
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from bootpoint_common.job.schedule import Schedule
from bootpoint_common.job.spec import Spec

#: Days before an instant's own where a start that happens after it may belong: a window begins late and is over the
#: next day, and a zone may leave out a whole day (Samoa, 30 December 2011).
_DAYS_BEFORE = 3

#: Days without a start after which a search gives up: the 31st comes within two months, and it began some days before.
_SILENT_DAYS = 70

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def runs_after(schedule: Schedule, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield when a rule runs after an instant, in order.

    Args:
        schedule: The rule.
        after: An aware instant; a run at exactly this instant is not yielded.
        zone: The job's time zone.

    Yields:
        Instants in UTC, without an end where the rule has none.
    """
    first = after.astimezone(zone).replace(tzinfo=None)
    if schedule.effective is not None:
        first = max(first, schedule.effective[0])
    silent = 0
    for day, falls in _days(schedule, first, 1):
        starts = _starts(schedule, day) if falls else ()
        silent = 0 if starts else silent + 1
        if silent > _SILENT_DAYS:
            return
        for start in starts[bisect_right(starts, after, key=lambda start: _instant(day + start, zone)) :]:
            at = _instant(day + start, zone)
            if at > after:  # else a gap holds this one and the one before
                after = at
                yield at


def next_run(schedule: Schedule, after: datetime, zone: tzinfo) -> datetime | None:
    """Return when a rule runs for the first time after an instant; None when it doesn't. See `runs_after`."""
    return next(runs_after(schedule, after, zone), None)


def last_run(schedule: Schedule, until: datetime, zone: tzinfo) -> datetime | None:
    """Return when a rule ran for the last time up to and including an instant; see `next_run`."""
    last = until.astimezone(zone).replace(tzinfo=None)
    if schedule.effective is not None:
        last = min(last, schedule.effective[1])
    for day, falls in itertools.islice(_days(schedule, last, -1), _SILENT_DAYS):
        starts = _starts(schedule, day) if falls else ()
        number = bisect_right(starts, until, key=lambda start: _instant(day + start, zone))
        if number:
            return _instant(day + starts[number - 1], zone)
    return None


def next_of(spec: Spec, after: datetime) -> datetime | None:
    """Return when a job runs by its schedules for the first time after an instant, in UTC; None when it doesn't.

    Whether it is enabled or paused is left aside.
    """
    return first_after(spec.schedules, after, UTC if spec.time_zone is None else ZoneInfo(spec.time_zone))


def all_after(schedules: Iterable[Schedule], after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield when several rules run after an instant, in order, and what two of them name alike once."""
    for at in heapq.merge(*(runs_after(schedule, after, zone) for schedule in schedules)):
        if at > after:
            after = at
            yield at


def first_after(schedules: Iterable[Schedule], after: datetime, zone: tzinfo) -> datetime | None:
    """Return when the first of several rules runs after an instant; see `next_run`."""
    return next(all_after(schedules, after, zone), None)


def last_until(schedules: Iterable[Schedule], until: datetime, zone: tzinfo) -> datetime | None:
    """Return when the last of several rules ran up to and including an instant; see `last_run`."""
    return max(filter(None, (last_run(schedule, until, zone) for schedule in schedules)), default=None)


def _days(schedule: Schedule, near: datetime, step: int) -> Iterator[tuple[datetime, bool]]:
    """Yield the midnight of each day and whether it is one of a rule's, on and on.

    It begins some days before a time of the clock and goes on (``step`` 1), or some days after it and goes back (-1).
    """
    if schedule.once is not None:
        yield _midnight(schedule.once.date()), True
        return
    for number in itertools.count(-_DAYS_BEFORE):
        try:
            day = near.date() + number * step * _DAY
            yield _midnight(day), schedule.falls_on(day)
        except OverflowError:  # beyond an end of the calendar
            if number > 0:
                return


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time())


def _starts(schedule: Schedule, midnight: datetime) -> tuple[timedelta, ...]:
    """Return when runs start on one of a rule's days, after its midnight, as far as its effective period goes."""
    starts = _offsets(schedule)
    if schedule.effective is None:
        return starts
    first, end = schedule.effective
    return starts[bisect_left(starts, first - midnight) : bisect_left(starts, end - midnight)]


@lru_cache(maxsize=1024)
def _offsets(schedule: Schedule) -> tuple[timedelta, ...]:
    if schedule.once is not None:
        return (schedule.once - _midnight(schedule.once.date()),)
    return tuple(timedelta(seconds=start) for start in schedule.starts())


def _instant(clock: datetime, zone: tzinfo) -> datetime:
    """Return the first instant at which the clock of a zone shows a time or a later one."""
    try:
        found = clock.replace(tzinfo=zone).astimezone(UTC)  # shown twice, it is the first (PEP 495, fold=0)
    except OverflowError:  # within a day of the calendar's end
        return clock.replace(tzinfo=UTC)
    if found.astimezone(zone).replace(tzinfo=None) == clock:
        return found
    # The clock skips it. By PEP 495 fold=0 counts with the offset from before the gap and fold=1 with the one after it:
    # the change lies between the two instants, at a whole second.
    clock = clock.replace(microsecond=0)
    before = clock.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = clock.replace(tzinfo=zone, fold=0).astimezone(UTC)
    while after - before > _SECOND:
        middle = before + (after - before) // (2 * _SECOND) * _SECOND
        if middle.astimezone(zone).replace(tzinfo=None) < clock:
            before = middle
        else:
            after = middle
    return after
