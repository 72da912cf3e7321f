"""The line: in which order waiting runs get their places, and what each of them waits for.

A run needs a place on every host that it writes to, and its agent for itself. The line is strict for each host: the
first ones of it are promised what is free there, and nobody overtakes them, even where one of them still waits for
another host. So none starves. What waits for something else than a place (its agent works, a point is being merged) is
passed over, and keeps its place in the line.

A promise is not a place yet: the worker that gets the task ``prepare`` looks whether the run may begin, and takes the
places in the transaction that tells the agent.
"""

from __future__ import annotations

from uuid import UUID

from . import outbox
from .database import Connection, one, one_row, rows, run

#: Number of the advisory lock of whoever makes promises; any number that nobody else uses.
_LOCK = 0x6C696E65

#: Seconds for which a promise counts: no worker came for it, so others get a try.
PROMISE_SECONDS = 30.0

#: Seconds that a run is passed over after a promise that no worker came for.
PASSED_OVER_SECONDS = 5.0

#: Who comes first: a machine that is about to stop, then whoever was due earlier.
ORDER = "{0}.last_breath DESC, {0}.due_at, {0}.id"

#: Runs that have places, or the promise of them.
_HOLDS = "({0}.state = 'running' OR ({0}.state = 'waiting' AND {0}.enqueued_at IS NOT NULL))"

# `chosen` is materialized as well: before statistics know of a line that has just grown, the planner would work it out
# again for each run of the line, and ten thousand runs take 15 s.
_ADMIT = f"""
WITH holding AS MATERIALIZED (
    SELECT r.uid, r.agent_id FROM run r WHERE {_HOLDS.format("r")}
), free AS MATERIALIZED (
    SELECT h.id AS host_id, h.max_open_points - count(o.uid) AS places FROM host h
    LEFT JOIN (run_target t JOIN holding o ON o.uid = t.run_uid) ON t.host_id = h.id GROUP BY h.id
), line AS MATERIALIZED (
    SELECT DISTINCT ON (r.agent_id) r.uid, r.pool, r.last_breath, r.due_at, r.id FROM run r
    WHERE r.state = 'waiting' AND r.enqueued_at IS NULL AND (r.look_at IS NULL OR r.look_at <= now())
      AND EXISTS (SELECT 1 FROM free WHERE places > 0)
      AND NOT EXISTS (SELECT 1 FROM holding o WHERE o.agent_id = r.agent_id)
    ORDER BY r.agent_id, {ORDER.format("r")}
), placed AS (
    SELECT l.uid, row_number() OVER (PARTITION BY t.host_id ORDER BY {ORDER.format("l")}) <= f.places AS promised
    FROM line l JOIN run_target t ON t.run_uid = l.uid JOIN free f ON f.host_id = t.host_id
), chosen AS MATERIALIZED (
    SELECT uid FROM placed GROUP BY uid HAVING bool_and(promised)
)
UPDATE run SET enqueued_at = now(), look_at = NULL FROM chosen
WHERE run.uid = chosen.uid AND run.state = 'waiting' AND run.enqueued_at IS NULL RETURNING run.uid, run.pool
"""


def admit(connection: Connection) -> int:
    """Promise free places to the first ones of the line, and send workers to look whether they may begin.

    Returns:
        How many got a promise; 0 also while another process makes promises.
    """
    if not one_row(connection, "SELECT pg_try_advisory_xact_lock(%s) AS mine", _LOCK)["mine"]:
        return 0
    chosen = rows(connection, _ADMIT)
    for row in chosen:
        outbox.task(connection, row["pool"], "prepare", row["uid"])
    return len(chosen)


def hold(connection: Connection, uid: UUID) -> None:
    """Write that a worker has a run in hand that may begin soon: its promise counts from now."""
    run(connection, "UPDATE run SET enqueued_at = now() WHERE uid = %s", uid)


def put_back(connection: Connection, uid: UUID, why: str, *, seconds: float) -> None:
    """Put a run back into its place in the line, and pass it over for a while.

    Args:
        connection: A transaction.
        uid: The run; nothing is done where it doesn't wait.
        why: What it waits for, for people.
        seconds: How long it is passed over.
    """
    run(
        connection,
        "UPDATE run SET line = %s, enqueued_at = NULL, look_at = now() + make_interval(secs => %s)"
        " WHERE uid = %s AND state = 'waiting'",
        why,
        seconds,
        uid,
    )


def look_again(connection: Connection, replica_id: UUID) -> None:
    """Bring the runs that write to a replica back at once: what they were passed over for may be over."""
    run(
        connection,
        # The line is written too, which wakes whoever makes promises.
        "UPDATE run SET look_at = NULL, line = run.line FROM run_target t WHERE t.run_uid = run.uid"
        " AND t.replica_id = %s AND run.state = 'waiting' AND run.look_at IS NOT NULL",
        replica_id,
    )


def withdraw(connection: Connection) -> None:
    """Take back the promises that no worker came for."""
    run(
        connection,
        "UPDATE run SET line = 'no worker of pool ' || pool || ' has looked at it yet', enqueued_at = NULL,"
        " look_at = now() + make_interval(secs => %s)"
        " WHERE state = 'waiting' AND enqueued_at < now() - make_interval(secs => %s)",
        PASSED_OVER_SECONDS,
        PROMISE_SECONDS,
    )


_BEFORE = """
SELECT count(*) + 1 AS place FROM run r, run o WHERE o.uid = %s AND r.state = 'waiting'
AND (NOT r.last_breath, r.due_at, r.id) < (NOT o.last_breath, o.due_at, o.id)
"""

_FULL = f"""
SELECT h.name, h.max_open_points AS places FROM run_target t JOIN host h ON h.id = t.host_id
WHERE t.run_uid = %s AND h.max_open_points <= (SELECT count(*) FROM run r JOIN run_target x ON x.run_uid = r.uid
    WHERE x.host_id = h.id AND {_HOLDS.format("r")}) ORDER BY h.name LIMIT 1
"""

_WORKS = """
SELECT a.name, o.id FROM run r JOIN agent a ON a.id = r.agent_id JOIN run o ON o.agent_id = r.agent_id
WHERE r.uid = %s AND o.state = 'running'
"""


def shown(connection: Connection, number: int) -> str | None:
    """Say where in the line a run stands and what it waits for; None where it doesn't wait."""
    found = one(
        connection,
        "SELECT uid, line, enqueued_at, look_at > now() AS passed_over FROM run WHERE id = %s AND state = 'waiting'",
        number,
    )
    if found is None:
        return None
    if found["enqueued_at"] is not None:
        return "a worker looks whether it may begin"
    length = one_row(connection, "SELECT count(*) AS n FROM run WHERE state = 'waiting'")["n"]
    place = one_row(connection, _BEFORE, found["uid"])["place"]
    return f"place {place} of {length} in the line: {_waits_for(connection, found['uid'], found)}"


def _waits_for(connection: Connection, uid: UUID, found: dict[str, object]) -> str:
    if found["passed_over"] and found["line"] is not None:
        return str(found["line"])
    works = one(connection, _WORKS, uid)
    if works is not None:
        return f"agent {works['name']} works on run {works['id']}"
    full = one(connection, _FULL, uid)
    if full is not None:
        return f"host {full['name']} has no free place, all {full['places']} are taken"
    return "others were due earlier"
