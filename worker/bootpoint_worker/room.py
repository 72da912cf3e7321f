"""Whether a replica has room for one more boot point: what admission asks of retention before the source is touched."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import kept
from bootpoint_common.store.database import Connection, one

from . import retention
from .consolidation import why_kept

#: What a merge may meet that is over soon: a run waits for the next attempt. Whatever else it met ends the run.
_PASSING = frozenset({Code.BUSY, Code.POINT_OPEN, Code.HOST_UNREACHABLE, Code.TARGET_WRITE_ERROR})


def look(
    connection: Connection, replica_id: UUID, *, host: str, limit: int, most: int, since: datetime | None
) -> str | None:
    """Say what a run has to wait for before it begins.

    Args:
        connection: A transaction.
        replica_id: The replica; it need not be stored yet.
        host: Its host's name.
        limit: How many points the job keeps.
        most: How many the host can keep.
        since: When the run was asked for: an attempt to make room that failed after it ends the run. None when nobody
            runs, and it is only looked.

    Returns:
        A line for people; None when it may begin.

    Raises:
        FatalError: ``retention_full``.
    """
    found = kept.replica(connection, replica_id)
    if found is None:
        return None
    if found.consolidating is not None:
        return waiting_line(connection, found.consolidating, host)
    points = kept.points(connection, replica_id)
    plan = retention.room(points, limit, most, frozen=found.frozen is not None)
    if plan.blocked:
        raise _full(host, len(points), f"none may go: {why_kept(points, plan)}")
    if not plan.go:
        return None
    first = plan.go[0].name
    waits = found.waits or {}
    tried = since is not None and "at" in waits and datetime.fromisoformat(waits["at"]) >= since
    if tried and Code(waits["code"]) not in _PASSING:
        raise _full(host, len(points), f"what may go can't go now: {waits['message']}")
    return f"waits for the consolidation of {first} on {host}"


def waiting_line(connection: Connection, point_id: UUID, host: str) -> str:
    """Return why a run waits while a point is being merged."""
    row = one(connection, "SELECT name FROM boot_point WHERE id = %s", point_id)
    return f"waits for the consolidation of {row['name'] if row else point_id} on {host}"


def _full(host: str, points: int, why: str) -> BootpointError:
    return error(
        Code.RETENTION_FULL,
        f"the replica on {host} has {points} boot points, with the next one there would be too many, and {why}",
        host=host,
        value=points,
    )
