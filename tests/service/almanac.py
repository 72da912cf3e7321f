"""Another way to find out when schedules run: the rules of dateutil for what a clock shows, read step by step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from random import Random
from zoneinfo import ZoneInfo

from dateutil.rrule import DAILY, SECONDLY, rrule

from bootpoint_common.job import LAST_DAY, Schedule, Window
from bootpoint_common.job.recurrence import next_run

#: Zones whose clocks jump in unusual ways, and some that don't; years in which they do.
ZONES = (
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # left out a day in 2011
    "Africa/Casablanca",  # back for Ramadan
    "Antarctica/Troll",  # by two hours
    "Asia/Beirut",  # at midnight
    "America/Sao_Paulo",  # at midnight, until 2019
    "America/St_Johns",  # at one minute past midnight, until 2011
    "America/Godthab",  # on Saturday evening
    "Asia/Gaza",
    "Pacific/Chatham",
    "Asia/Pyongyang",  # by half an hour, for good, in 2015 and 2018
    "America/Caracas",
    "Europe/Rome",
    "America/New_York",
    "Asia/Kathmandu",
    "UTC",
)
FIRST, LAST = datetime(2010, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)

#: Days beyond an instant that are searched: no rule but those with a period far away is silent for longer.
SEARCHED = 70


def compare(rng: Random, count: int) -> None:
    """Require that random schedules run when this module says they do: the next three runs of each."""
    jumps = {zone: _jumps(zone) for zone in ZONES}
    for number in range(count):
        name = rng.choice(ZONES)
        # Half of them around a jump of the clock: elsewhere there is little to get wrong.
        near = rng.choice(jumps[name]) if jumps[name] and rng.random() < 0.5 else None
        after = near - timedelta(minutes=rng.randrange(4000)) if near else FIRST + (LAST - FIRST) * rng.random()
        after = after.replace(microsecond=0)
        rule = _schedule(rng, after)
        for _ in range(3):
            found, expected = next_run(rule, after, ZoneInfo(name)), _expected(rule, after, ZoneInfo(name))
            assert found == expected, f"schedule {number} in {name} after {after}: {rule}"
            if found is None:
                break
            after = found


def _schedule(rng: Random, near: datetime) -> Schedule:
    around = near.replace(tzinfo=None, second=0)
    if rng.random() < 0.1:
        return Schedule(once=around + timedelta(minutes=rng.randint(-3000, 3000)))
    start = rng.choice((0, 30, 60, 90, 120, 150, rng.randrange(1440)))
    every = rng.choice((None, 60.0, 90.5, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 86400.0))
    # Every minute of a whole day is 1,440 starts to look through, and shows nothing that an hour of them doesn't.
    length = rng.choice((1440, 60, 240, rng.randint(1, 1440)) if every is None or every >= 1800 else (60, 200))
    window = Window(start, (start + length - 1) % 1440 + 1)
    if every is not None and every > window.minutes * 60:
        every = None
    effective = None
    if rng.random() < 0.3:
        begin = around + timedelta(minutes=rng.randint(-40_000, 40_000))
        effective = (begin, begin + timedelta(minutes=rng.randint(1, 60_000)))
    rule = Schedule(window=window, every_seconds=every, effective=effective)
    if rng.random() < 0.6:
        return replace(rule, weekly=tuple(sorted(rng.sample(range(7), rng.randint(1, 7)))))
    return replace(rule, monthly=tuple(rng.sample([LAST_DAY, *range(1, 32)], rng.randint(1, 4))))


def _expected(rule: Schedule, after: datetime, zone: tzinfo) -> datetime | None:
    """Return the first run after an instant: each start that a clock could show, in order, until one is late enough."""
    if rule.once is not None:
        at = first_shown(rule.once, zone)
        return at if at > after else None
    begin = after.astimezone(zone).replace(tzinfo=None)
    if rule.effective is not None:
        begin = max(begin, rule.effective[0])
    midnight = datetime.combine(begin.date() - timedelta(days=3), datetime.min.time())
    days = rrule(
        DAILY,
        dtstart=midnight,
        until=midnight + timedelta(days=SEARCHED),
        byweekday=rule.weekly or None,
        bymonthday=rule.monthly or None,
    )
    for day in days:
        start = day + timedelta(minutes=rule.window.start)
        if start < begin - timedelta(days=2, hours=2):
            continue
        for shown in _shown(rule, start):
            if rule.effective is not None and not rule.effective[0] <= shown < rule.effective[1]:
                continue
            if shown < begin - _longest_jump(zone):
                continue  # the clock shows it before the instant, wherever it jumps
            at = first_shown(shown, zone)
            if at > after:
                return at
    return None


def _longest_jump(zone: tzinfo) -> timedelta:
    return timedelta(hours=26 if str(zone) == "Pacific/Apia" else 3)


def _shown(rule: Schedule, start: datetime) -> list[datetime]:
    """Return the starts of a day as the clock shows them."""
    if rule.every_seconds is None:
        return [start]
    end = start + timedelta(minutes=rule.window.minutes)
    if rule.every_seconds % 1 == 0:
        return list(rrule(SECONDLY, interval=int(rule.every_seconds), dtstart=start, until=end - timedelta(seconds=1)))
    shown, at = [], start  # dateutil counts whole seconds
    while at < end:
        shown.append(at)
        at += timedelta(seconds=rule.every_seconds)
    return shown


@lru_cache(maxsize=100_000)
def first_shown(clock: datetime, zone: tzinfo) -> datetime:
    """Return the first instant at which a clock shows a time or a later one, reading it by hours and then by minutes.

    Offsets are whole minutes: where the clock shows the time at all, it shows it at the end of such a minute.
    """
    at = clock.replace(tzinfo=UTC) - timedelta(hours=27)
    for step, before in ((timedelta(hours=1), timedelta(hours=4)), (timedelta(minutes=1), timedelta(0))):
        while _shows(at + step, zone) < clock - before:
            at += step
    if _shows(at + timedelta(minutes=1), zone) == clock:
        return at + timedelta(minutes=1)
    at = at.replace(microsecond=0)
    while _shows(at, zone) < clock:
        at += timedelta(seconds=1)
    return at


def _shows(at: datetime, zone: tzinfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None)


@lru_cache(maxsize=64)
def _jumps(zone: str) -> list[datetime]:
    """Return instants shortly after a zone's offset has changed."""
    place = ZoneInfo(zone)
    found, before = [], FIRST.astimezone(place).utcoffset()
    for at in (FIRST + timedelta(hours=12) * number for number in range((LAST - FIRST) // timedelta(hours=12))):
        offset = at.astimezone(place).utcoffset()
        if offset != before:
            found.append(at)
        before = offset
    return found


def due_between(schedules: Iterable[Schedule], after: datetime, until: datetime, zone: tzinfo) -> list[datetime]:
    """Return all runs of several rules after an instant and up to another one, each once."""
    found: set[datetime] = set()
    first = after.astimezone(zone).date() - timedelta(days=3)
    for rule in schedules:
        for number in range((until - after).days + 6):
            day = first + timedelta(days=number)
            if rule.falls_on(day):
                start = datetime.combine(day, datetime.min.time()) + timedelta(minutes=rule.window.start)
                found |= {first_shown(shown, zone) for shown in _shown(rule, start)}
    return sorted(at for at in found if after < at <= until)
