"""What of a job decides when runs start by themselves: a small part of its file, read without the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from bootpoint_common.job import recurrence
from bootpoint_common.job.calendar import read_schedule
from bootpoint_common.job.option import read_run
from bootpoint_common.job.schedule import Schedule
from bootpoint_common.job.spec import RunRules
from bootpoint_common.job.table import Problems, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """A job's rules of time.

    Attributes:
        zone: The job's time zone; UTC where it has none, and then no schedule either.
        schedules: Its rules; they add up, and what two of them name alike is one run.
        rules: What follows a run that failed or was missed, and which events start one.
    """

    zone: tzinfo
    schedules: tuple[Schedule, ...]
    rules: RunRules

    def next(self, after: datetime) -> datetime | None:
        """Return when a run starts after an instant; None when none does."""
        return recurrence.first_after(self.schedules, after, self.zone)

    def after(self, at: datetime) -> Iterator[datetime]:
        """Yield when runs start after an instant, in order."""
        return recurrence.all_after(self.schedules, at, self.zone)

    def last(self, until: datetime) -> datetime | None:
        """Return when a run started last, up to and including an instant; None when none did."""
        return recurrence.last_until(self.schedules, until, self.zone)


def read_rules(spec: Mapping[str, Any]) -> RunRules:
    """Read the rules of runs alone from a stored job: they hold even where this system doesn't know the job's zone.

    Args:
        spec: The job, or its key ``run`` alone.

    Raises:
        SpecError: It was never checked: what is stored has been.
    """
    problems = Problems("stored job")
    found = read_run(Table({"run": spec.get("run")}, "", problems).table("run"))
    problems.close()
    return found


def read_timetable(spec: Mapping[str, Any]) -> Timetable:
    """Read the timetable from a stored job, the JSON that `as_json` makes; a fraction of what reading all of it takes.

    Args:
        spec: The job, or its keys ``time_zone``, ``schedule`` and ``run`` alone.

    Raises:
        SpecError: It was never checked: what is stored has been.
    """
    problems = Problems("stored job")
    table = Table({key: spec.get(key) for key in ("schedule", "run")}, "", problems)
    zone = spec.get("time_zone")
    found = Timetable(
        zone=UTC if zone is None else ZoneInfo(zone),
        schedules=tuple(read_schedule(item) for item in table.tables("schedule")),
        rules=read_run(table.table("run")),
    )
    problems.close()
    return found
