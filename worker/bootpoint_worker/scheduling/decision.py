"""What to do with something that is due, at an instant: a pure function.

::

    starts of the schedules  ──┬────┬────┬────┬────┬────┬──►
                               at             latest   next
                                                  └─ now
    now - latest ≤ 1 min       a run now; it makes up for those before it
    latest within catch_up     one run, soon: after a jitter, so that a thousand jobs don't start at once
    older than that            missed: written down, not made up
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bootpoint_common.errors import Code
from bootpoint_common.job.timetable import Timetable
from bootpoint_common.store.due import Due, Kind

#: Seconds that a run may be late and still count as the scheduled one: rounds of a busy scheduler, a failover.
PROMPT_SECONDS = 60.0

#: A catch-up waits at most this share of the time between two runs, and at most so many seconds.
JITTER_SHARE, JITTER_SECONDS = 0.1, 600.0

#: Starts of an outage that are counted; of more it is said that there were at least so many.
COUNTED = 1000

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Streak:
    """Starts in a row that had no run of their own.

    Attributes:
        first: The first one.
        last: The last one.
        count: How many there were, `COUNTED` or more being `COUNTED`.
    """

    first: datetime
    last: datetime
    count: int

    def as_json(self) -> dict[str, Any]:
        """Return it as the history and the row of a catch-up keep it."""
        return {"first": self.first.isoformat(), "last": self.last.isoformat(), "count": self.count}

    def __str__(self) -> str:
        if self.count == 1:
            return f"the run that was due at {_clock(self.first)}"
        most = "or more " if self.count >= COUNTED else ""
        return f"{self.count} {most}runs that were due from {_clock(self.first)} to {_clock(self.last)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows from something that is due.

    Attributes:
        start: When the run counts as due that is to be made now; None: no run is made.
        skip: Why that run is only written down; None: it is made.
        made_up: Starts that the run, or the catch-up, stands for as well.
        missed: Starts that nothing makes up for.
        catch_up: When a catch-up starts that stands for ``made_up``.
        next: When the row comes again; None: it goes.
        dropped: Why nothing follows from a row that could have started a run.
    """

    start: datetime | None = None
    skip: Code | None = None
    made_up: Streak | None = None
    missed: Streak | None = None
    catch_up: datetime | None = None
    next: datetime | None = None
    dropped: str | None = None

    @property
    def makes_run(self) -> bool:
        """Say whether a run is to be made now."""
        return self.start is not None and self.skip is None


def decide(due: Due, now: datetime, chance: float) -> Decision:
    """Say what to do with something that is due.

    Args:
        due: What is due; ``due.at`` is not after ``now``.
        now: The instant.
        chance: At random, from 0 up to 1: how much of the jitter a catch-up waits.
    """
    match due.kind:
        case Kind.SCHEDULE:
            return _schedule(due, now, chance)
        case Kind.CATCH_UP:
            return Decision(start=due.at, skip=Code.ALREADY_RUNNING if due.busy is not None else None)
        case Kind.RETRY:
            return _retry(due, now)
        case Kind.EVENT:
            if due.until is not None and due.until < now:
                return Decision(start=due.at, skip=Code.DEADLINE)
            return Decision(start=due.at)


def _retry(due: Due, now: datetime) -> Decision:
    if due.busy is not None:
        return Decision(dropped=f"run {due.busy} is under way, and is tried again itself if it fails")
    if (now - due.at).total_seconds() > due.timetable.rules.catch_up_seconds:
        return Decision(dropped="it was due too long ago")
    return Decision(start=due.at)


def _schedule(due: Due, now: datetime, chance: float) -> Decision:
    table = due.timetable
    # A time zone's rules may have changed since the row was written: what was promised is kept.
    latest = max(table.last(now) or due.at, due.at)
    following = table.next(now)
    oldest = now - timedelta(seconds=table.rules.catch_up_seconds)
    if (now - latest).total_seconds() <= PROMPT_SECONDS:
        earlier = _streak(table, due.at, latest - _TICK)
        missed, made_up = _split(table, earlier, oldest)
        skip = Code.ALREADY_RUNNING if due.busy is not None else None
        return Decision(start=latest, skip=skip, made_up=made_up, missed=missed, next=following)
    missed, made_up = _split(table, _streak(table, due.at, latest), oldest)
    catch_up = None if made_up is None else now + _jitter(latest, now, following, chance)
    return Decision(made_up=made_up, missed=missed, catch_up=catch_up, next=following)


def _jitter(latest: datetime, now: datetime, following: datetime | None, chance: float) -> timedelta:
    """Return how long a catch-up waits; never as long as until the next run."""
    seconds = JITTER_SECONDS
    if following is not None:
        seconds = min(
            seconds, JITTER_SHARE * (following - latest).total_seconds(), (following - now).total_seconds() / 2
        )
    return timedelta(seconds=seconds * chance)


def _split(table: Timetable, streak: Streak | None, oldest: datetime) -> tuple[Streak | None, Streak | None]:
    """Part starts into those before an instant and those from it on."""
    if streak is None or streak.first >= oldest:
        return None, streak
    if streak.last < oldest:
        return streak, None
    return _streak(table, streak.first, oldest - _TICK), _streak(table, oldest, streak.last)


def _streak(table: Timetable, first: datetime, last: datetime) -> Streak | None:
    """Return the starts from one instant to another, both included; None where there is none."""
    starts = itertools.takewhile(lambda at: at <= last, table.after(first - _TICK))
    counted = list(itertools.islice(starts, COUNTED))
    if not counted:
        return None
    end = counted[-1] if len(counted) < COUNTED else table.last(last) or counted[-1]
    return Streak(counted[0], end, len(counted))


def _clock(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")
