"""Verifications: which points are being read again, which are due, and how much of a host was read today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_common.identity import new_id
from bootpoint_common.metric import VERIFICATIONS
from bootpoint_common.units import GiB

from . import count, outbox
from .database import Connection, one, one_row, rows, run

#: Bytes that verifications may read of a host in a day unless its setting `BUDGET_SETTING` says otherwise: about an
#: hour of a disk array that does nothing else.
BUDGET_BYTES = 50 * GiB

#: Key of a host's settings: its own number of bytes a day.
BUDGET_SETTING = "verify_budget_bytes"

#: Seconds after which the task of an unfinished verification that nobody works on is sent again.
RESEND_SECONDS = 30.0

#: Seconds until a replica whose verification failed is tried again.
AGAIN_SECONDS = 3600.0

#: Days for which it is kept how much of a host was read.
KEPT_DAYS = 30

#: Advisory lock of the process that looks for what is due ("verify" as a number).
_LOCK = 0x766572696679


@dataclass(frozen=True, slots=True)
class Verification:
    """An unfinished row of verification."""

    id: UUID
    point_id: UUID
    requested_by: str
    budgeted: bool
    started_at: datetime
    waits_for: str | None
    waiting: bool
    held: bool


def ask(connection: Connection, point_id: UUID, *, requested_by: str, budgeted: bool) -> UUID:
    """Begin a verification, or join the one of this point that is under way.

    Args:
        connection: A transaction.
        point_id: A committed point.
        requested_by: Who.
        budgeted: Whether the host's bytes a day hold it back. One that a person asks for isn't held back; it
            lifts the limit of the one that it joins.

    Returns:
        Its id.

    Raises:
        NotFoundError: ``no_such_point``: the point isn't committed, or was merged.
    """
    found = one(
        connection,
        "SELECT y.pool FROM boot_point p JOIN replica y ON y.id = p.replica_id"
        " WHERE p.id = %s AND p.state = 'committed' AND p.consolidated_at IS NULL FOR UPDATE OF p",
        point_id,
    )
    if found is None:
        raise error(Code.NO_SUCH_POINT, f"there is no committed point {point_id}", key="point", value=point_id)
    unfinished = one(connection, "SELECT id FROM verification WHERE point_id = %s AND ended_at IS NULL", point_id)
    if unfinished is None:
        begun = new_id()
        run(
            connection,
            "INSERT INTO verification (id, point_id, requested_by, budgeted) VALUES (%s, %s, %s, %s)",
            begun,
            point_id,
            requested_by,
            budgeted,
        )
        run(connection, "UPDATE boot_point_disk SET verified_segments = 0 WHERE point_id = %s", point_id)
    else:
        begun = unfinished["id"]
        if not budgeted:
            run(connection, "UPDATE verification SET budgeted = false, not_before = now() WHERE id = %s", begun)
    outbox.task(connection, found["pool"], "verify", point_id)
    return UUID(str(begun))


def unfinished(connection: Connection, point_id: UUID) -> Verification | None:
    """Read and lock the unfinished verification of a point; None where there is none."""
    row = one(
        connection,
        "SELECT id, point_id, requested_by, budgeted, started_at, waits_for, not_before > now() AS waiting,"
        " held_until > now() AS held FROM verification WHERE point_id = %s AND ended_at IS NULL FOR UPDATE",
        point_id,
    )
    return None if row is None else Verification(**row)


def hold(connection: Connection, verification_id: UUID, holder: UUID, *, seconds: float) -> None:
    """Say that a worker reads for this verification from now on, for so long unless it renews it.

    Args:
        connection: A transaction.
        verification_id: The verification.
        holder: An id of this hold; it ends every earlier one.
        seconds: For how long.
    """
    query = (
        "UPDATE verification SET holder = %s, held_until = now() + make_interval(secs => %s), enqueued_at = now()"
        " WHERE id = %s"
    )
    run(connection, query, holder, seconds, verification_id)


def renew(connection: Connection, verification_id: UUID, holder: UUID, *, seconds: float) -> None:
    """Lengthen a hold; nothing where another one has taken its place."""
    query = (
        "UPDATE verification SET held_until = now() + make_interval(secs => %s), enqueued_at = now()"
        " WHERE id = %s AND holder = %s AND ended_at IS NULL"
    )
    run(connection, query, seconds, verification_id, holder)


def let_go(connection: Connection, verification_id: UUID, holder: UUID) -> None:
    """Say that nobody reads for this verification any more; nothing where another hold has taken the place of this."""
    query = "UPDATE verification SET held_until = '-infinity' WHERE id = %s AND holder = %s"
    run(connection, query, verification_id, holder)


def fence(connection: Connection, verification_id: UUID, holder: UUID) -> None:
    """Lock an unfinished verification, before what was read for it is written down.

    Raises:
        Fenced: Another worker has taken it, or it has ended.
    """
    query = "SELECT 1 FROM verification WHERE id = %s AND holder = %s AND ended_at IS NULL FOR UPDATE"
    if one(connection, query, verification_id, holder) is None:
        raise Fenced


def wait(connection: Connection, verification_id: UUID, why: str, *, seconds: float | None) -> bool:
    """Put an unfinished verification off; None: until the next day (UTC) begins.

    Returns:
        Whether the reason is news.
    """
    news = run(
        connection,
        "UPDATE verification SET waits_for = %s WHERE id = %s AND waits_for IS DISTINCT FROM %s",
        why,
        verification_id,
        why,
    )
    run(
        connection,
        "UPDATE verification SET not_before = coalesce(now() + make_interval(secs => %s),"
        " date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '1 day') WHERE id = %s",
        seconds,
        verification_id,
    )
    return bool(news)


def end(connection: Connection, verification_id: UUID, result: str, problem: BootpointError | None = None) -> None:
    """Finish a verification."""
    run(
        connection,
        "UPDATE verification SET ended_at = now(), result = %s, problem = %s, waits_for = NULL,"
        " held_until = '-infinity' WHERE id = %s",
        result,
        None if problem is None else Jsonb(problem.as_json()),
        verification_id,
    )
    count.add(connection, {(VERIFICATIONS, (result,)): 1})


def forget(connection: Connection, verification_id: UUID) -> None:
    """Drop a verification whose point is gone."""
    run(connection, "DELETE FROM verification WHERE id = %s", verification_id)


# --- what a host may be asked for in a day


def budget_of(settings: Mapping[str, Any]) -> int:
    """Return the bytes that verifications may read of a host in a day."""
    return int(settings.get(BUDGET_SETTING, BUDGET_BYTES))


def spend(connection: Connection, host_id: UUID, read_bytes: int) -> int:
    """Count bytes that were read of a host.

    Returns:
        How many were read of it today (UTC), these included.
    """
    row = one_row(
        connection,
        "INSERT INTO verify_day (host_id, day, read_bytes) VALUES (%s, (now() AT TIME ZONE 'UTC')::date, %s)"
        " ON CONFLICT (host_id, day) DO UPDATE SET read_bytes = verify_day.read_bytes + excluded.read_bytes"
        " RETURNING read_bytes",
        host_id,
        read_bytes,
    )
    return int(row["read_bytes"])


def show_day(connection: Connection, host_id: UUID) -> bool:
    """Note that the history says that a host's day is used up; False where it does already."""
    query = (
        "UPDATE verify_day SET shown = true WHERE host_id = %s AND day = (now() AT TIME ZONE 'UTC')::date AND NOT shown"
    )
    return run(connection, query, host_id) == 1


# --- what is due

#: Replicas whose newest point is to be read again. The time counts from the last verification of any of its points;
#: where there was none, from its first point. One that failed is tried again after a while.
_DUE = """
SELECT y.head AS point_id FROM replica y JOIN job j ON j.id = y.job_id JOIN host h ON h.id = y.host_id
JOIN LATERAL (
    SELECT min(p.committed_at) AS first, max(p.verified_at) AS proven,
        max(v.ended_at) FILTER (WHERE v.result <> 'failed') AS ended,
        max(v.ended_at) FILTER (WHERE v.result = 'failed') AS failed,
        bool_or(v.id IS NOT NULL AND v.ended_at IS NULL) AS unfinished
    FROM boot_point p LEFT JOIN verification v ON v.point_id = p.id
    WHERE p.replica_id = y.id AND p.state = 'committed'
) k ON true
WHERE j.enabled AND y.state = 'ok' AND y.head IS NOT NULL AND y.consolidating IS NULL AND NOT k.unfinished
  AND (h.has_credentials OR h.address = 'local' OR h.kind = 'fake')
  AND greatest(k.first, k.proven, k.ended)
      < now() - make_interval(secs => duration_seconds(j.spec #>> '{check,verify}'))
  AND (k.failed IS NULL OR k.failed < now() - make_interval(secs => %s))
ORDER BY greatest(k.first, k.proven, k.ended)
"""

#: Unfinished verifications that nobody works on, and whose time has come.
_LEFT = """
UPDATE verification v SET enqueued_at = now() FROM boot_point p JOIN replica y ON y.id = p.replica_id
WHERE p.id = v.point_id AND v.ended_at IS NULL AND v.not_before <= now() AND v.held_until < now()
  AND v.enqueued_at < now() - make_interval(secs => %s) RETURNING v.point_id, y.pool
"""


def enqueue(connection: Connection) -> int:
    """Begin the verifications that are due, and send on those that nobody works on.

    Any number of processes may call it; one at a time looks, and the others have nothing to do.

    Returns:
        How many tasks were enqueued.
    """
    if not one_row(connection, "SELECT pg_try_advisory_xact_lock(%s) AS mine", _LOCK)["mine"]:
        return 0
    run(connection, "DELETE FROM reference WHERE kind = 'verify' AND until < now()")
    run(connection, "DELETE FROM verify_day WHERE day < (now() AT TIME ZONE 'UTC')::date - %s", KEPT_DAYS)
    due = rows(connection, _DUE, AGAIN_SECONDS)
    for row in due:
        ask(connection, row["point_id"], requested_by="schedule", budgeted=True)
    left = rows(connection, _LEFT, RESEND_SECONDS)
    for row in left:
        outbox.task(connection, row["pool"], "verify", row["point_id"])
    return len(due) + len(left)
