"""The auditor's report: how each machine was protected over a period, from the history.

The age of the newest boot point is a saw: it grows by a second a second, and falls when a newer one is committed::

    age      /|    /|        /|          The worst is at a tooth's top: just before a commit,
            / |   / |    /| / |          or where the period ends. Looking at the present alone
           /  |  /  |   / |/  |          would see one point of it.
          /   | /   |  /      | /
    from  ────┴─────┴──┴──────┴────  to
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bootpoint_common.store import audit
from bootpoint_common.store.database import Connection, Row
from bootpoint_common.store.shown import jsonable
from bootpoint_common.units import parse_duration

#: How the name of a boot point says its instant, in UTC.
_NAME = "V%Y%m%d_%H%M%S"

#: Columns of the report, in their order.
COLUMNS = (
    "machine", "job", "host", "points_made", "points_kept", "newest_point", "worst_point_age_seconds",
    "worst_point_age_at", "objective_seconds", "objective_kept", "verified_at", "verified_point", "verified_result",
    "boot_checked_at", "boot_point", "boot_verdict", "boot_picture", "tested_at", "tested_point", "tested_by",
    "runs_succeeded", "runs_failed", "runs_cancelled", "runs_skipped", "runs_missed", "unprotected_disks",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """A boot point of one host.

    Attributes:
        name: Its name.
        instant: What it is a state of.
        at: Since when the host had it.
    """

    name: str
    instant: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which a job had a target, and one objective.

    Attributes:
        since: From then on.
        until: Up to then.
        objective: Allowed age of the newest point, seconds; None where the job states none.
    """

    since: datetime
    until: datetime
    objective: float | None


@dataclass(frozen=True, slots=True)
class Worst:
    """The greatest age of the newest boot point.

    Attributes:
        seconds: The age.
        at: When it was that old.
        kept: Whether every age was within the objective of its time; None where there was none.
    """

    seconds: float
    at: datetime
    kept: bool | None


def worst_age(made: Sequence[Made], stretches: Sequence[Stretch], *, begin: datetime) -> Worst | None:
    """Return the greatest age of the newest boot point over a time.

    Args:
        made: Boot points in the order in which the host got them, what it had before the time among them.
        stretches: The time, in pieces that don't overlap, oldest first.
        begin: When the job got the target: without any boot point the age counts from there.

    Returns:
        The worst; None where the stretches are empty.
    """
    found: Worst | None = None
    kept: bool | None = None
    newest, seen = None, 0
    for stretch in stretches:
        ends = [point.at for point in made if stretch.since < point.at < stretch.until]
        for end in (*ends, stretch.until):
            while seen < len(made) and made[seen].at < end:
                newest = made[seen].instant if newest is None else max(newest, made[seen].instant)
                seen += 1
            age = (end - (newest or begin)).total_seconds()
            if stretch.objective is not None:
                kept = kept is not False and age <= stretch.objective
            if found is None or age > found.seconds:
                found = Worst(age, end, None)
    return None if found is None else Worst(found.seconds, found.at, kept)


@dataclass
class _Protection:
    """A job on one of its hosts."""

    machine: str
    job: str
    host: str
    begin: datetime
    end: datetime
    stretches: list[Stretch] = field(default_factory=list)
    objective: float | None = None


def _protections(revisions: list[Row], since: datetime, until: datetime) -> list[_Protection]:
    """Return which job had which host when; those whose time was over before the period are left out."""
    found: dict[tuple[int, str], _Protection] = {}
    for number, row in enumerate(revisions):
        later = revisions[number + 1] if number + 1 < len(revisions) else None
        same = later is not None and later["job_id"] == row["job_id"]
        end = min(until, row["gone_at"] or until, later["at"] if same and later is not None else until)
        objective = (row["spec"].get("objective") or {}).get("point")
        seconds = None if objective is None else parse_duration(objective)
        for target in row["spec"]["target"]:
            key = (row["job_id"], target["host"])
            machine = row["spec"]["source"].get("agent") or ""
            new = _Protection(machine, row["name"], target["host"], row["at"], end)
            known = found.setdefault(key, new)
            known.end, known.objective = end, seconds
            if max(row["at"], since) < end:
                known.stretches.append(Stretch(max(row["at"], since), end, seconds))
    return [protection for protection in found.values() if protection.stretches]


def report(connection: Connection, since: datetime, until: datetime, *, now: datetime) -> dict[str, Any]:
    """Return the report over a period.

    Args:
        connection: A transaction.
        since: From then on.
        until: Up to, but not including it; what hasn't been yet is left out.
        now: The present instant.

    Returns:
        ``from``, ``to``, and ``items`` with `COLUMNS` as keys: one for each job and target, and one for each machine
        without a job.
    """
    end = min(until, now)
    found = _Found(connection, since, end)
    items = [found.item(each) for each in _protections(audit.revisions(connection, end), since, end)]
    items += list(_without_a_job(connection, end))
    items.sort(key=lambda item: (item["machine"], item["job"] or "", item["host"] or ""))
    return {"from": jsonable(since), "to": jsonable(end), "items": items}


class _Found:
    """What the history has of a period, by job and host.

    Args:
        connection: A transaction.
        since: From then on.
        until: Up to then.
    """

    def __init__(self, connection: Connection, since: datetime, until: datetime) -> None:
        self._since = since
        self._made: dict[tuple[str, str], list[Made]] = defaultdict(list)
        for row in audit.points(connection, since, until):
            instant = datetime.strptime(row["point"], _NAME).replace(tzinfo=UTC)
            self._made[row["job"], row["host"]].append(Made(row["point"], instant, row["at"]))
        self._kept: dict[tuple[str, str], list[datetime]] = defaultdict(list)
        for row in audit.kept(connection, until):
            self._kept[row["job"], row["host"]].append(row["at"])
        self._last = {
            what: {(row["job"], row["host"]): row for row in audit.last(connection, what, until)} for what in audit.LAST
        }
        self._endings = {row.pop("job"): row for row in audit.endings(connection, since, until)}
        self._disks: dict[str, list[str]] = defaultdict(list)
        for row in audit.unprotected(connection, since, until):
            self._disks[row["agent"]].append(row["disk"])

    def item(self, of: _Protection) -> dict[str, Any]:
        """Return a line of the report."""
        made = [point for point in self._made[of.job, of.host] if of.begin <= point.at < of.end]
        worst = worst_age(made, of.stretches, begin=of.begin)
        newest = max(made, key=lambda point: point.instant, default=None)
        ended = self._endings.get(of.job, {})
        item: dict[str, Any] = {
            "machine": of.machine,
            "job": of.job,
            "host": of.host,
            "points_made": sum(point.at >= self._since for point in made),
            # None of an earlier job of that name, nor of a later one.
            "points_kept": sum(of.begin <= at < of.end for at in self._kept[of.job, of.host]),
            "newest_point": None if newest is None else newest.name,
            "worst_point_age_seconds": None if worst is None else round(worst.seconds, 3),
            "worst_point_age_at": None if worst is None else worst.at,
            "objective_seconds": of.objective,
            "objective_kept": None if worst is None else worst.kept,
            **self._proofs(of),
            **{f"runs_{how}": ended.get(how, 0) for how in ("succeeded", "failed", "cancelled", "skipped", "missed")},
            "unprotected_disks": self._disks[of.machine],
        }
        shown: dict[str, Any] = jsonable(item)
        return shown

    def _proofs(self, of: _Protection) -> dict[str, Any]:
        """Return the last verification, boot check and test of a job on a host."""
        verified, checked, tested = (self._proof(what, of) for what in ("verification", "boot_check", "test"))
        boot = checked.get("details") or {}
        return {
            "verified_at": verified.get("at"),
            "verified_point": verified.get("point"),
            "verified_result": str(verified["kind"]).removeprefix("point_") if verified else None,
            "boot_checked_at": checked.get("at"),
            "boot_point": checked.get("point"),
            "boot_verdict": boot.get("verdict"),
            "boot_picture": boot.get("screenshot"),
            "tested_at": tested.get("at"),
            "tested_point": tested.get("point"),
            "tested_by": tested.get("actor"),
        }

    def _proof(self, what: str, of: _Protection) -> Row:
        row = self._last[what].get((of.job, of.host))
        return row if row is not None and of.begin <= row["at"] < of.end else {}


def _without_a_job(connection: Connection, until: datetime) -> Iterator[dict[str, Any]]:
    for row in audit.machines_without_a_job(connection, until):
        yield {
            **dict.fromkeys(COLUMNS),
            "machine": row["agent"],
            "points_made": 0,
            "points_kept": 0,
            **{f"runs_{how}": 0 for how in ("succeeded", "failed", "cancelled", "skipped", "missed")},
            "unprotected_disks": list(row["disks"]),
        }
