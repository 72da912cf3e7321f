"""The actor that takes over from a host what the database lacks: a replica's points, each proven by reading it.

The head comes first, and then the next run is an increment again: the agent's base has the head's id and root. The
others follow, oldest first. A point is written in one transaction once all of it was read and gave the root in the
journal; what was read before a crash isn't read again. The replica's claim keeps runs and merges away meanwhile.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.digest import SegmentTable, segment_count
from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_common.store import adoption, event, host, kept, outbox, segment, verification
from bootpoint_common.store.adoption import AdoptedDisk, AdoptedPoint, Adoption
from bootpoint_common.store.claim import Claim, check, claim
from bootpoint_common.store.database import Connection, one, rows, run
from bootpoint_common.store.host import Host

from .context import Context
from .reading import read_segments
from .replica import replica_of
from .targets.base import Target
from .targets.journal import Journal, JournalDisk, JournalPoint
from .targets.replica import Replica

_log = logging.getLogger(__name__)

#: Longest time of one task in seconds; the rest is a task of its own.
LONGEST = 600.0

#: Seconds between two records of what was read.
SAVE_SECONDS = 2.0

#: Seconds until a replica that somebody works on is looked at again, and until a host that failed is.
BUSY_SECONDS, HOST_SECONDS = 5.0, 30.0


class _TimeOver(Exception):  # noqa: N818 - the end of a task, not an error
    """The rest is another task's."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What one task works with."""

    context: Context
    held: Claim
    row: Adoption
    host: Host
    replica: Replica
    journal: Journal
    end: float


def adopt(context: Context, adoption_id: UUID) -> None:
    """Go on with an adoption for a while; nothing where it has ended."""
    with context.database.transaction() as connection:
        row = adoption.get(connection, adoption_id)
        if row is None or row.state != "asked":
            return
        adoption.taken(connection, adoption_id)
        on = host.get(connection, row.host_id)
        busy = one(
            connection,
            "SELECT 1 FROM boot_point WHERE replica_id = %s AND state NOT IN ('committed', 'aborted')",
            row.replica_id,
        )
    held = None if busy is not None else claim(context.database, "replica", row.replica_id, renewing=context.renewing)
    if held is None:
        _again(context, on, row, BUSY_SECONDS)
        return
    with held:
        try:
            _adopt(context, held, row, on)
        except Fenced:
            _log.info("adoption ended: somebody else goes on", extra={"replica": str(row.replica_id)})
        except _TimeOver:
            _again(context, on, row, 0.0)
        except BootpointError as problem:
            _failed(context, on, row, problem)


def _again(context: Context, on: Host, row: Adoption, seconds: float) -> None:
    with context.database.transaction() as connection:
        outbox.task(connection, on.pool, "adopt", row.id, delay=seconds)


def _failed(context: Context, on: Host, row: Adoption, problem: BootpointError) -> None:
    _log.warning("adoption failed", extra={"replica": str(row.replica_id), "cause": problem.message})
    if problem.retryable and problem.code is not Code.TARGET_CHECK_FAILED:
        _again(context, on, row, HOST_SECONDS)
        return
    with context.database.transaction() as connection:
        adoption.end(connection, row.id, problem)
        adoption.thaw(connection, row.replica_id)
        event.record(
            connection, "adoption_failed", problem.message, actor=row.requested_by, job=problem.job, host=on.name,
            code=str(problem.code),
        )  # fmt: skip


def _adopt(context: Context, held: Claim, row: Adoption, on: Host) -> None:
    with context.database.transaction() as connection:
        check(connection, "replica", row.replica_id, held.number)
        replica = replica_of(connection, row.replica_id)
        adoption.freeze(connection, row.replica_id)
    with context.sessions.use(on) as target:
        journal = target.inspect(replica)
        if journal is None or journal.head is None:
            text = f"host {on.name} no longer has points of {replica.vm_name}"
            raise error(Code.NO_SUCH_POINT, text, job=replica.job, host=on.name, key="vm", value=replica.vm_name)
        work = _Work(context, held, row, on, replica, journal, time.monotonic() + LONGEST)
        there = {known.point_id: known for known in journal.points}
        for point_id, sequence in row.plan:
            if point_id in there and not _known(work, point_id):
                _take_over(work, target, there[point_id], sequence)
    with context.database.transaction() as connection:
        check(connection, "replica", row.replica_id, held.number)
        _settle(connection, work)
        adoption.thaw(connection, row.replica_id)
        adoption.end(connection, row.id)


def _known(work: _Work, point_id: UUID) -> bool:
    with work.context.database.transaction() as connection:
        query = "SELECT 1 FROM boot_point WHERE id = %s AND state = 'committed' AND consolidated_at IS NULL"
        found = one(connection, query, point_id)
    return found is not None


def _take_over(work: _Work, target: Target, there: JournalPoint, sequence: int) -> None:
    """Read a point whole, and write it as committed if it is what its journal says."""
    read = {disk.slot: _read(work, target, there, disk) for disk in there.disks}
    at = [known.point_id for known in work.journal.points].index(there.point_id)
    below = work.journal.points[at - 1] if at else None
    is_head = there.point_id == work.journal.points[-1].point_id
    adopted = AdoptedPoint(
        id=there.point_id,
        base=None if below is None else below.point_id,
        name=there.name,
        sequence=sequence,
        instant=there.instant,
        kind=there.kind,
        consistency=there.consistency,
        epoch=there.epoch,
        disks=tuple(
            AdoptedDisk(d.slot, d.size_bytes, d.identity, d.stored_bytes, bytes.fromhex(d.root)) for d in there.disks
        ),
    )
    with work.context.database.transaction() as connection:
        check(connection, "replica", work.row.replica_id, work.held.number)
        digests = {
            disk.slot: dict(enumerate(read[disk.slot]))
            # The head has all its digests of its own: points below it may still be unknown.
            if is_head
            else _own(connection, work, below, disk, read[disk.slot])
            for disk in there.disks
        }
        number = adoption.write(connection, work.row.replica_id, adopted, digests)
        run(
            connection,
            "UPDATE adoption SET done = done || to_jsonb(%s::text) WHERE id = %s",
            there.name,
            work.row.id,
        )
        run(connection, "DELETE FROM adoption_segment WHERE adoption_id = %s", work.row.id)
        if is_head:
            _settle(connection, work)
        event.record(
            connection,
            "point_adopted",
            f"{there.name} was taken over from {work.host.name}: it reads back as its journal says",
            actor=work.row.requested_by,
            job=work.replica.job,
            run_number=number,
            point=there.name,
            host=work.host.name,
        )


def _own(
    connection: Connection, work: _Work, below: JournalPoint | None, disk: JournalDisk, read: list[bytes]
) -> dict[int, bytes]:
    """Return the digests that a point brings over the one below it."""
    row = None
    if below is not None:
        query = (
            "SELECT p.sequence, d.size_bytes FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
            " WHERE p.id = %s AND d.slot = %s"
        )
        row = one(connection, query, below.point_id, disk.slot)
    table = None
    if row is not None:
        table = segment.segments(connection, work.row.replica_id, disk.slot, row["size_bytes"], upto=row["sequence"])
    return adoption.table_below(dict(enumerate(read)), disk.size_bytes, table)


def _read(work: _Work, target: Target, there: JournalPoint, disk: JournalDisk) -> list[bytes]:
    """Read a disk's segment digests from where the last task ended, and compare with the journal's root.

    Raises:
        _TimeOver: The task's time is over.
        RetryableError: ``target_check_failed``: it isn't what the journal says.
    """
    with work.context.database.transaction() as connection:
        digests = adoption.read_so_far(connection, work.row.id, there.point_id, disk.slot)
    unsaved: dict[int, bytes] = {}
    save_at = time.monotonic() + SAVE_SECONDS
    with (
        closing(target.open_reader(work.replica, there.point_id, disk.slot)) as reader,
        closing(read_segments(reader, len(digests), segment_count(disk.size_bytes))) as segments,
    ):
        for read in segments:
            digests.append(read.digest)
            unsaved[read.number] = read.digest
            if time.monotonic() >= save_at or time.monotonic() > work.end or work.context.stopping.is_set():
                _save(work, there, disk, unsaved)
                save_at = time.monotonic() + SAVE_SECONDS
    _save(work, there, disk, unsaved, last=True)
    if SegmentTable(disk.size_bytes, digests).root().hex() != disk.root:
        text = (
            f"disk {disk.slot} of {there.name} on {work.host.name} doesn't read as its journal says: it is damaged,"
            " and is not taken over"
        )
        raise error(Code.TARGET_CHECK_FAILED, text, job=work.replica.job, host=work.host.name, key="disk")
    return digests


def _save(
    work: _Work, there: JournalPoint, disk: JournalDisk, unsaved: dict[int, bytes], *, last: bool = False
) -> None:
    with work.context.database.transaction() as connection:
        check(connection, "replica", work.row.replica_id, work.held.number)
        adoption.keep_read(connection, work.row.id, there.point_id, disk.slot, unsaved)
        adoption.taken(connection, work.row.id)
    unsaved.clear()
    work.held.progress()
    if not last and (time.monotonic() > work.end or work.context.stopping.is_set()):
        raise _TimeOver


def _settle(connection: Connection, work: _Work) -> None:
    """Make the host's newest point the head, and take points off the list that the host doesn't have."""
    head = work.journal.points[-1]
    known = rows(
        connection,
        "SELECT id, name FROM boot_point WHERE replica_id = %s AND state = 'committed' AND consolidated_at IS NULL"
        " ORDER BY sequence",
        work.row.replica_id,
    )
    if head.point_id not in {row["id"] for row in known}:
        return
    moved = run(
        connection,
        "UPDATE replica SET head = %s, epoch = greatest(epoch, %s),"
        " state = CASE WHEN state = 'broken' THEN 'ok' ELSE state END"
        " WHERE id = %s AND head IS DISTINCT FROM %s",
        head.point_id,
        work.journal.epoch,
        work.row.replica_id,
        head.point_id,
    )
    there = {point.point_id for point in work.journal.points}
    for point in work.journal.points:
        for disk in point.disks:  # a merge that the database forgot gave its successor other files
            query = "UPDATE boot_point_disk SET layer = %s, stored_bytes = %s WHERE point_id = %s AND slot = %s"
            run(connection, query, disk.identity, disk.stored_bytes, point.point_id, disk.slot)
    for number, row in enumerate(known):
        if row["id"] in there:
            continue
        # It was merged into the next one that is there, or the host went back, and what it brought is gone.
        kept.hand_over(connection, row["id"], next((k["id"] for k in known[number:] if k["id"] in there), None))
        run(connection, "UPDATE boot_point SET consolidated_at = now() WHERE id = %s", row["id"])
        text = f"{row['name']} is no longer listed: {work.host.name} has no such point"
        event.record(
            connection, "point_missing", text, actor=work.row.requested_by, job=work.replica.job, point=row["name"],
            host=work.host.name, code=str(Code.LAYER_LOST),
        )  # fmt: skip
    if moved and head.point_id not in {point_id for point_id, _ in work.row.plan}:
        # The host went back to a point that the database knew: nobody has read it since.
        verification.ask(connection, head.point_id, requested_by=work.row.requested_by, budgeted=False)
