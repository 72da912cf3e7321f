"""A verification in a worker's hands: taken, renewed, let go, and asked whether the layers it reads stand still."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg

from bootpoint_common.digest import SegmentTable
from bootpoint_common.errors import Code, error
from bootpoint_common.store import event, host, outbox, point, reference, segment
from bootpoint_common.store import verification as store
from bootpoint_common.store.database import Connection, one_row
from bootpoint_common.store.host import Host
from bootpoint_common.store.point import Point, PointDisk, State
from bootpoint_common.store.verification import Verification

from .context import Context
from .replica import replica_of
from .targets.replica import Replica

_log = logging.getLogger(__name__)

#: Seconds that reference and row hold without being renewed, and seconds between renewals.
HOLD_SECONDS, RENEW_SECONDS = 60.0, 15.0

#: Seconds until a verification that waits for a consolidation looks again.
CONSOLIDATION_SECONDS = 10.0


@dataclass(slots=True)
class Work:
    """What one task works with.

    Attributes:
        context: What the actor works with.
        found: The point.
        row: Its verification.
        disks: Its disks.
        tables: What each has to read as.
        replica: Its replica.
        host: Where that is.
        reference: What keeps the point from being merged; also the id of the hold on the row.
        end: When the task's time is over, by the monotonic clock.
        unsaved_bytes: Bytes read of the host since the last record.
    """

    context: Context
    found: Point
    row: Verification
    disks: list[PointDisk]
    tables: dict[str, SegmentTable]
    replica: Replica
    host: Host
    reference: UUID
    end: float
    unsaved_bytes: int = 0


class Later(Exception):  # noqa: N818 - the end of a task, not an error
    """The verification goes on in another task: at once, after some seconds, or (None) on the next day."""

    def __init__(self, why: str = "time", seconds: float | None = 0.0) -> None:
        super().__init__(why)
        self.why, self.seconds = why, seconds


def take(context: Context, point_id: UUID, *, end: float) -> Work | None:
    """Take the unfinished verification of a point, if there is one, nobody has it, and the point can be read now.

    Args:
        context: What the actor works with.
        point_id: The point.
        end: When the task's time is over, by the monotonic clock.
    """
    with context.database.transaction() as connection:
        return _take(context, connection, point_id, end)


def _take(context: Context, connection: Connection, point_id: UUID, end: float) -> Work | None:
    found = point.get(connection, point_id, lock=True)
    row = store.unfinished(connection, point_id)
    if found is None or row is None or row.held or row.waiting:
        return None
    gone = one_row(
        connection,
        "SELECT p.consolidated_at IS NOT NULL AS merged, y.consolidating FROM boot_point p"
        " JOIN replica y ON y.id = p.replica_id WHERE p.id = %s",
        point_id,
    )
    if found.state is not State.COMMITTED or gone["merged"]:
        _gone(connection, found, row)
        return None
    held = None
    if gone["consolidating"] is None:
        held = reference.take(connection, point_id, "verify", context.worker, seconds=HOLD_SECONDS)
    if held is None:
        store.wait(connection, row.id, "consolidation", seconds=CONSOLIDATION_SECONDS)
        outbox.task(connection, found.pool, "verify", point_id, delay=CONSOLIDATION_SECONDS)
        return None
    store.hold(connection, row.id, held, seconds=HOLD_SECONDS)
    disks = point.disks(connection, point_id)
    tables = {
        d.slot: segment.segments(connection, found.replica_id, d.slot, d.size_bytes, upto=found.sequence) for d in disks
    }
    replica = replica_of(connection, found.replica_id)
    on = host.get(connection, found.host_id)
    return Work(context, found, row, disks, tables, replica, on, held, end)


def _gone(connection: Connection, found: Point, row: Verification) -> None:
    """End a verification whose point was merged; a planned one simply goes on with the newest point."""
    if row.budgeted:
        store.forget(connection, row.id)
        return
    problem = error(
        Code.NO_SUCH_POINT, f"{found.name} was merged into a later point", job=found.job, key="point", value=found.name
    )
    store.end(connection, row.id, "failed", problem)
    event.of_point(connection, found, "verify_failed", problem.message, actor="worker", code=str(problem.code))


@contextmanager
def holding(work: Work) -> Iterator[None]:
    """Renew reference and row by a thread until the end; a task that dies lets both run out.

    One that was only frozen finds by `fence` that another has gone on.
    """
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEW_SECONDS):
            try:
                with work.context.database.transaction() as connection:
                    store.renew(connection, work.row.id, work.reference, seconds=HOLD_SECONDS)
                    reference.renew(connection, work.reference, seconds=HOLD_SECONDS)
            except (psycopg.Error, OSError):
                # The database is away: three more renewals come before the hold runs out.
                _log.warning("verification not renewed", extra={"verification": str(work.row.id)})

    thread = threading.Thread(target=renew, name="verification", daemon=True)
    if work.context.renewing:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if work.context.renewing:
            thread.join()
        with work.context.database.transaction() as connection:
            reference.drop(connection, work.reference)
            store.let_go(connection, work.row.id, work.reference)


def fence(connection: Connection, work: Work) -> None:
    """Lock the row before anything is written that was read for it.

    Raises:
        Fenced: Another worker goes on with it, or it has ended.
    """
    store.fence(connection, work.row.id, work.reference)


def peace(connection: Connection, work: Work) -> int:
    """Return how many points of the replica were merged so far.

    Raises:
        Later: One is being merged now.
    """
    row = one_row(
        connection,
        "SELECT y.consolidating, (SELECT count(*) FROM boot_point p WHERE p.replica_id = y.id"
        " AND p.consolidated_at IS NOT NULL) AS merged FROM replica y WHERE y.id = %s",
        work.found.replica_id,
    )
    if row["consolidating"] is not None:
        raise Later("consolidation", CONSOLIDATION_SECONDS)
    return int(row["merged"])
