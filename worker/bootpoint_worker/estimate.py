"""How much the next run will copy and how long that will take, from the runs before it. One model for all who ask.

*Bytes*: of a first copy, what the source says that its disks hold. Of an increment, what changed in a second times
the seconds since the newest boot point. Change isn't linear in time (what is written twice changes once), so the rate
is the median of those increments whose time was most like this one's; more than the disks hold never changes.

*Seconds*: a run has its fixed costs, and then goes by what it reads and what it copies. Through the runs before it,
as points of (bytes read + bytes changed, seconds), goes the line of Theil and Sen, which no single odd run can turn:
its slope is the median of the slopes of all pairs, its height the median of what is left. (H. Theil 1950; P. K. Sen,
Journal of the American Statistical Association 63, 1968.) A followed disk is read where it changed, one that is scanned
by hash as a whole. A replica without a run goes by the last runs on its host.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from bootpoint_common.store.database import Connection, rows

#: Runs that are looked at, the newest ones: enough for a median, few enough to follow a machine that changes.
PAST = 14

#: Increments whose rate counts: those whose time was most like the one in question.
ALIKE = 5

#: What finds changes by reading the whole disk.
SCANNING = "hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What an earlier run cost on one host.

    Attributes:
        kind: ``full`` or ``increment``.
        changed_bytes: What was copied.
        read_bytes: What was read of the source.
        seconds: From its start to its end.
        gap_seconds: Since the boot point before it; None for the first.
    """

    kind: str
    changed_bytes: int
    read_bytes: int
    seconds: float
    gap_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What a run has before it.

    Attributes:
        copied_bytes: Of disks that are copied as a whole; None where the source never told.
        held_bytes: What the other disks hold; more can't change. None where the source never told.
        scanned_bytes: What those of them hold that are scanned by hash.
        gap_seconds: Since the newest boot point; None where there is none.
    """

    copied_bytes: int | None
    held_bytes: int | None
    scanned_bytes: int
    gap_seconds: float | None


def changed_bytes(past: Sequence[Past], ahead: Ahead) -> int | None:
    """Return how much a run will copy; None as long as neither the source nor an increment says how much.

    Args:
        past: The replica's runs, in any order.
        ahead: What is before it.
    """
    if ahead.copied_bytes is None or ahead.gap_seconds is None:
        return ahead.copied_bytes
    gap = max(ahead.gap_seconds, 1.0)
    rates = [
        (abs(math.log(gap / one.gap_seconds)), one.changed_bytes / one.gap_seconds)
        for one in past
        if one.kind == "increment" and one.gap_seconds
    ]
    if not rates:
        return None
    rate = statistics.median(rate for _, rate in sorted(rates)[:ALIKE])
    changed = round(rate * gap)
    return ahead.copied_bytes + (changed if ahead.held_bytes is None else min(ahead.held_bytes, changed))


def duration_seconds(past: Sequence[Past], ahead: Ahead, changed: int | None) -> float | None:
    """Return how long a run will take; None as long as there is nothing to go by.

    Args:
        past: Runs of the replica, else of its host.
        ahead: What is before it.
        changed: What `changed_bytes` says of it; None counts as nothing.
    """
    if not past:
        return None
    work = [(one.read_bytes + one.changed_bytes, one.seconds) for one in past]
    slopes = [(t - s) / (y - x) for (x, s), (y, t) in itertools.combinations(work, 2) if x != y]
    slope = max(0.0, statistics.median(slopes)) if slopes else 0.0
    height = max(0.0, statistics.median(seconds - slope * size for size, seconds in work))
    read = ahead.scanned_bytes + (changed or 0)
    return round(height + slope * (read + (changed or 0)), 1)


def of_replica(connection: Connection, replica_id: UUID) -> list[Past]:
    """Read the last runs of a replica that made a boot point, newest first; merged points count."""
    return _read(connection, "p.replica_id = %s", replica_id)


def of_host(connection: Connection, host_id: UUID) -> list[Past]:
    """Read the last runs on a host that made a boot point, whatever their job, newest first."""
    return _read(connection, "p.replica_id IN (SELECT id FROM replica WHERE host_id = %s)", host_id)


def _read(connection: Connection, which: str, value: UUID) -> list[Past]:
    found = rows(
        connection,
        "SELECT n.kind, extract(epoch FROM r.ended_at - r.started_at)::float8 AS seconds,"
        " extract(epoch FROM n.instant - b.instant)::float8 AS gap_seconds, d.changed_bytes, d.read_bytes"
        " FROM (SELECT p.* FROM boot_point p WHERE p.state = 'committed' AND"
        f" {which} ORDER BY p.committed_at DESC LIMIT %s) n"
        " JOIN run r ON r.uid = n.run_uid AND r.started_at IS NOT NULL AND r.ended_at IS NOT NULL"
        " LEFT JOIN LATERAL (SELECT instant FROM boot_point WHERE replica_id = n.replica_id AND state = 'committed'"
        "  AND sequence < n.sequence ORDER BY sequence DESC LIMIT 1) b ON true"
        " CROSS JOIN LATERAL (SELECT coalesce(sum(changed_bytes), 0)::bigint AS changed_bytes,"
        "  coalesce(sum(coalesce(scanned_bytes, changed_bytes)), 0)::bigint AS read_bytes"
        "  FROM boot_point_disk WHERE point_id = n.id) d ORDER BY n.committed_at DESC",
        *(value, PAST),
    )
    return [Past(**row) for row in found]


def against(plan: dict[str, Any], actual: dict[str, Any]) -> dict[str, float | None]:
    """Return by what factor a run's plan was off, for bytes and for seconds: 1.0 is right, 2.0 is twice as planned.

    Args:
        plan: ``plan`` of ``run show``.
        actual: Its ``actual``.
    """
    return {
        name: round(actual[name] / plan[name], 3) if plan.get(name) and actual.get(name) is not None else None
        for name in ("changed_bytes", "duration_seconds")
    }
