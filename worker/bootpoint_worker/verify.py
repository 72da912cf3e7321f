"""The actor that proves a point: it reads the replica again, by segments, and compares with what the agent read.

It holds no claim, for it changes nothing. It can be ended anywhere and goes on from the last segment that matched.
"""

from __future__ import annotations

import logging
import time
from uuid import UUID

from bootpoint_common.digest import SEGMENT, SegmentTable, grain_digests, segment_digest, segment_grains, zero_segment
from bootpoint_common.errors import BootpointError
from bootpoint_common.store import event, host, outbox, point, segment
from bootpoint_common.store.database import one, run
from bootpoint_common.store.point import Point, PointDisk, State
from bootpoint_common.units import MiB

from .context import Context
from .replica import replica_of
from .targets.base import LayerReader

_log = logging.getLogger(__name__)

#: Longest time of one task in seconds; the rest is a task of its own.
LONGEST = 600.0


def verify(context: Context, point_id: UUID) -> None:
    """Verify a committed point, or a part of it, and record what was found."""
    with context.database.transaction() as connection:
        found = point.get(connection, point_id)
        if found is None or found.state is not State.COMMITTED:
            return
        disks = point.disks(connection, point_id)
        tables = {
            d.slot: segment.segments(connection, found.replica_id, d.slot, d.size_bytes, upto=found.sequence)
            for d in disks
        }
        replica = replica_of(connection, found.replica_id)
        on = host.get(connection, found.host_id)
    end = time.monotonic() + LONGEST
    damage: list[str] = []
    try:
        with context.sessions.use(on) as target:
            for disk in disks:
                reader = target.open_reader(replica, point_id, disk.slot)
                try:
                    finished = _disk(context, disk, tables[disk.slot], reader, damage=damage, end=end)
                finally:
                    reader.close()
                if not finished and not damage:
                    _go_on(context, found)
                    return
                if not finished:
                    break  # what is known to be damaged is said now: this task may not take longer
    except BootpointError as problem:
        _record_failure(context, found, problem)
        return
    _record(context, found, damage)


def _disk(
    context: Context, disk: PointDisk, table: SegmentTable, reader: LayerReader, *, damage: list[str], end: float
) -> bool:
    """Compare one disk from where the last task ended; False when the time is over."""
    with context.database.transaction() as connection:
        row = one(connection, "SELECT verified_segments FROM boot_point_disk WHERE id = %s", disk.id)
    first = 0 if row is None else row["verified_segments"]
    if first >= len(table):
        return True  # by an earlier task of this verification; `_record` lets the next one begin anew
    last = first
    for number in range(first, len(table)):
        if _read_segment(reader, number, disk.size_bytes) != table[number]:
            upto = min((number + 1) * SEGMENT, disk.size_bytes)
            damage.append(f"disk {disk.slot} segment {number} (bytes {number * SEGMENT} to {upto})")
        last = number + 1
        if time.monotonic() > end:
            break
    root = table.root() if last == len(table) and not damage else None
    with context.database.transaction() as connection:
        run(
            connection,
            "UPDATE boot_point_disk SET verified_segments = %s, reread_digest = %s WHERE id = %s",
            last,
            root,
            disk.id,
        )
    return last == len(table)


def _read_segment(reader: LayerReader, number: int, size_bytes: int) -> bytes:
    """Return the digest of a segment as the replica reads; ranges that read as zero for certain aren't read."""
    start = number * SEGMENT
    length = min(SEGMENT, size_bytes - start)
    for _offset, size, zero in reader.extents(start, length):
        if zero and size == length:
            return zero_segment(segment_grains(size_bytes, number))
    parts = (reader.read(offset, min(MiB, start + length - offset)) for offset in range(start, start + length, MiB))
    return segment_digest(b"".join(grain_digests(part) for part in parts))


def _go_on(context: Context, found: Point) -> None:
    with context.database.transaction() as connection:
        outbox.task(connection, found.pool, "verify", found.id)


def _record(context: Context, found: Point, damage: list[str]) -> None:
    context.metrics.verifications.labels(result="damaged" if damage else "verified").inc()
    text = (
        f"{found.name} is damaged: {'; '.join(damage[:10])}" if damage else f"{found.name} reads back as the source was"
    )
    with context.database.transaction() as connection:
        column = "damaged_at" if damage else "verified_at"
        run(connection, f"UPDATE boot_point SET {column} = now() WHERE id = %s", found.id)
        run(connection, "UPDATE boot_point_disk SET verified_segments = 0 WHERE point_id = %s", found.id)
        event.of_point(
            connection,
            found,
            "point_damaged" if damage else "point_verified",
            text,
            actor="worker",
            details={"damage": damage},
        )


def _record_failure(context: Context, found: Point, problem: BootpointError) -> None:
    context.metrics.verifications.labels(result="failed").inc()
    with context.database.transaction() as connection:
        event.of_point(
            connection,
            found,
            "verify_failed",
            f"{found.name} could not be verified: {problem.message}",
            actor="worker",
            code=str(problem.code),
        )
