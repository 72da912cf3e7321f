"""What happened to sources: shutdowns and restarts, and the runs that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.identity import new_id

from .database import Connection, Row, one, one_row, rows, run

#: Seconds that an event is kept: it is asked for at the next restart of its source, which may be off for a summer.
KEEP_SECONDS = 400 * 86400.0


class Kind(StrEnum):
    """What can happen to a source."""

    SHUTDOWN = "shutdown"
    """The machine is about to stop."""
    RESTART = "restart"
    """The machine has started."""


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """A row of source_event."""

    id: UUID
    agent_id: UUID
    kind: Kind
    at: datetime
    said_by: list[str]


def _event(row: Row) -> SourceEvent:
    return SourceEvent(row["id"], row["agent_id"], Kind(row["kind"]), row["at"], row["said_by"])


def newest(connection: Connection, agent_id: UUID) -> SourceEvent | None:
    """Return what happened to a source last, of whatever kind."""
    row = one(connection, "SELECT * FROM source_event WHERE agent_id = %s ORDER BY at DESC, id DESC LIMIT 1", agent_id)
    return None if row is None else _event(row)


def count(connection: Connection, agent_id: UUID, since: datetime) -> int:
    """Return how many events a source had after an instant."""
    query = "SELECT count(*) AS n FROM source_event WHERE agent_id = %s AND at > %s"
    return int(one_row(connection, query, agent_id, since)["n"])


def add(connection: Connection, agent_id: UUID, kind: Kind, at: datetime, said_by: str) -> SourceEvent:
    """Write an event, and forget those of long ago."""
    run(
        connection,
        "DELETE FROM source_event WHERE agent_id = %s AND at < %s - make_interval(secs => %s)",
        agent_id,
        at,
        KEEP_SECONDS,
    )
    query = "INSERT INTO source_event (id, agent_id, kind, at, said_by) VALUES (%s, %s, %s, %s, %s) RETURNING *"
    return _event(one_row(connection, query, new_id(), agent_id, str(kind), at, Jsonb([said_by])))


def said_too(connection: Connection, found: SourceEvent, said_by: str) -> bool:
    """Note that somebody else said the same; False where he did before."""
    query = "UPDATE source_event SET said_by = said_by || %s WHERE id = %s AND NOT said_by @> %s"
    return run(connection, query, Jsonb([said_by]), found.id, Jsonb([said_by])) > 0


def jobs(connection: Connection, agent_id: UUID) -> list[tuple[int, str, dict[str, Any]]]:
    """Return number, name and specification of each job of a source that may run by itself, oldest first."""
    query = (
        "SELECT id, name, spec FROM job WHERE agent_id = %s AND enabled"
        " AND (paused_until IS NULL OR paused_until <= now()) ORDER BY id"
    )
    return [(row["id"], row["name"], row["spec"]) for row in rows(connection, query, agent_id)]


def owed(connection: Connection, agent_id: UUID, job_id: int) -> bool:
    """Tell whether a source was shut down after the last good run of a job had begun: that shutdown has no point."""
    found = one(
        connection,
        "SELECT 1 FROM source_event WHERE agent_id = %s AND kind = 'shutdown' AND at > coalesce("
        " (SELECT max(started_at) FROM run WHERE job_id = %s AND state = 'succeeded'), '-infinity') LIMIT 1",
        agent_id,
        job_id,
    )
    return found is not None


def concern(
    connection: Connection, found: SourceEvent, job_id: int, run_uid: UUID | None, deadline_seconds: float | None
) -> None:
    """Note that a job wants a run at an event.

    Args:
        connection: A transaction.
        found: The event.
        job_id: The job.
        run_uid: The run that serves it; None where none does as yet.
        deadline_seconds: How long after the event the source can still be read; None where it stays.
    """
    run(
        connection,
        "INSERT INTO source_event_job (event_id, job_id, run_uid, deadline_at)"
        " VALUES (%s, %s, %s, %s + make_interval(secs => %s))",
        found.id,
        job_id,
        run_uid,
        found.at,
        deadline_seconds,
    )


def serve(connection: Connection, job_id: int, run_uid: UUID) -> None:
    """Note which run serves a job's newest event, which had none: one that waited for its turn, or was skipped."""
    run(
        connection,
        "UPDATE source_event_job SET run_uid = %s WHERE job_id = %s AND run_uid IS NULL AND event_id ="
        " (SELECT c.event_id FROM source_event_job c JOIN source_event e ON e.id = c.event_id WHERE c.job_id = %s"
        " ORDER BY e.at DESC LIMIT 1)",
        run_uid,
        job_id,
        job_id,
    )


def concerned(connection: Connection, event_id: UUID) -> list[Row]:
    """Return each job that wanted a run at an event: job, uid and id of its run, and the seconds until its deadline."""
    return rows(
        connection,
        "SELECT j.name AS job, r.uid, r.id,"
        " extract(epoch FROM c.deadline_at - clock_timestamp())::float8 AS seconds FROM source_event_job c"
        " JOIN job j ON j.id = c.job_id LEFT JOIN run r ON r.uid = c.run_uid WHERE c.event_id = %s ORDER BY j.id",
        event_id,
    )


#: The newest event of a job that has a deadline: the one that its last-breath run serves.
_DEADLINE = """
SELECT e.at, c.deadline_at, extract(epoch FROM c.deadline_at - clock_timestamp())::float8 AS seconds
FROM source_event_job c JOIN source_event e ON e.id = c.event_id
WHERE c.job_id = %s AND c.deadline_at IS NOT NULL ORDER BY e.at DESC LIMIT 1
"""


def seconds_left(connection: Connection, job_id: int) -> float | None:
    """Return the seconds until the source of a job's last-breath run is gone; None where no event says so."""
    found = one(connection, _DEADLINE, job_id)
    return None if found is None else float(found["seconds"])
