"""Periods as operators write them, in zones whose days aren't all as long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import click
import pytest

from bootpoint_ops.cli.period import instant, last_days, period

ROME = ZoneInfo("Europe/Rome")
NOW = datetime(2026, 12, 3, 23, 30, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_day_is_the_operators() -> None:
    found = period(None, "2026-12-03", "2026-12-03", now=NOW, zone=ROME)
    assert (found.since, found.until) == (utc("2026-12-02T23:00"), utc("2026-12-03T23:00"))


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)])
def test_a_day_is_as_long_as_it_is_in_its_zone(day: str, hours: int) -> None:
    found = period(None, day, day, now=NOW, zone=ROME)
    assert found.since is not None
    assert found.until is not None
    assert found.until.astimezone(UTC) - found.since.astimezone(UTC) == timedelta(hours=hours)


def test_a_day_may_be_written_without_dashes() -> None:
    assert period(None, "20261203", "20261203", now=NOW) == period(None, "2026-12-03", "2026-12-03", now=NOW)


@pytest.mark.parametrize("text", ["9999-12-31", "0001-01-01", "0001-01-01T00:00"])
def test_a_day_that_no_calendar_has_room_for_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="neither a day"):
        period(None, text if text.startswith("0") else None, text, now=NOW, zone=ROME)


def test_an_instant_is_taken_as_it_is() -> None:
    assert instant("2026-12-03T09:30:00Z", zone=ROME) == utc("2026-12-03T09:30")
    assert instant("2026-12-03T09:30:00+05:30", zone=ROME) == utc("2026-12-03T04:00")
    assert instant("2026-12-03T09:30", zone=ROME) == utc("2026-12-03T08:30")
    assert period(None, None, "2026-12-03T09:30:00Z", now=NOW).until == utc("2026-12-03T09:30")


def test_the_last_days_begin_at_midnight_and_hold_today() -> None:
    # At 23:30 UTC it is the fourth in Rome.
    assert last_days(1, now=NOW, zone=ROME) == utc("2026-12-03T23:00")
    assert last_days(7, now=NOW, zone=ROME) == utc("2026-11-27T23:00")
    assert last_days(1, now=NOW, zone=UTC) == utc("2026-12-03T00:00")


@pytest.mark.parametrize(
    ("days", "since", "until", "text"),
    [
        (3, "2026-12-01", None, "either --days or --from and --to"),
        (None, "yesterday", None, "'yesterday' is neither a day"),
        (None, "2026-13-01", None, "neither a day"),
        (None, "2026-12-03", "2026-12-02", "2026-12-02 is not after --from 2026-12-03"),
    ],
)
def test_what_is_no_period_is_refused(days: int | None, since: str | None, until: str | None, text: str) -> None:
    with pytest.raises(click.BadParameter, match=text):
        period(days, since, until, now=NOW, zone=ROME)
