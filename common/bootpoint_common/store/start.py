"""Making runs, many at a time: those that wait in the line, and those that are only written down as skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import CODES, Code
from bootpoint_common.identity import new_id
from bootpoint_common.metric import RUNS

from . import count, notice
from .database import Connection, rows, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A run that is to be made.

    Attributes:
        job_id: The job.
        trigger: ``schedule``, ``event``, ``manual``, ``catch_up`` or ``retry``.
        requested_by: Who asked for it.
        origin: From where, for the history.
        due_at: When it was to start, its place in the line; None for now.
        attempt: 1, or which retry it is.
        last_breath: The machine is about to stop: the head of the line.
        begin_by: It isn't begun after this instant.
        details: What else the history gets.
    """

    job_id: int
    trigger: str
    requested_by: str
    origin: str | None = None
    due_at: datetime | None = None
    attempt: int = 1
    last_breath: bool = False
    begin_by: datetime | None = None
    details: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A run that was due and isn't made; its fields are those of `Wanted`, and why.

    Attributes:
        at: When that was decided.
        code: Why.
        message: The same for people.
    """

    job_id: int
    trigger: str
    requested_by: str
    origin: str | None
    due_at: datetime
    at: datetime
    code: Code
    message: str
    details: dict[str, Any] | None = None


# A job has one run that waits or runs: whoever comes second finds it in the index.
_INSERT = """
INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state, due_at, attempt, last_breath,
    begin_by)
SELECT w.uid, j.id, j.name, j.agent_id, y.pool, w.trigger, w.requested_by, 'waiting', coalesce(w.due_at, now()),
    w.attempt, w.last_breath, w.begin_by
FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[], %s::integer[], %s::boolean[],
    %s::timestamptz[]) WITH ORDINALITY
    AS w(uid, job_id, trigger, requested_by, due_at, attempt, last_breath, begin_by, n)
JOIN job j ON j.id = w.job_id
JOIN LATERAL (SELECT pool FROM replica WHERE job_id = j.id AND state <> 'detached' ORDER BY id LIMIT 1) y ON true
ORDER BY w.n
ON CONFLICT (job_id) WHERE state IN ('waiting', 'running') DO NOTHING
RETURNING uid, job_id
"""

_TARGETS = """
INSERT INTO run_target (run_uid, replica_id, host_id)
SELECT r.uid, y.id, y.host_id FROM run r JOIN replica y ON y.job_id = r.job_id
WHERE r.uid = ANY(%s) AND y.state <> 'detached'
"""

# As `event.record` has it: by default what the connection was opened for.
_ORIGIN = "coalesce(w.origin, nullif(current_setting('bootpoint.origin', true), ''))"

_TOLD = f"""
INSERT INTO event (kind, text, actor, origin, job, run, agent, details)
SELECT 'run_requested', r.trigger || ' run', r.requested_by, {_ORIGIN}, r.job_name, r.id, a.name, w.details
FROM unnest(%s::uuid[], %s::text[], %s::jsonb[]) AS w(uid, origin, details)
JOIN run r ON r.uid = w.uid JOIN agent a ON a.id = r.agent_id ORDER BY r.id
"""


def start(connection: Connection, wanted: Sequence[Wanted]) -> dict[int, UUID]:
    """Put runs into the line, each of them an event.

    Args:
        connection: A transaction.
        wanted: The runs; the first of a job counts.

    Returns:
        The runs that were made, by job. A job that has one under way, or that is gone, isn't there.
    """
    if not wanted:
        return {}
    keyed = {new_id(): each for each in wanted}
    made = rows(
        connection,
        _INSERT,
        list(keyed),
        [each.job_id for each in wanted],
        [each.trigger for each in wanted],
        [each.requested_by for each in wanted],
        [each.due_at for each in wanted],
        [each.attempt for each in wanted],
        [each.last_breath for each in wanted],
        [each.begin_by for each in wanted],
    )
    uids = [row["uid"] for row in made]
    run(connection, _TARGETS, uids)
    run(
        connection,
        _TOLD,
        uids,
        [keyed[uid].origin for uid in uids],
        [_json(keyed[uid].details) for uid in uids],
    )
    return {row["job_id"]: row["uid"] for row in made}


def aim(connection: Connection, job_id: int) -> None:
    """Let a job's run that waits go to the targets that the job has now; one that has begun keeps its own.

    Args:
        connection: The transaction that changed the job's replicas.
        job_id: The job.
    """
    uids = [
        row["uid"]
        for row in rows(connection, "SELECT uid FROM run WHERE job_id = %s AND state = 'waiting' FOR UPDATE", job_id)
    ]
    if not uids:
        return
    run(connection, "DELETE FROM run_target WHERE run_uid = ANY(%s)", uids)
    run(connection, _TARGETS, uids)
    run(
        connection,
        "UPDATE run SET pool = (SELECT pool FROM replica WHERE job_id = %s AND state <> 'detached' ORDER BY id LIMIT 1)"
        " WHERE uid = ANY(%s)",
        job_id,
        uids,
    )


_SKIP = """
INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state, due_at, ended_at, reason, message,
    hint, retryable)
SELECT w.uid, j.id, j.name, j.agent_id, coalesce(y.pool, ''), w.trigger, w.requested_by, 'skipped', w.due_at, w.at,
    w.code, w.message, w.hint, false
FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::text[],
    %s::text[], %s::text[]) AS w(uid, job_id, trigger, requested_by, due_at, at, code, message, hint)
JOIN job j ON j.id = w.job_id
LEFT JOIN LATERAL (SELECT pool FROM replica WHERE job_id = j.id AND state <> 'detached' ORDER BY id LIMIT 1) y ON true
"""

_TOLD_SKIPPED = f"""
INSERT INTO event (kind, text, actor, origin, job, run, agent, code, details)
SELECT 'run_skipped', r.message, r.requested_by, {_ORIGIN}, r.job_name, r.id, a.name, r.reason, w.details
FROM unnest(%s::uuid[], %s::text[], %s::jsonb[]) AS w(uid, origin, details)
JOIN run r ON r.uid = w.uid JOIN agent a ON a.id = r.agent_id ORDER BY r.id
"""


def skip(connection: Connection, skipped: Sequence[Skipped]) -> list[UUID]:
    """Write down runs that were due and are not made, each of them an event; returns them in the same order."""
    if not skipped:
        return []
    uids = [new_id() for _ in skipped]
    run(
        connection,
        _SKIP,
        uids,
        [each.job_id for each in skipped],
        [each.trigger for each in skipped],
        [each.requested_by for each in skipped],
        [each.due_at for each in skipped],
        [each.at for each in skipped],
        [str(each.code) for each in skipped],
        [each.message for each in skipped],
        [CODES[each.code].hint for each in skipped],
    )
    run(
        connection,
        _TOLD_SKIPPED,
        uids,
        [each.origin for each in skipped],
        [_json(each.details) for each in skipped],
    )
    missed = [uid for uid, each in zip(uids, skipped, strict=True) if each.code is Code.MISSED]
    if missed:
        notice.missed(connection, missed)
    codes = Counter(str(each.code) for each in skipped)
    count.add(connection, {(RUNS, ("skipped", code)): number for code, number in codes.items()})
    return uids


def _json(details: dict[str, Any] | None) -> Jsonb | None:
    return None if details is None else Jsonb(details)
