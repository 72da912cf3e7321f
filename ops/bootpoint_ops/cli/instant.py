"""Instants to come as options: when something ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from bootpoint_common.units import parse_duration


def later(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """Read ``2026-12-31``, ``2026-12-31T09:30:00Z``, or for how long: ``30d``."""
    if value is None:
        return None
    now = datetime.now(UTC)
    try:
        found = now + timedelta(seconds=parse_duration(value))
    except ValueError:
        try:
            found = datetime.fromisoformat(value)
        except ValueError as exc:
            text = f"{value!r} is neither an instant (2026-12-31T09:30:00Z) nor for how long (30d)"
            raise click.BadParameter(text) from exc
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    if found <= now:
        raise click.BadParameter(f"{value!r} is over already")
    return found
