"""The points that a replica keeps: what retention looks at, and what moves in the rows when a point is merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from .adoption import FROZEN
from .database import Connection, Row, one, rows, run


@dataclass(frozen=True, slots=True)
class Kept:
    """A committed point that is still there.

    Attributes:
        id: Its id.
        name: Its name.
        sequence: Its place in the order of the replica's points.
        verified_at: When it was last read back and found right.
        damaged_at: When it was found damaged.
        verdict: What its last boot check said.
        pinned: ``{reason, user, at, until}`` while a pin holds.
        used_by: What needs it as it is: ``test t1``, ``verify w1``.
        stored_bytes: Bytes that its layers take.
    """

    id: UUID
    name: str
    sequence: int
    verified_at: datetime | None = None
    damaged_at: datetime | None = None
    verdict: str | None = None
    pinned: dict[str, Any] | None = None
    used_by: tuple[str, ...] = ()
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Replica:
    """What retention asks of a replica's row.

    Attributes:
        id: Its id.
        job: Name of its job.
        host_id: Its host.
        host: The host's name.
        pool: Whose workers.
        head: Its newest point.
        limit: How many points the job keeps there; None where no job names it any more.
        consolidating: The point that is being merged.
        frozen: Why nothing may go, ``{reason, at, point}``.
        blocked: Whether it was known that nothing may go at the next run.
        waits: What the last attempt to merge met.
    """

    id: UUID
    job: str
    host_id: UUID
    host: str
    pool: str
    head: UUID | None
    limit: int | None
    consolidating: UUID | None
    frozen: dict[str, Any] | None
    blocked: bool
    waits: dict[str, Any] | None


#: How many points the job wants on the replica's host; for a replica ``y`` of a job ``j`` on a host ``h``.
WANTED = (
    "(SELECT (t->>'points')::integer FROM jsonb_array_elements(j.spec->'target') AS t"
    " WHERE t->>'host' = h.name LIMIT 1)"
)

_REPLICA = f"""
SELECT y.id, y.job_name AS job, y.host_id, h.name AS host, y.pool, y.head, y.consolidating, y.frozen,
  y.retention_blocked AS blocked, y.consolidation_waits AS waits,
  CASE WHEN y.state = 'ok' THEN {WANTED} END AS "limit"
FROM replica y JOIN host h ON h.id = y.host_id LEFT JOIN job j ON j.id = y.job_id WHERE y.id = %s
"""


def replica(connection: Connection, replica_id: UUID) -> Replica | None:
    """Read what retention asks of a replica."""
    row = one(connection, _REPLICA, replica_id)
    return None if row is None else Replica(**row)


def points(connection: Connection, replica_id: UUID) -> list[Kept]:
    """Read a replica's points, oldest first; one that is being merged is left out."""
    found = rows(
        connection,
        "SELECT p.id, p.name, p.sequence, p.verified_at, p.damaged_at, p.boot->>'verdict' AS verdict,"
        " CASE WHEN (p.pinned->>'until')::timestamptz <= now() THEN NULL ELSE p.pinned END AS pinned,"
        " coalesce((SELECT array_agg(e.kind || ' ' || e.holder ORDER BY e.created_at) FROM reference e"
        "  WHERE e.point_id = p.id AND e.until > now()), '{}') AS used_by,"
        " coalesce((SELECT sum(d.stored_bytes) FROM boot_point_disk d WHERE d.point_id = p.id), 0)::bigint"
        " AS stored_bytes"
        " FROM boot_point p JOIN replica y ON y.id = p.replica_id WHERE p.replica_id = %s AND p.state = 'committed'"
        " AND p.consolidated_at IS NULL AND y.consolidating IS DISTINCT FROM p.id ORDER BY p.sequence",
        replica_id,
    )
    return [_kept(row) for row in found]


def _kept(row: Row) -> Kept:
    return Kept(**{**row, "used_by": tuple(row["used_by"])})


def unfinished(connection: Connection, replica_id: UUID) -> bool:
    """Tell whether a point of the replica is being made, or a run that will make one has begun."""
    found = one(
        connection,
        "SELECT 1 FROM boot_point WHERE replica_id = %s AND state NOT IN ('committed', 'aborted') UNION ALL"
        " SELECT 1 FROM run_target t JOIN run r ON r.uid = t.run_uid WHERE t.replica_id = %s AND r.state = 'running'",
        replica_id,
        replica_id,
    )
    return found is not None


def run_waits(connection: Connection, replica_id: UUID) -> bool:
    """Tell whether a run that wants one more point there stands in the line."""
    found = one(
        connection,
        "SELECT 1 FROM run_target t JOIN run r ON r.uid = t.run_uid WHERE t.replica_id = %s AND r.state = 'waiting'",
        replica_id,
    )
    return found is not None


def begin(connection: Connection, replica_id: UUID, point_id: UUID) -> None:
    """Note which point is being merged; nobody can refer to it or pin it from then on."""
    run(connection, "UPDATE replica SET consolidating = %s WHERE id = %s", point_id, replica_id)


def give_back(connection: Connection, replica_id: UUID) -> None:
    """Forget a merge that changed nothing on the host."""
    run(connection, "UPDATE replica SET consolidating = NULL WHERE id = %s", replica_id)


def merged(
    connection: Connection, replica_id: UUID, point_id: UUID, into: UUID, layers: Mapping[str, tuple[str, int]]
) -> None:
    """Let the rows say what the host has: a point is gone, its successor stands where it stood.

    Args:
        connection: A transaction that holds both points and the replica's claim.
        replica_id: The replica.
        point_id: The point that is gone.
        into: Its successor.
        layers: Layer and stored bytes of each of the successor's disks, by slot.
    """
    hand_over(connection, point_id, into)
    for slot, (layer, stored_bytes) in layers.items():
        run(
            connection,
            "UPDATE boot_point_disk SET layer = %s, stored_bytes = %s WHERE point_id = %s AND slot = %s",
            layer,
            stored_bytes,
            into,
            slot,
        )
    run(connection, "UPDATE boot_point_disk SET layer = NULL, stored_bytes = 0 WHERE point_id = %s", point_id)
    run(connection, "UPDATE boot_point SET consolidated_at = now(), pinned = NULL WHERE id = %s", point_id)
    run(
        connection,
        "UPDATE replica SET consolidating = NULL, consolidation_waits = NULL WHERE id = %s",
        replica_id,
    )


def hand_over(connection: Connection, point_id: UUID, into: UUID | None) -> None:
    """Take a point's segment digests from it, for it is gone.

    Those that only it had become its successor's, so that this one, and all above it, can be verified and built upon
    without it. A point without a successor takes its content with it: nothing that comes later stands on that.

    Args:
        connection: A transaction that holds the replica's claim.
        point_id: The point.
        into: Its successor; None where it has none.
    """
    run(
        connection,
        "UPDATE segment s SET point_disk_id = n.id FROM boot_point_disk o JOIN boot_point_disk n ON n.slot = o.slot"
        " WHERE o.point_id = %s AND n.point_id = %s AND s.point_disk_id = o.id"
        " AND NOT EXISTS (SELECT 1 FROM segment x WHERE x.point_disk_id = n.id AND x.number = s.number)",
        point_id,
        into,
    )
    run(
        connection,
        "DELETE FROM segment s USING boot_point_disk d WHERE s.point_disk_id = d.id AND d.point_id = %s",
        point_id,
    )


def waits_for(connection: Connection, replica_id: UUID, point: str, code: str, message: str) -> bool:
    """Note what an attempt to merge met; returns whether that is news: another code than the last time."""
    before = one(connection, "SELECT consolidation_waits AS waits FROM replica WHERE id = %s", replica_id)
    known = (before or {}).get("waits") or {}
    run(
        connection,
        "UPDATE replica SET consolidation_waits = %s || jsonb_build_object('at', json_instant(now())) WHERE id = %s",
        Jsonb({"point": point, "code": code, "message": message}),
        replica_id,
    )
    return bool(known.get("code") != code)


def set_blocked(connection: Connection, replica_id: UUID, *, blocked: bool) -> bool:
    """Note whether nothing may go at the next run; returns whether that is news."""
    query = "UPDATE replica SET retention_blocked = %s WHERE id = %s AND retention_blocked <> %s"
    return run(connection, query, blocked, replica_id, blocked) == 1


def pin(connection: Connection, point_id: UUID, *, reason: str, user: str, until: datetime | None) -> bool:
    """Pin a point, in place of an earlier pin.

    Returns:
        False where there is none to be pinned: not committed, merged, or being merged.
    """
    # By a statement of its own, as in `reference.take`.
    run(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", point_id)
    return bool(
        run(
            connection,
            "UPDATE boot_point p SET pinned = jsonb_build_object('reason', %s::text, 'user', %s::text,"
            " 'at', json_instant(now()), 'until', json_instant(%s)) FROM replica y WHERE y.id = p.replica_id"
            " AND p.id = %s AND p.state = 'committed' AND p.consolidated_at IS NULL"
            " AND y.consolidating IS DISTINCT FROM p.id",
            reason,
            user,
            until,
            point_id,
        )
    )


def unpin(connection: Connection, point_id: UUID) -> None:
    """Let go of a pin; nothing when there is none."""
    run(connection, "UPDATE boot_point SET pinned = NULL WHERE id = %s", point_id)


def freeze(connection: Connection, replica_id: UUID, point_id: UUID, reason: str) -> bool:
    """Let nothing go any more, for the sake of a point; returns whether that is news.

    An adoption's freeze ends with the adoption, so it is no reason to leave this one out.
    """
    return bool(
        run(
            connection,
            "UPDATE replica SET frozen = jsonb_build_object('reason', %s::text, 'at', json_instant(now()),"
            " 'point', %s::uuid) WHERE id = %s AND (frozen IS NULL OR frozen->>'reason' = %s)",
            reason,
            point_id,
            replica_id,
            FROZEN,
        )
    )


def thaw(connection: Connection, replica_id: UUID, point_id: UUID) -> bool:
    """Let points go again, if it was for the sake of that one that none might."""
    query = "UPDATE replica SET frozen = NULL WHERE id = %s AND frozen->>'point' = %s"
    return run(connection, query, replica_id, str(point_id)) == 1
