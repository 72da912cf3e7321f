"""What will start by itself, and when: one row for each job and kind, claimed by locking it.

A row of kind ``schedule`` says when the job's schedules start the next run; ``retry`` is another attempt after a
failure, ``catch_up`` the one run that makes up for what was missed, ``event`` one that waits for the job's run to end.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError
from bootpoint_common.job.timetable import Timetable, read_timetable

from . import event
from .database import Connection, Row, one, one_row, rows, run

#: Seconds until a row is looked at again that couldn't be read.
UNREADABLE_SECONDS = 600.0

#: The smallest step of an instant in the database.
_TICK = timedelta(microseconds=1)


class Kind(enum.StrEnum):
    """Why something starts by itself."""

    EVENT = "event"  #: a machine goes down or came up, and its run waits behind another one of the job
    SCHEDULE = "schedule"  #: the job's time table
    CATCH_UP = "catch_up"  #: runs were missed
    RETRY = "retry"  #: a run failed in a way that may pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Something that is due.

    Attributes:
        job_id: Its job.
        job: The job's name.
        agent: The name of the job's agent.
        kind: Why it starts.
        at: When.
        until: It isn't started after this instant; None: however late.
        details: Of a retry ``run`` and ``attempt``; of a catch-up the `Streak` as JSON; of an event what it was.
        timetable: The job's rules of time.
        busy: Number of the job's run that waits or runs.
    """

    job_id: int
    job: str
    agent: str
    kind: Kind
    at: datetime
    until: datetime | None
    details: dict[str, Any]
    timetable: Timetable
    busy: int | None


# The job's row comes first, as wherever both are locked: two schedulers never deal with rows of one job, so that none
# waits for another, and a job that somebody changes or deletes is passed over. The run of an event stays where it is
# as long as the job has another one: rows that can do nothing would take the places of others.
_TAKE = """
WITH mine AS MATERIALIZED (
    SELECT d.job_id, d.kind, d.at, d.until, d.details FROM due d JOIN job j ON j.id = d.job_id
    WHERE d.at <= %s AND (d.kind <> 'event' OR d.until < %s
        OR NOT EXISTS (SELECT 1 FROM run r WHERE r.job_id = d.job_id AND r.state IN ('waiting', 'running')))
    ORDER BY d.at LIMIT %s
    FOR NO KEY UPDATE OF j SKIP LOCKED FOR UPDATE OF d SKIP LOCKED
)
SELECT m.*, j.name AS job, a.name AS agent, j.spec->'time_zone' AS time_zone, j.spec->'schedule' AS schedule,
    j.spec->'run' AS run,
    (SELECT r.id FROM run r WHERE r.job_id = m.job_id AND r.state IN ('waiting', 'running')) AS busy
FROM mine m JOIN job j ON j.id = m.job_id JOIN agent a ON a.id = j.agent_id
ORDER BY m.at, m.job_id
"""


def take(connection: Connection, now: datetime, limit: int) -> list[Due]:
    """Lock what is due and in nobody's hands, the oldest first.

    Args:
        connection: A transaction; what isn't moved or dropped in it stays due.
        now: The instant.
        limit: At most so many.
    """
    found: list[Due] = []
    for row in rows(connection, _TAKE, now, now, limit):
        try:
            timetable = read_timetable(row)
        except (BootpointError, ZoneInfoNotFoundError) as problem:
            _put_off(connection, row, now, problem)
            continue
        values = {name: row[name] for name in ("job_id", "job", "agent", "at", "until", "details", "busy")}
        found.append(Due(**values, kind=Kind(row["kind"]), timetable=timetable))
    return found


def _put_off(connection: Connection, row: Row, now: datetime, problem: Exception) -> None:
    """Let a row wait that this process can't read, such as one in a time zone that its system doesn't know.

    Other jobs must not wait for it.
    """
    later = now + timedelta(seconds=UNREADABLE_SECONDS)
    run(connection, "UPDATE due SET at = %s WHERE job_id = %s AND kind = %s", later, row["job_id"], row["kind"])
    text = f"the schedules of job {row['job']} can't be read here: {problem}"
    event.record(connection, "schedule_unreadable", text, actor="scheduler", job=row["job"])


def move(connection: Connection, rows_at: Iterable[tuple[Due, datetime]]) -> None:
    """Let rows come again later."""
    moved = list(rows_at)
    run(
        connection,
        "UPDATE due d SET at = m.at FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[]) AS m(job_id, kind, at)"
        " WHERE d.job_id = m.job_id AND d.kind = m.kind",
        [each.job_id for each, _ in moved],
        [str(each.kind) for each, _ in moved],
        [at for _, at in moved],
    )


def drop(connection: Connection, done: Iterable[Due]) -> None:
    """Delete rows: what they said is done, or isn't done any more."""
    gone = list(done)
    run(
        connection,
        "DELETE FROM due d USING unnest(%s::bigint[], %s::text[]) AS g(job_id, kind)"
        " WHERE d.job_id = g.job_id AND d.kind = g.kind",
        [each.job_id for each in gone],
        [str(each.kind) for each in gone],
    )


def put(
    connection: Connection,
    job_id: int,
    kind: Kind,
    at: datetime,
    *,
    until: datetime | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Let something start by itself; it replaces what the job had of that kind."""
    run(
        connection,
        "INSERT INTO due (job_id, kind, at, until, details) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (job_id, kind) DO UPDATE"
        " SET at = excluded.at, until = excluded.until, details = excluded.details",
        job_id,
        str(kind),
        at,
        until,
        Jsonb(details or {}),
    )


def put_catch_up(connection: Connection, job_id: int, at: datetime, streak: dict[str, Any]) -> None:
    """Let one run make up for starts that were missed; a catch-up that still waits stands for these too.

    Args:
        connection: A transaction.
        job_id: The job.
        at: When.
        streak: ``first``, ``last`` and ``count`` of the starts, later ones than those of a catch-up that waits.
    """
    run(
        connection,
        "INSERT INTO due AS d (job_id, kind, at, details) VALUES (%s, 'catch_up', %s, %s)"
        " ON CONFLICT (job_id, kind) DO UPDATE SET details = d.details || jsonb_build_object("
        "  'last', excluded.details->'last',"
        "  'count', (d.details->>'count')::integer + (excluded.details->>'count')::integer)",
        job_id,
        at,
        Jsonb(streak),
    )


def forget(connection: Connection, job_id: int, kind: Kind) -> Row | None:
    """Delete what a job has of a kind; returns its details, or None where there was nothing."""
    return one(
        connection, "DELETE FROM due WHERE job_id = %s AND kind = %s RETURNING at, details", job_id, str(kind)
    )


# --- what a job's schedules say


def plan(connection: Connection, job_id: int, now: datetime | None = None) -> datetime | None:
    """Write when a job's schedules start the next run, after anything about the job has changed.

    What a disabled or paused job had waiting is forgotten, but for its next scheduled run after a pause. A run that is
    due already, and that the schedules as they are now name too, stays.

    Args:
        connection: The transaction that changes the job.
        job_id: The job.
        now: The instant; by default the database's.

    Returns:
        When the next run is; None when there is none.
    """
    job = one_row(
        connection,
        "UPDATE job SET planned = true WHERE id = %s RETURNING enabled, paused_until, spec, now() AS now",
        job_id,
    )
    now = now or job["now"]
    paused = job["paused_until"] is not None and job["paused_until"] > now
    if paused or not job["enabled"]:
        run(connection, "DELETE FROM due WHERE job_id = %s AND kind <> 'schedule'", job_id)
    timetable = read_timetable(job["spec"])
    waits = one(connection, "SELECT at FROM due WHERE job_id = %s AND kind = 'schedule' FOR UPDATE", job_id)
    after = job["paused_until"] - _TICK if paused else now
    if waits is not None and not paused and waits["at"] <= now and timetable.next(waits["at"] - _TICK) == waits["at"]:
        after = waits["at"] - _TICK
    at = timetable.next(after) if job["enabled"] else None
    if at is None:
        forget(connection, job_id, Kind.SCHEDULE)
    else:
        put(connection, job_id, Kind.SCHEDULE, at)
    return at


def plan_new(connection: Connection, now: datetime, limit: int) -> int:
    """Plan jobs that nobody has planned yet, such as those made by an older version; returns how many."""
    found = rows(
        connection, "SELECT id FROM job WHERE NOT planned ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED", limit
    )
    for row in found:
        try:
            plan(connection, row["id"], now)
        except (BootpointError, ZoneInfoNotFoundError):
            # Planned as far as it can be: `take` says what is wrong, and looks again later.
            put(connection, row["id"], Kind.SCHEDULE, now)
    return len(found)


def pause(connection: Connection, job_id: int, *, until: datetime, reason: str, actor: str) -> datetime | None:
    """Keep a job from running by itself for a while; returns when it will run next."""
    run(
        connection,
        "UPDATE job SET paused_until = %s, pause_reason = %s, paused_by = %s WHERE id = %s",
        until,
        reason,
        actor,
        job_id,
    )
    return plan(connection, job_id)


def end_pause(connection: Connection, job_id: int) -> bool:
    """End a pause before its time; False where there was none."""
    ended = run(
        connection,
        "UPDATE job SET paused_until = NULL, pause_reason = NULL, paused_by = NULL"
        " WHERE id = %s AND paused_until IS NOT NULL",
        job_id,
    )
    if ended:
        plan(connection, job_id)
    return ended == 1


def end_pauses(connection: Connection, now: datetime) -> int:
    """End the pauses whose time is over; the rows of those jobs are right already."""
    ended = rows(
        connection,
        "UPDATE job SET paused_until = NULL, pause_reason = NULL, paused_by = NULL WHERE id IN"
        " (SELECT id FROM job WHERE paused_until <= %s ORDER BY id FOR UPDATE SKIP LOCKED) RETURNING name",
        now,
    )
    for row in ended:
        event.record(
            connection, "job_resumed", f"the pause of job {row['name']} is over", actor="scheduler", job=row["name"]
        )
    return len(ended)
