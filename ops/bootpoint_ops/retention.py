"""Retention for operators: pins, and what the next run will do, with what goes for it and what stays."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import read_json
from bootpoint_common.store import event, kept
from bootpoint_common.store.database import Connection, one
from bootpoint_common.store.job import Job, ReplicaRow
from bootpoint_ops.known import POINT_LIMITS
from bootpoint_worker import consolidation, expectation, retention

#: Most points on a host of which nobody knows how many it can keep: as many as the kind with the fewest.
_FEWEST = min(POINT_LIMITS.values())

#: Merges that say how long the next one will take.
_USUAL = 14


def host_limit(connection: Connection, host_id: UUID) -> int:
    """Return how many points a host can keep, as it last said, or as its kind does."""
    row = one(connection, "SELECT kind, (info->>'point_limit')::integer AS points FROM host WHERE id = %s", host_id)
    if row is None:
        return _FEWEST
    return int(row["points"] or POINT_LIMITS.get(row["kind"], _FEWEST))


# --- pins


def pin(
    connection: Connection,
    replica: ReplicaRow,
    point_id: UUID,
    name: str,
    *,
    reason: str,
    actor: str,
    until: datetime | None,
) -> None:
    """Keep a point whatever retention would do.

    Args:
        connection: A transaction.
        replica: Its replica.
        point_id: The point.
        name: Its name.
        reason: Why, for people.
        actor: Who.
        until: When the pin is over; None for never.

    Raises:
        RefusedError: ``point_in_use``: it isn't committed, or is being merged at this moment.
    """
    if not kept.pin(connection, point_id, reason=reason, user=actor, until=until):
        raise error(
            Code.POINT_IN_USE,
            f"boot point {name} can't be pinned: it isn't committed, or it is being merged at this moment",
            job=replica.job_name,
            host=replica.host,
            key="point",
            value=name,
        )
    ends = f" until {until:%Y-%m-%d %H:%M} UTC" if until else ""
    _record(connection, replica, "point_pinned", f"{name} is pinned{ends}: {reason}", name=name, actor=actor)


def unpin(connection: Connection, replica: ReplicaRow, point_id: UUID, name: str, *, actor: str) -> bool:
    """Let go of a pin; that of the entropy watch lets points go again.

    Returns:
        Whether retention was frozen for the sake of that point.
    """
    one(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", point_id)
    kept.unpin(connection, point_id)
    thawed = kept.thaw(connection, replica.id, point_id)
    text = f"{name} is no longer pinned" + (", and boot points may go again" if thawed else "")
    _record(connection, replica, "point_unpinned", text, name=name, actor=actor)
    return thawed


def _record(connection: Connection, replica: ReplicaRow, kind: str, text: str, *, name: str, actor: str) -> None:
    event.record(connection, kind, text, actor=actor, job=replica.job_name, host=replica.host, point=name)
    consolidation.after(connection, replica.id, most=host_limit(connection, replica.host_id))


# --- what the next run will do


def plan(connection: Connection, found: Job, replica: ReplicaRow) -> dict[str, Any]:
    """Return what the next run of a job will do on one host, as far as the rows say it.

    Args:
        connection: A transaction.
        found: The job.
        replica: Its replica on the host.

    Returns:
        An item of ``job plan``.
    """
    item: dict[str, Any] = {
        "host": replica.host,
        "vm": (replica.definition or {}).get("vm_name"),
        "kind": "full" if replica.head is None else "increment",
        "reason": "first" if replica.head is None else None,
        **dict.fromkeys(("changed_bytes", "duration_seconds")),
        "new_disks": [],
        "trackers": [],
        "checked": False,
        "error": None,
        "waits": None,
    }
    try:
        seen = expectation.expected(connection, read_json(found.spec), found.agent_id, replica)
        item |= {
            "kind": seen.kind,
            "reason": seen.reason,
            "changed_bytes": seen.changed_bytes,
            "duration_seconds": seen.duration_seconds,
            "new_disks": [] if seen.kind == "full" else list(seen.new_disks),
            "trackers": list(seen.trackers),
        }
    except BootpointError as problem:
        item["error"] = problem.as_json()
    item["retention"] = _retention(connection, replica)
    return item


def _retention(connection: Connection, replica: ReplicaRow) -> dict[str, Any] | None:
    """Return what goes for the next point of a replica, and why everything else stays."""
    state = kept.replica(connection, replica.id)
    if state is None or state.limit is None:
        return None
    most = host_limit(connection, replica.host_id)
    points = kept.points(connection, replica.id)
    frozen = state.frozen is not None
    before = retention.room(points, state.limit, most, frozen=frozen)
    after = retention.work_out(retention.with_next(points), state.limit, frozen=frozen)
    first = [] if before.blocked else [point.id for point in before.go]
    reckoned = retention.cost(points, after.go)
    merging = one(connection, "SELECT name FROM boot_point WHERE id = %s", state.consolidating)
    return {
        "points": len(points),
        "points_limit": state.limit,
        "host_limit": most,
        "go": [
            {"name": point.name, "stored_bytes": point.stored_bytes, "before_run": point.id in first}
            for point in after.go
        ],
        "freed_bytes_at_most": reckoned.freed_bytes,
        "copied_bytes": reckoned.copied_bytes,
        "duration_seconds": _seconds(connection, replica, len(after.go)),
        "points_after": len(points) + (0 if before.blocked else 1) - len(after.go),
        "blocked": before.blocked,
        "waits": state.waits,
        "frozen": state.frozen,
        "consolidating": merging["name"] if merging else None,
        "kept": [
            {
                "name": point.name,
                "reasons": list(after.kept[point.id]),
                "text": retention.reasons_text(point, after.kept[point.id]),
            }
            for point in points
            if point.id in after.kept
        ],
    }


def _seconds(connection: Connection, replica: ReplicaRow, count: int) -> float | None:
    """Return how long so many merges will take, by the last ones; None as long as there was none."""
    row = one(
        connection,
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY (e.details->>'seconds')::float8) AS seconds FROM ("
        " SELECT details FROM event WHERE kind = 'point_consolidated' AND job = %s AND host = %s"
        " ORDER BY id DESC LIMIT %s) AS e",
        replica.job_name,
        replica.host,
        _USUAL,
    )
    return None if row is None or row["seconds"] is None else round(float(row["seconds"]) * count, 3)
