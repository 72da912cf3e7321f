"""What is kept of a run that has ended: how far off its plan was, and for a time what its scripts wrote."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from .database import Connection, one, run


def measure(connection: Connection, run_uid: UUID) -> dict[str, Any] | None:
    """Write beside a run's plan what came of it, on the target with most to copy.

    Args:
        connection: The transaction in which the run has ended.
        run_uid: The run.

    Returns:
        The plan with its ``actual``: kind, changed_bytes, duration_seconds; None where there was no plan.
    """
    row = one(
        connection,
        "UPDATE run r SET plan = r.plan || jsonb_build_object('actual', jsonb_build_object("
        " 'kind', m.kind, 'changed_bytes', m.changed_bytes,"
        " 'duration_seconds', round(extract(epoch FROM r.ended_at - r.started_at)::numeric, 3)))"
        " FROM (SELECT p.kind, coalesce(sum(d.changed_bytes), 0)::bigint AS changed_bytes FROM boot_point p"
        "  JOIN boot_point_disk d ON d.point_id = p.id WHERE p.run_uid = %s AND p.state = 'committed'"
        "  GROUP BY p.id ORDER BY p.kind = 'full' DESC, 2 DESC LIMIT 1) m"
        " WHERE r.uid = %s AND r.plan IS NOT NULL RETURNING r.plan",
        *(run_uid, run_uid),
    )
    return None if row is None else row["plan"]


def clear_logs(connection: Connection, before: datetime, *, at: datetime, most: int) -> int:
    """Forget what scripts wrote in runs that ended before an instant; that they ran, and how they ended, stays.

    Args:
        connection: A transaction.
        before: Runs that ended earlier are cleared.
        at: The present instant.
        most: How many at most.

    Returns:
        How many were.
    """
    return run(
        connection,
        "UPDATE run SET log_cleared_at = %s,"
        " scripts = (SELECT jsonb_agg(s || '{\"output\": null}'::jsonb) FROM jsonb_array_elements(scripts) AS s)"
        " WHERE uid IN (SELECT uid FROM run WHERE ended_at < %s AND log_cleared_at IS NULL AND scripts <> '[]'"
        "  ORDER BY ended_at LIMIT %s FOR UPDATE SKIP LOCKED)",
        *(at, before, most),
    )
