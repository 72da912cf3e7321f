"""Periods as an operator writes them: days of the zone that the command runs in, or exact instants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, TypeVar

import click

from bootpoint_common.units import parse_duration

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Period:
    """From an instant, up to but not including another; None: open on that side."""

    since: datetime | None
    until: datetime | None


def instant(text: str, *, zone: tzinfo | None = None, end: bool = False) -> datetime:
    """Read a day or an instant.

    Args:
        text: ``2026-12-03``, a day; ``2026-12-03T09:30``, local to the zone; ``2026-12-03T08:30:00Z``, exact.
        zone: The operator's; None: that of this process.
        end: Whether the end of a day is meant, which is the beginning of the next one.

    Returns:
        The instant, with a zone.

    Raises:
        ValueError: It is neither.
        OverflowError: No calendar of ours goes so far.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return _local(datetime.fromisoformat(text), zone)
    return _midnight(day + timedelta(days=1 if end else 0), zone)


def _local(found: datetime, zone: tzinfo | None) -> datetime:
    if found.tzinfo is not None:
        return found
    return found.astimezone() if zone is None else found.replace(tzinfo=zone)


def _midnight(day: date, zone: tzinfo | None) -> datetime:
    return _local(datetime.combine(day, time()), zone)


def last_days(count: int, *, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Return when the last days began: 1 is today, 2 is yesterday and today.

    Args:
        count: How many.
        now: The present instant.
        zone: The operator's; None: that of this process.
    """
    return _midnight(now.astimezone(zone).date() - timedelta(days=count - 1), zone)


def period(
    days: int | None, since: str | None, until: str | None, *, now: datetime, zone: tzinfo | None = None
) -> Period:
    """Make a period of what was said on the command line.

    Raises:
        click.BadParameter: ``--days`` stands beside ``--from`` or ``--to``, a text is no instant, or the time is empty.
    """
    if days is not None:
        if since or until:
            raise click.BadParameter("stands for itself: say either --days or --from and --to", param_hint="--days")
        return Period(last_days(days, now=now, zone=zone), None)
    found = Period(_read("--from", since, zone, end=False), _read("--to", until, zone, end=True))
    if found.since is not None and found.until is not None and found.since >= found.until:
        raise click.BadParameter(f"{until} is not after --from {since}", param_hint="--to")
    return found


def _read(option: str, text: str | None, zone: tzinfo | None, *, end: bool) -> datetime | None:
    if text is None:
        return None
    try:
        # Everything that is asked with it is in UTC.
        return instant(text, zone=zone, end=end).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        what = f"{text!r} is neither a day (2026-12-03) nor an instant (2026-12-03T09:30:00Z)"
        raise click.BadParameter(what, param_hint=option) from exc


def since(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Read the value of ``--since``: a day, an instant, or how long ago: ``2d``."""
    if value is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(value))
    except (ValueError, OverflowError):
        pass
    try:
        return instant(value).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        text = f"{value!r} is neither an instant (2026-12-03T09:30:00Z) nor how long ago (2d)"
        raise click.BadParameter(text) from exc


def local(at: str | None) -> str:
    """Write an instant of our JSON for people, in the zone of this process: ``2026-12-03 10:30:00``."""
    return "-" if at is None else f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}"


def exact(at: datetime | str) -> str:
    """Write an instant for a file, in the zone of this process and with its distance from UTC."""
    found = datetime.fromisoformat(at) if isinstance(at, str) else at
    return found.astimezone().isoformat(sep=" ", timespec="milliseconds")
