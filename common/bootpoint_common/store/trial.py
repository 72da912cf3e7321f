"""Test VMs: machines started from points beside the standby, by people (tests) or to see whether they boot (checks).

::

    waiting ──► starting ──► running ──► ending ──► ended
       └───────────┴───────────────────────┘

What is wanted is written first, then done on the host, by whoever holds the row's claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError, Code, RefusedError
from bootpoint_common.identity import new_id

from . import outbox, reference
from .database import Connection, Row, one, rows, run
from .point import Point

Kind = Literal["test", "check"]

#: Name of the task that takes a test VM on.
TASK = "trial"

#: Places for boot checks on a host: each is a machine that works hard while it boots.
PLACES = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """A row of test_vm, with what is needed of its point."""

    id: UUID
    number: int
    replica_id: UUID
    point_id: UUID
    kind: str
    state: str
    reference: UUID | None
    conversion: str
    for_seconds: float
    requested_by: str
    automatic: bool
    created_at: datetime
    placed_at: datetime | None
    touched: bool
    started_at: datetime | None
    until: datetime | None
    ended_at: datetime | None
    ending: str | None
    problem: dict[str, Any] | None
    seen: dict[str, Any] | None
    boot: dict[str, Any] | None
    age: float | None
    pool: str
    host_id: UUID

    @property
    def test_id(self) -> str:
        """What its VM is named after. The number alone could come again, after a database was restored."""
        return f"{self.number}-{self.id.hex[-4:]}"


_COLUMNS = ", ".join(f"t.{name}" for name in Trial.__slots__ if name not in ("age", "pool", "host_id"))

_TRIAL = f"""
SELECT {_COLUMNS}, extract(epoch FROM now() - t.started_at)::double precision AS age, y.pool, y.host_id
FROM test_vm t JOIN replica y ON y.id = t.replica_id
"""


def _trial(row: Row) -> Trial:
    return Trial(**{name: row[name] for name in Trial.__slots__})


def get(connection: Connection, trial_id: UUID) -> Trial | None:
    """Read a test VM."""
    row = one(connection, _TRIAL + "WHERE t.id = %s", trial_id)
    return None if row is None else _trial(row)


def create(
    connection: Connection,
    found: Point,
    kind: Kind,
    *,
    requested_by: str,
    seconds: float,
    conversion: str = "auto",
    automatic: bool = False,
) -> Trial:
    """Write that a VM is wanted from a point, and hold the point for it.

    A check of a point that is being checked already is that one.

    Args:
        connection: A transaction.
        found: The point.
        kind: A test starts at once, a check waits for a place on its host.
        requested_by: Who.
        seconds: How long it runs unless it is ended before.
        conversion: As in `StartRequest`.
        automatic: Nobody asked for it: it was due.

    Raises:
        RefusedError: ``point_in_use``: the point is not committed, or it is being merged.
    """
    made = one(
        connection,
        "INSERT INTO test_vm (id, replica_id, point_id, kind, state, conversion, for_seconds, requested_by, automatic,"
        " placed_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, CASE WHEN %s = 'test' THEN now() END)"
        " ON CONFLICT (point_id) WHERE kind = 'check' AND state <> 'ended' DO NOTHING RETURNING id",
        new_id(),
        found.replica_id,
        found.id,
        kind,
        "starting" if kind == "test" else "waiting",
        conversion,
        seconds,
        requested_by,
        automatic,
        kind,
    )
    if made is None:
        query = "WHERE t.point_id = %s AND t.kind = 'check' AND t.state <> 'ended'"
        return _trial(rows(connection, _TRIAL + query, found.id)[0])
    trial = _trial(rows(connection, _TRIAL + "WHERE t.id = %s", made["id"])[0])
    held = reference.take(connection, found.id, kind, f"{kind} {trial.number} of {requested_by}", seconds=None)
    if held is None:
        text = f"boot point {found.name} is {found.state} or being merged: no VM can be started from it"
        raise RefusedError(
            Code.POINT_IN_USE, text, job=found.job, host=found.host, key="point", value=found.name
        )  # fmt: skip
    run(connection, "UPDATE test_vm SET reference = %s WHERE id = %s", held, trial.id)
    if kind == "test":
        outbox.task(connection, trial.pool, TASK, trial.id)
    return trial


def place(connection: Connection) -> int:
    """Give checks that wait their places, in the order in which they came.

    Only one process at a time may do this: see `bootcheck.attend`.

    Returns:
        How many got one.
    """
    placed = rows(
        connection,
        "UPDATE test_vm t SET state = 'starting', placed_at = now(), enqueued_at = now() FROM replica y,"
        " (SELECT w.id, row_number() OVER (PARTITION BY v.host_id ORDER BY w.number) AS n,"
        "  (SELECT count(*) FROM test_vm o JOIN replica z ON z.id = o.replica_id WHERE z.host_id = v.host_id"
        "   AND o.kind = 'check' AND o.state IN ('starting', 'running', 'ending')) AS taken"
        "  FROM test_vm w JOIN replica v ON v.id = w.replica_id WHERE w.state = 'waiting') q"
        " WHERE q.id = t.id AND y.id = t.replica_id AND q.n + q.taken <= %s AND t.state = 'waiting'"
        " RETURNING t.id, y.pool",
        PLACES,
    )
    for row in placed:
        outbox.task(connection, row["pool"], TASK, row["id"])
    return len(placed)


def touch(connection: Connection, trial: Trial) -> bool:
    """Write that the host may have something of it from now on; False where it is no longer to be started."""
    query = "UPDATE test_vm SET touched = true WHERE id = %s AND state = 'starting'"
    return run(connection, query, trial.id) == 1


def started(connection: Connection, trial: Trial) -> bool:
    """Write that the VM runs; False where it was to be ended meanwhile."""
    return bool(
        run(
            connection,
            "UPDATE test_vm SET state = 'running', started_at = now(), problem = NULL,"
            " until = now() + make_interval(secs => for_seconds) WHERE id = %s AND state = 'starting'",
            trial.id,
        )
    )


def looked(connection: Connection, trial: Trial, seen: dict[str, Any], picture: bytes | None) -> bool:
    """Write what a look at a check has given; False where it was to be ended meanwhile."""
    return bool(
        run(
            connection,
            "UPDATE test_vm SET seen = %s, picture = coalesce(%s, picture), problem = NULL"
            " WHERE id = %s AND state = 'running'",
            Jsonb(seen),
            picture,
            trial.id,
        )
    )


def end(
    connection: Connection,
    trial_id: UUID,
    why: str,
    *,
    problem: BootpointError | None = None,
    boot: dict[str, Any] | None = None,
) -> bool:
    """Write that a VM is to be ended.

    Args:
        connection: A transaction.
        trial_id: The VM.
        why: For people.
        problem: What went wrong with it.
        boot: The verdict of a check.

    Returns:
        False where it ends or has ended already.
    """
    return bool(
        run(
            connection,
            "UPDATE test_vm SET state = 'ending', ending = %s, problem = %s, boot = %s"
            " WHERE id = %s AND state IN ('waiting', 'starting', 'running')",
            why,
            None if problem is None else Jsonb(problem.as_json()),
            None if boot is None else Jsonb(boot),
            trial_id,
        )
    )


def ended(connection: Connection, trial: Trial) -> bool:
    """Write that nothing of it is left on the host, and let its point go; False where that was written before."""
    moved = run(
        connection, "UPDATE test_vm SET state = 'ended', ended_at = now() WHERE id = %s AND state = 'ending'", trial.id
    )
    if moved and trial.reference is not None:
        reference.drop(connection, trial.reference)
    return moved == 1


def note(connection: Connection, trial: Trial, problem: BootpointError) -> None:
    """Keep what a step met that is tried again, and let the reaper wait before it sends the work anew."""
    run(
        connection,
        "UPDATE test_vm SET problem = %s, enqueued_at = now() WHERE id = %s",
        Jsonb(problem.as_json()),
        trial.id,
    )


def enqueue(connection: Connection, seconds: float) -> None:
    """Find again what nobody has in hand, and end what has run long enough.

    Args:
        connection: A transaction.
        seconds: Time after which a task that nobody took is sent once more.
    """
    run(
        connection,
        "UPDATE test_vm SET state = 'ending', ending = 'its time is over', enqueued_at = NULL"
        " WHERE state = 'running' AND until < now()",
    )
    found = rows(
        connection,
        "UPDATE test_vm t SET enqueued_at = now() FROM replica y WHERE y.id = t.replica_id AND t.writer_until < now()"
        " AND (t.state IN ('starting', 'ending') OR (t.state = 'running' AND t.kind = 'check'))"
        " AND (t.enqueued_at IS NULL OR t.enqueued_at < now() - make_interval(secs => %s))"
        " AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.subject = t.id::text AND o.kind = %s)"
        " RETURNING t.id, y.pool",
        seconds,
        TASK,
    )
    for row in found:
        outbox.task(connection, row["pool"], TASK, row["id"])


def again(connection: Connection, trial: Trial, *, delay: float) -> None:
    """Enqueue the next look at a check."""
    run(connection, "UPDATE test_vm SET enqueued_at = now() WHERE id = %s", trial.id)
    outbox.task(connection, trial.pool, TASK, trial.id, delay=delay)
