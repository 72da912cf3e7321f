"""What is kept of a run that has ended for a time: what its scripts wrote."""

from __future__ import annotations

from datetime import datetime

from .database import Connection, run


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
