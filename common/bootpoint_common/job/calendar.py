"""Reads the ``[[schedule]]`` tables of a job file, and parts of the day."""

from __future__ import annotations

from bootpoint_common.job import value
from bootpoint_common.job.schedule import DAY_MINUTES, Schedule, Window
from bootpoint_common.job.table import BadValue, Table

#: Shortest time between two runs of one rule, in seconds.
SHORTEST_EVERY = 60.0


def read_schedule(table: Table) -> Schedule:
    """Read one ``[[schedule]]``."""
    given = [kind for kind in ("weekly", "monthly", "once") if table.has(kind)]
    if len(given) != 1:
        table.problem(
            "", f"names {' and '.join(given) or 'no day'}", hint="write exactly one of weekly, monthly and once"
        )
    if "once" in given:
        for key in ("window", "every", "effective"):
            if table.has(key):
                table.problem(key, "has no meaning beside once", hint="remove it")
    every = value.duration(SHORTEST_EVERY)
    schedule = Schedule(
        weekly=tuple(sorted(table.items("weekly", value.weekday))),
        monthly=tuple(sorted(table.items("monthly", value.month_day), key=lambda day: day % 100)),
        once=table.take("once", value.instant, None),
        window=table.take("window", _window, Window()),
        every_seconds=table.take("every", every, None),
        effective=table.take("effective", value.period, None),
    )
    if schedule.every_seconds is not None and schedule.every_seconds > schedule.window.minutes * 60:
        table.problem("every", "is longer than the window", hint="leave every out for one run at the window's start")
    table.end()
    return schedule


def _window(found: object) -> Window:
    if not isinstance(found, list) or len(found) != 2:
        raise BadValue('must be two times of day: ["07:00", "20:00"]')
    return between(value.clock(found[0]), value.clock(found[1]))


def between(start: int, end: int) -> Window:
    """Make the window between two times of day, in minutes since midnight.

    Raises:
        BadValue: It would be empty.
    """
    if start in (end, DAY_MINUTES) or end == 0:
        raise BadValue(
            f"{value.clock_text(start)} to {value.clock_text(end)} is no part of the day",
            hint='the whole day is from "00:00" to "24:00"',
        )
    return Window(start, end)
