"""The actor that proves a point: it reads the replica again, by segments, and compares with what the agent read.

::

    due, or asked for ─► verification (a row) ─► task ─► … ─► task ─► verified | damaged | failed
                                                  each: reference, then segments in order, progress every 2 s

It claims nothing, for it changes nothing; a reference keeps the point from being merged meanwhile, and the row says
that somebody reads. Both run out with a dead worker, and another goes on after the last segment that was recorded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from bootpoint_common.digest import SegmentTable
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import damage, event, host, outbox, point, reference, segment
from bootpoint_common.store import verification as store
from bootpoint_common.store.damage import Damage
from bootpoint_common.store.database import Connection, one_row, rows, run
from bootpoint_common.store.host import Host
from bootpoint_common.store.point import Point, PointDisk, State
from bootpoint_common.store.verification import Verification
from bootpoint_common.units import format_size

from . import damaged
from .context import Context
from .reading import read_segment, read_segments
from .replica import replica_of
from .targets.base import Replica, Target

_log = logging.getLogger(__name__)

#: Longest time of one task in seconds; the rest is a task of its own.
LONGEST = 600.0

#: Seconds between two records of how far it is: what a crash costs.
SAVE_SECONDS = 2.0

#: Seconds that reference and row hold without being renewed, and seconds between renewals.
HOLD_SECONDS, RENEW_SECONDS = 60.0, 15.0

#: Segments of one record that differ at most; each is read a second time before anybody is told.
SUSPECTS = 64

#: Seconds until a verification that waits for a consolidation, or for a host, looks again.
CONSOLIDATION_SECONDS, HOST_SECONDS = 10.0, 300.0


@dataclass(slots=True)
class _Work:
    """What one task works with.

    Attributes:
        context: What the actor works with.
        found: The point.
        row: Its verification.
        disks: Its disks.
        tables: What each has to read as.
        replica: Its replica.
        host: Where that is.
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
    end: float
    unsaved_bytes: int = field(default=0)


class _Later(Exception):  # noqa: N818 - the end of a task, not an error
    """The verification goes on in another task: at once, after some seconds, or (None) on the next day."""

    def __init__(self, why: str = "time", seconds: float | None = 0.0) -> None:
        super().__init__(why)
        self.why, self.seconds = why, seconds


def verify(context: Context, point_id: UUID) -> None:
    """Go on with the verification of a point that was asked for, for a while; nothing where somebody else does."""
    with context.database.transaction() as connection:
        work, held = _begin(context, connection, point_id)
    if work is None or held is None:
        return
    with _holding(context, work.row.id, held):
        try:
            _read(work)
        except _Later as later:
            _put_off(work, later)
        except BootpointError as problem:
            _failed(work, problem)


def _begin(context: Context, connection: Connection, point_id: UUID) -> tuple[_Work | None, UUID | None]:
    """Take the reference, or say why not."""
    found = point.get(connection, point_id, lock=True)
    row = store.unfinished(connection, point_id)
    if found is None or row is None or row.held or row.waiting:
        return None, None
    gone = one_row(
        connection,
        "SELECT p.consolidated_at IS NOT NULL AS merged, y.consolidating FROM boot_point p"
        " JOIN replica y ON y.id = p.replica_id WHERE p.id = %s",
        point_id,
    )
    if found.state is not State.COMMITTED or gone["merged"]:
        _gone(connection, found, row)
        return None, None
    held = None
    if gone["consolidating"] is None:
        held = reference.take(connection, point_id, "verify", context.worker, seconds=HOLD_SECONDS)
    if held is None:
        store.wait(connection, row.id, "consolidation", seconds=CONSOLIDATION_SECONDS)
        outbox.task(connection, found.pool, "verify", point_id, delay=CONSOLIDATION_SECONDS)
        return None, None
    store.hold(connection, row.id, seconds=HOLD_SECONDS)
    disks = point.disks(connection, point_id)
    tables = {
        d.slot: segment.segments(connection, found.replica_id, d.slot, d.size_bytes, upto=found.sequence) for d in disks
    }
    replica = replica_of(connection, found.replica_id)
    on = host.get(connection, found.host_id)
    return _Work(context, found, row, disks, tables, replica, on, time.monotonic() + LONGEST), held


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
def _holding(context: Context, verification_id: UUID, reference_id: UUID) -> Iterator[None]:
    """Renew reference and row by a thread until the end; a task that dies lets both run out."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEW_SECONDS):
            try:
                with context.database.transaction() as connection:
                    store.hold(connection, verification_id, seconds=HOLD_SECONDS)
                    reference.renew(connection, reference_id, seconds=HOLD_SECONDS)
            except (psycopg.Error, OSError):
                # The database is away: three more renewals come before the hold runs out.
                _log.warning("verification not renewed", extra={"verification": str(verification_id)})

    thread = threading.Thread(target=renew, name="verification", daemon=True)
    if context.renewing:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if context.renewing:
            thread.join()
        with context.database.transaction() as connection:
            reference.drop(connection, reference_id)
            store.let_go(connection, verification_id)


# --- reading


def _read(work: _Work) -> None:
    """Read every disk from where the last task ended, and say how it came out.

    Raises:
        _Later: It goes on in another task.
        BootpointError: What the host answered.
    """
    with work.context.sessions.use(work.host) as target:
        try:
            for disk in work.disks:
                _disk(work, target, disk)
        except BootpointError:
            # The host may not answer any more: what is known is said without its help.
            damaged.report(work.context, None, work.replica, work.found)
            raise
        except _Later:
            # What is known to be damaged is said now, however long the rest takes.
            work.unsaved_bytes += damaged.report(work.context, target, work.replica, work.found)
            raise
        work.unsaved_bytes += damaged.report(work.context, target, work.replica, work.found)
    _finish(work)


def _disk(work: _Work, target: Target, disk: PointDisk) -> None:
    """Compare one disk."""
    table = work.tables[disk.slot]
    with work.context.database.transaction() as connection:
        row = one_row(connection, "SELECT verified_segments AS n FROM boot_point_disk WHERE id = %s", disk.id)
    _look(work)
    if row["n"] >= len(table):
        return
    suspects: list[int] = []
    save_at = time.monotonic() + SAVE_SECONDS
    with (
        closing(target.open_reader(work.replica, work.found.id, disk.slot)) as reader,
        closing(read_segments(reader, row["n"], len(table))) as segments,
    ):
        for read in segments:
            work.unsaved_bytes += read.read_bytes
            if read.digest != table[read.number]:
                suspects.append(read.number)
            now = time.monotonic()
            if now >= save_at or now > work.end or len(suspects) >= SUSPECTS:
                _save(work, target, disk, read.number + 1, suspects)
                suspects, save_at = [], time.monotonic() + SAVE_SECONDS
    _save(work, target, disk, len(table), suspects)


def _save(work: _Work, target: Target, disk: PointDisk, upto: int, suspects: list[int]) -> None:
    """Record how far the disk is, and what is damaged for certain before there.

    Raises:
        _Later: The time, the day's bytes or the peace is over.
    """
    with work.context.database.transaction() as connection:
        before = _peace(connection, work)
    found = _confirmed(work, target, disk, suspects) if suspects else []
    with work.context.database.transaction() as connection:
        point.get(connection, work.found.id, lock=True)
        if found and _peace(connection, work) != before:
            raise _Later  # read while layers were being merged, it is no proof
        damage.keep(connection, found)
        run(connection, "UPDATE boot_point_disk SET verified_segments = %s WHERE id = %s", upto, disk.id)
    _look(work)
    if time.monotonic() > work.end and not _complete(work, disk, upto):
        raise _Later


def _complete(work: _Work, disk: PointDisk, upto: int) -> bool:
    return disk.id == work.disks[-1].id and upto >= len(work.tables[disk.slot])


def _confirmed(work: _Work, target: Target, disk: PointDisk, suspects: list[int]) -> list[Damage]:
    """Read segments that differ once more, through a reader of their own: a slip on the way is no damage."""
    table, found = work.tables[disk.slot], []
    with closing(target.open_reader(work.replica, work.found.id, disk.slot)) as reader:
        for number in suspects:
            read = read_segment(reader, number)
            work.unsaved_bytes += read.read_bytes
            if read.digest != table[number]:
                found.append(Damage(work.found.id, disk.slot, number))
    return found


def _peace(connection: Connection, work: _Work) -> int:
    """Return how many points of the replica were merged so far.

    Raises:
        _Later: One is being merged now.
    """
    row = one_row(
        connection,
        "SELECT y.consolidating, (SELECT count(*) FROM boot_point p WHERE p.replica_id = y.id"
        " AND p.consolidated_at IS NOT NULL) AS merged FROM replica y WHERE y.id = %s",
        work.found.replica_id,
    )
    if row["consolidating"] is not None:
        raise _Later("consolidation", CONSOLIDATION_SECONDS)
    return int(row["merged"])


def _look(work: _Work) -> None:
    """Count what was read, and see whether the work may go on.

    Raises:
        _Later: It may not, for now.
    """
    with work.context.database.transaction() as connection:
        row = store.unfinished(connection, work.found.id)
        used = store.spend(connection, work.host.id, work.unsaved_bytes)
    work.unsaved_bytes = 0
    with work.context.database.transaction() as connection:
        _peace(connection, work)
    if work.context.stopping.is_set():
        raise _Later
    if row is not None and row.budgeted and used >= store.budget_of(work.host.settings):
        raise _Later("budget", None)


# --- how a task ends


def _put_off(work: _Work, later: _Later) -> None:
    """Let the verification go on later, and say so where people have to wait a day for it."""
    with work.context.database.transaction() as connection:
        store.spend(connection, work.host.id, work.unsaved_bytes)
        if later.seconds is not None:
            outbox.task(connection, work.found.pool, "verify", work.found.id, delay=later.seconds)
            if not later.seconds:
                return
        store.wait(connection, work.row.id, later.why, seconds=later.seconds)
        if later.seconds is None and store.show_day(connection, work.host.id):
            text = (
                f"{work.found.name}: {format_size(store.budget_of(work.host.settings))} were read of {work.host.name}"
                " today, which is what verifications may read in a day; it goes on tomorrow where it stopped"
            )
            event.of_point(connection, work.found, "verify_waits", text, actor="worker")


def _failed(work: _Work, problem: BootpointError) -> None:
    """Say what the host answered; a planned verification goes on where it was once the host is back."""
    with work.context.database.transaction() as connection:
        row = store.unfinished(connection, work.found.id)
        store.spend(connection, work.host.id, work.unsaved_bytes)
        if problem.retryable and row is not None and row.budgeted:
            if not store.wait(connection, row.id, str(problem.code), seconds=HOST_SECONDS):
                return
            text = f"{work.found.name}: its verification waits, and is tried again: {problem.message}"
            kind = "verify_waits"
        else:
            work.context.metrics.verifications.labels(result="failed").inc()
            store.end(connection, work.row.id, "failed", problem)
            text, kind = f"{work.found.name} could not be verified: {problem.message}", "verify_failed"
        event.of_point(connection, work.found, kind, text, actor="worker", code=str(problem.code))


def _finish(work: _Work) -> None:
    """Say how it came out: damaged where any of its tasks found something."""
    found = work.found
    roots = {disk.id: work.tables[disk.slot].root() for disk in work.disks}
    if any(roots[disk.id] != disk.read_digest for disk in work.disks):
        text = f"the segment digests of {found.name} don't give the root that its source had"
        raise error(Code.BASE_MISMATCH, text, job=found.job, host=found.host)
    with work.context.database.transaction() as connection:
        point.get(connection, found.id, lock=True)
        known = rows(
            connection, "SELECT 1 FROM damage WHERE point_id = %s AND found_at >= %s", found.id, work.row.started_at
        )
        store.end(connection, work.row.id, "damaged" if known else "verified")
        work.context.metrics.verifications.labels(result="damaged" if known else "verified").inc()
        damage.forget(connection, found.id, before=work.row.started_at)
        if known:
            return
        # Damage of before is history now, where its event stays.
        run(connection, "UPDATE boot_point SET verified_at = now(), damaged_at = NULL WHERE id = %s", found.id)
        for disk in work.disks:
            query = "UPDATE boot_point_disk SET reread_digest = %s WHERE id = %s"
            run(connection, query, roots[disk.id], disk.id)
        text = f"{found.name} reads back as the source was"
        event.of_point(connection, found, "point_verified", text, actor="worker")
