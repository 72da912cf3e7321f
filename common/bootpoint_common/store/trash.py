"""Deleted replicas: they rest in their hosts' trash, and go for good after a while.

::

    moving ──► resting ──► purging ──► gone
                  │ ▲──────┘ its job was made again, and has no point of its own
                  └──► taken back

What is wanted is written first, then done on the host, by whoever holds the row's claim.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError

from . import event, outbox
from .database import Connection, Database, Row, one, rows, run
from .job import ReplicaRow, forget

#: Name of the task that takes a deleted replica on.
TASK = "trash"

#: How long a replica rests before it goes for good.
REST = timedelta(days=7)

#: Channel of NOTIFY that says that something of the trash has come a step further.
CHANNEL = "bootpoint_trash"


@dataclass(frozen=True, slots=True)
class Deleted:
    """A row of trash with its host's name.

    Attributes:
        id: The replica.
        job_name: Its job, which was deleted with it.
        host_id: Its host.
        host: The host's name.
        pool: Whose workers.
        definition: The VM as it was made.
        points: Boot points that it had.
        stored_bytes: Bytes that they take.
        state: ``moving``, ``resting`` or ``purging``.
        deleted_by: Who.
        deleted_at: When.
        purge_at: When it goes for good; None as long as it isn't in its host's trash.
        problem: What the last step met, as an error's JSON.
    """

    id: UUID
    job_name: str
    host_id: UUID
    host: str
    pool: str
    definition: dict[str, Any]
    points: int
    stored_bytes: int
    state: str
    deleted_by: str
    deleted_at: datetime
    purge_at: datetime | None
    problem: dict[str, Any] | None


_COLUMNS = ", ".join(f"t.{name}" for name in Deleted.__slots__ if name != "host")

_DELETED = f"SELECT {_COLUMNS}, h.name AS host FROM trash t JOIN host h ON h.id = t.host_id "


def _deleted(row: Row) -> Deleted:
    return Deleted(**{name: row[name] for name in Deleted.__slots__})


def get(connection: Connection, replica_id: UUID) -> Deleted | None:
    """Read a deleted replica."""
    row = one(connection, _DELETED + "WHERE t.id = %s", replica_id)
    return None if row is None else _deleted(row)


def listed(connection: Connection) -> list[Deleted]:
    """Return all deleted replicas that are not gone, the oldest first."""
    return [_deleted(row) for row in rows(connection, _DELETED + "ORDER BY t.deleted_at, t.id")]


def put(connection: Connection, replica: ReplicaRow, *, by: str, at: datetime) -> None:
    """Write that a replica is deleted: its rows go, and its files are to be moved into its host's trash.

    Args:
        connection: The transaction that deletes its job.
        replica: The replica; it was made on its host.
        by: Who.
        at: When, aware.
    """
    run(
        connection,
        "INSERT INTO trash (id, job_name, host_id, pool, definition, points, stored_bytes, deleted_by, deleted_at)"
        " SELECT y.id, y.job_name, y.host_id, y.pool, y.definition, count(DISTINCT p.id),"
        " coalesce(sum(d.stored_bytes), 0)::bigint, %s, %s FROM replica y"
        " LEFT JOIN boot_point p ON p.replica_id = y.id AND p.state = 'committed' AND p.consolidated_at IS NULL"
        " LEFT JOIN boot_point_disk d ON d.point_id = p.id WHERE y.id = %s GROUP BY y.id",
        by,
        at,
        replica.id,
    )
    forget(connection, replica.id)
    outbox.task(connection, replica.pool, TASK, replica.id)


def rest(connection: Connection, replica_id: UUID, *, at: datetime) -> datetime:
    """Write that a replica has come into its host's trash; returns when it goes for good."""
    run(
        connection,
        "UPDATE trash SET state = 'resting', purge_at = %s, problem = NULL WHERE id = %s AND state = 'moving'",
        at + REST,
        replica_id,
    )
    _tell(connection)
    return at + REST


def drop(connection: Connection, replica_id: UUID) -> bool:
    """Delete a row: the replica is gone, was taken back, or is forgotten; False where there is none."""
    dropped = run(connection, "DELETE FROM trash WHERE id = %s", replica_id) == 1
    _tell(connection)
    return dropped


def note(connection: Connection, replica_id: UUID, problem: BootpointError) -> bool:
    """Keep what a step met that is tried again; returns whether that is news: another code than the last time."""
    before = one(connection, "SELECT problem->>'code' AS code FROM trash WHERE id = %s FOR UPDATE", replica_id)
    if before is None:
        return False
    query = "UPDATE trash SET problem = %s, enqueued_at = now() WHERE id = %s"
    run(connection, query, Jsonb(problem.as_json()), replica_id)
    _tell(connection)
    return bool(before["code"] != str(problem.code))


#: Whether a job of that name has its host as a target again and no boot point there: then what rests may be wanted.
_WANTED = """
EXISTS (SELECT 1 FROM replica y JOIN job j ON j.id = y.job_id WHERE j.name = t.job_name AND y.host_id = t.host_id
    AND y.state <> 'detached'
    AND NOT EXISTS (SELECT 1 FROM boot_point p WHERE p.replica_id = y.id AND p.state = 'committed'))
"""


def keep(connection: Connection, now: datetime, replica_id: UUID | None = None) -> int:
    """Let replicas rest once more whose job was made again and could still take them back; returns how many.

    Args:
        connection: A transaction.
        now: The instant, aware.
        replica_id: One that is about to go; beside it those whose rest is over.
    """
    kept = rows(
        connection,
        "UPDATE trash t SET state = 'resting', purge_at = %s FROM host h WHERE h.id = t.host_id"
        f" AND (t.id = %s OR (t.state = 'resting' AND t.purge_at <= %s)) AND {_WANTED}"
        " RETURNING t.job_name, h.name AS host, t.definition->>'vm_name' AS vm",
        now + REST,
        replica_id,
        now,
    )
    for row in kept:
        text = (
            f"{row['vm']} stays in the trash of {row['host']} until {now + REST:%Y-%m-%d %H:%M} UTC: job"
            f" {row['job_name']} was applied again and has no boot point there;"
            f" `bootpoint host rescan {row['host']} --adopt` takes it back"
        )
        event.record(connection, "trash_kept", text, actor="worker", job=row["job_name"], host=row["host"])
    return len(kept)


def returnable(connection: Connection, job: str, host: str) -> Deleted | None:
    """Return the replica that a job could take back from a host's trash, the one that was deleted last; or None."""
    row = one(
        connection,
        _DELETED + "WHERE t.job_name = %s AND h.name = %s AND t.state <> 'purging' AND NOT EXISTS (SELECT 1"
        " FROM boot_point p JOIN replica y ON y.id = p.replica_id JOIN job j ON j.id = y.job_id"
        " WHERE j.name = t.job_name AND y.host_id = t.host_id AND p.state = 'committed')"
        " ORDER BY t.deleted_at DESC LIMIT 1",
        job,
        host,
    )
    return None if row is None else _deleted(row)


def enqueue(connection: Connection, now: datetime, seconds: float) -> None:
    """Let go for good what has rested long enough, and find again what nobody has in hand.

    Args:
        connection: A transaction.
        now: The instant, aware.
        seconds: Time after which a task that nobody took is sent once more.
    """
    keep(connection, now)
    run(
        connection,
        "UPDATE trash SET state = 'purging', enqueued_at = NULL WHERE state = 'resting' AND purge_at <= %s",
        now,
    )
    found = rows(
        connection,
        "UPDATE trash SET enqueued_at = now() WHERE state IN ('moving', 'purging') AND writer_until < now()"
        " AND (enqueued_at IS NULL OR enqueued_at < now() - make_interval(secs => %s))"
        " AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.subject = trash.id::text AND o.kind = %s)"
        " RETURNING id, pool",
        seconds,
        TASK,
    )
    for row in found:
        outbox.task(connection, row["pool"], TASK, row["id"])


def wait(database: Database, replica_ids: Collection[UUID], *, seconds: float) -> list[Deleted]:
    """Wait until replicas have come into their hosts' trash, or a step has met a problem.

    Args:
        database: Where their rows are.
        replica_ids: The replicas.
        seconds: How long to wait.

    Returns:
        Their rows as they are then.
    """
    deadline = time.monotonic() + seconds
    with database.listen(CHANNEL) as connection:
        while _moving(found := _of(connection, replica_ids)):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            # Taken to its end before anything is asked: it holds the connection as long as it goes on.
            list(connection.notifies(timeout=left, stop_after=1))
    return found


def _of(connection: Connection, replica_ids: Collection[UUID]) -> list[Deleted]:
    found = rows(connection, _DELETED + "WHERE t.id = ANY(%s) ORDER BY h.name", [*replica_ids])
    return [_deleted(row) for row in found]


def _moving(found: Collection[Deleted]) -> bool:
    return any(each.state == "moving" and each.problem is None for each in found)


def _tell(connection: Connection) -> None:
    run(connection, "SELECT pg_notify(%s, '')", CHANNEL)
