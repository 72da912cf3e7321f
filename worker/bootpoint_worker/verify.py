"""The actor that proves a point: it reads the replica again, by segments, and compares with what the agent read.

::

    due, or asked for ─► verification (a row) ─► task ─► … ─► task ─► verified | damaged | failed
                                                  each: reference, then segments in order, progress every 2 s

It claims nothing on the host, for it changes nothing there; a reference keeps the point from being merged meanwhile,
and the row says who reads. Both run out with a dead worker, and another goes on after the last segment that was
recorded; from then on nothing of the first one's is written, should it only have been frozen.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_common.store import damage, event, outbox, point
from bootpoint_common.store import verification as store
from bootpoint_common.store.damage import Damage
from bootpoint_common.store.database import one_row, rows, run
from bootpoint_common.store.point import PointDisk
from bootpoint_common.units import format_size

from . import damaged
from .context import Context
from .reading import read_segment, read_segments
from .targets.base import Target
from .verifying import Later, Work, fence, holding, peace, take

_log = logging.getLogger(__name__)

#: Longest time of one task in seconds; the rest is a task of its own.
LONGEST = 600.0

#: Seconds between two records of how far it is: what a crash costs.
SAVE_SECONDS = 2.0

#: Segments of one record that differ at most; each is read a second time before anybody is told.
SUSPECTS = 64

#: Seconds until a planned verification asks a host again that didn't answer.
HOST_SECONDS = 300.0


def verify(context: Context, point_id: UUID) -> None:
    """Go on with the verification of a point that was asked for, for a while; nothing where somebody else does."""
    work = take(context, point_id, end=time.monotonic() + LONGEST)
    if work is None:
        return
    try:
        _work(work)
    except Fenced:
        _log.info("another worker goes on with the verification", extra={"verification": str(work.row.id)})


def _work(work: Work) -> None:
    ended: Later | BootpointError | None = None
    with holding(work):
        try:
            _read(work)
        except (Later, BootpointError) as why:
            ended = why
    # Not before it is let go: the next task would find it held, and end.
    if isinstance(ended, Later):
        _put_off(work, ended)
    elif ended is not None:
        _failed(work, ended)


# --- reading


def _read(work: Work) -> None:
    """Read every disk from where the last task ended, and say how it came out.

    Raises:
        Later: It goes on in another task.
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
        except Later:
            # What is known to be damaged is said now, however long the rest takes.
            work.unsaved_bytes += damaged.report(work.context, target, work.replica, work.found)
            raise
        work.unsaved_bytes += damaged.report(work.context, target, work.replica, work.found)
    _finish(work)


def _disk(work: Work, target: Target, disk: PointDisk) -> None:
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


def _save(work: Work, target: Target, disk: PointDisk, upto: int, suspects: list[int]) -> None:
    """Record how far the disk is, and what is damaged for certain before there.

    Raises:
        Later: The time, the day's bytes or the peace is over.
    """
    with work.context.database.transaction() as connection:
        before = peace(connection, work)
    found = _confirmed(work, target, disk, suspects) if suspects else []
    with work.context.database.transaction() as connection:
        point.get(connection, work.found.id, lock=True)
        fence(connection, work)
        if found and peace(connection, work) != before:
            raise Later  # read while layers were being merged, it is no proof
        damage.keep(connection, found)
        run(connection, "UPDATE boot_point_disk SET verified_segments = %s WHERE id = %s", upto, disk.id)
    _look(work)
    if time.monotonic() > work.end and not _complete(work, disk, upto):
        raise Later


def _complete(work: Work, disk: PointDisk, upto: int) -> bool:
    return disk.id == work.disks[-1].id and upto >= len(work.tables[disk.slot])


def _confirmed(work: Work, target: Target, disk: PointDisk, suspects: list[int]) -> list[Damage]:
    """Read segments that differ once more, through a reader of their own: a slip on the way is no damage."""
    table, found = work.tables[disk.slot], []
    with closing(target.open_reader(work.replica, work.found.id, disk.slot)) as reader:
        for number in suspects:
            read = read_segment(reader, number)
            work.unsaved_bytes += read.read_bytes
            if read.digest != table[number]:
                found.append(Damage(work.found.id, disk.slot, number))
    return found


def _look(work: Work) -> None:
    """Count what was read, and see whether the work may go on.

    Raises:
        Later: It may not, for now.
    """
    with work.context.database.transaction() as connection:
        row = store.unfinished(connection, work.found.id)
        used = store.spend(connection, work.host.id, work.unsaved_bytes)
    work.unsaved_bytes = 0
    with work.context.database.transaction() as connection:
        peace(connection, work)
    if work.context.stopping.is_set():
        raise Later
    if row is not None and row.budgeted and used >= store.budget_of(work.host.settings):
        raise Later("budget", None)


# --- how a task ends


def _put_off(work: Work, later: Later) -> None:
    """Let the verification go on later, and say so where people have to wait a day for it."""
    with work.context.database.transaction() as connection:
        fence(connection, work)
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


def _failed(work: Work, problem: BootpointError) -> None:
    """Say what the host answered; a planned verification goes on where it was once the host is back."""
    with work.context.database.transaction() as connection:
        fence(connection, work)
        row = store.unfinished(connection, work.found.id)
        store.spend(connection, work.host.id, work.unsaved_bytes)
        if problem.retryable and row is not None and row.budgeted:
            if not store.wait(connection, row.id, str(problem.code), seconds=HOST_SECONDS):
                return
            text = f"{work.found.name}: its verification waits, and is tried again: {problem.message}"
            kind = "verify_waits"
        else:
            store.end(connection, work.row.id, "failed", problem)
            text, kind = f"{work.found.name} could not be verified: {problem.message}", "verify_failed"
        event.of_point(connection, work.found, kind, text, actor="worker", code=str(problem.code))


def _finish(work: Work) -> None:
    """Say how it came out: damaged where any of its tasks found something."""
    found = work.found
    roots = {disk.id: work.tables[disk.slot].root() for disk in work.disks}
    if any(roots[disk.id] != disk.read_digest for disk in work.disks):
        text = f"the segment digests of {found.name} don't give the root that its source had"
        raise error(Code.BASE_MISMATCH, text, job=found.job, host=found.host)
    with work.context.database.transaction() as connection:
        point.get(connection, found.id, lock=True)
        fence(connection, work)
        known = rows(
            connection, "SELECT 1 FROM damage WHERE point_id = %s AND found_at >= %s", found.id, work.row.started_at
        )
        store.end(connection, work.row.id, "damaged" if known else "verified")
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
