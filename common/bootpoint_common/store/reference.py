"""References: who needs a boot point as it is. Retention leaves points alone that somebody refers to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from bootpoint_common.identity import new_id

from .database import Connection, rows, run

Kind = Literal["standby", "test", "check", "verify", "export", "mount"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference that holds now; ``until`` is None for one without an end."""

    id: UUID
    point_id: UUID
    kind: str
    holder: str
    until: datetime | None


def take(connection: Connection, point_id: UUID, kind: Kind, holder: str, *, seconds: float | None) -> UUID | None:
    """Refer to a point.

    The point's row is locked first, so that a consolidation sees the reference or is seen by it.

    Args:
        connection: A transaction.
        point_id: The point.
        kind: For what.
        holder: Who, for people: a user, the id of a test, a worker.
        seconds: How long it holds unless it is renewed; None: until it is dropped.

    Returns:
        Its id; None where the point isn't there to be referred to: not committed, merged, or being merged.
    """
    # By a statement of its own: one that waited for a lock goes on with what it saw of other rows before it waited.
    run(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", point_id)
    found = rows(
        connection,
        "SELECT p.id FROM boot_point p JOIN replica y ON y.id = p.replica_id WHERE p.id = %s AND p.state = 'committed'"
        " AND p.consolidated_at IS NULL AND y.consolidating IS DISTINCT FROM p.id",
        point_id,
    )
    if not found:
        return None
    reference_id = new_id()
    run(
        connection,
        "INSERT INTO reference (id, point_id, kind, holder, until) VALUES (%s, %s, %s, %s,"
        " coalesce(now() + make_interval(secs => %s), 'infinity'))",
        reference_id,
        point_id,
        kind,
        holder,
        seconds,
    )
    return reference_id


def renew(connection: Connection, reference_id: UUID, *, seconds: float) -> bool:
    """Hold on to a reference; False when it is gone."""
    query = "UPDATE reference SET until = now() + make_interval(secs => %s) WHERE id = %s"
    return run(connection, query, seconds, reference_id) == 1


def drop(connection: Connection, reference_id: UUID) -> None:
    """Let go; nothing when it is gone already."""
    run(connection, "DELETE FROM reference WHERE id = %s", reference_id)


def of_replica(connection: Connection, replica_id: UUID) -> list[Reference]:
    """Return the references that hold now to any point of a replica, oldest first."""
    found = rows(
        connection,
        "SELECT e.id, e.point_id, e.kind, e.holder, nullif(e.until, 'infinity') AS until FROM reference e"
        " JOIN boot_point p ON p.id = e.point_id WHERE p.replica_id = %s AND e.until > now() ORDER BY e.created_at",
        replica_id,
    )
    return [Reference(**row) for row in found]
