"""The actor that opens an offered point: base checked, layer made above the head, streams declared, agent told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, Fenced
from bootpoint_common.store import damage, ending, event, host, outbox, point, segment, transition
from bootpoint_common.store.claim import Claim, check
from bootpoint_common.store.database import Connection, one
from bootpoint_common.store.point import LAST_BREATH_WINDOW, Point, PointDisk, State
from bootpoint_common.stream.carrier import STREAM_LIMIT_WINDOWS

from .context import Context
from .replica import keep_definition, replica_of
from .step import find, note_wait, under_claim
from .targets.base import Target
from .targets.layer import Layer, OpenDisk, OpenPoint
from .targets.replica import Replica

_log = logging.getLogger(__name__)

#: Failures that the same point may get over; any other gives it up.
_PASSING = frozenset({Code.HOST_UNREACHABLE, Code.BUSY, Code.POINT_OPEN})


def open_point(context: Context, point_id: UUID) -> None:
    """Open an offered point, or tell the agent once more about an open one."""
    found = find(context, point_id, State.OFFERED, State.OPEN)
    if found is None:
        return
    if found.state is State.OPEN:
        with context.database.transaction() as connection:
            current = point.get(connection, point_id, lock=True)
            if current is not None and current.state is State.OPEN:
                tell_ready(connection, current)
        return
    under_claim(
        context,
        found,
        "open",
        lambda held: _open(context, held, found),
        lambda held, problem: _failed(context, held, found, problem),
    )


def _open(context: Context, held: Claim, found: Point) -> None:
    with context.database.transaction() as connection:
        disks = point.disks(connection, found.id)
        replica = replica_of(connection, found.replica_id)
        on = host.get(connection, found.host_id)
    wanted = OpenPoint(
        point_id=found.id,
        base_point_id=found.base,
        epoch=found.epoch,
        disks=tuple(OpenDisk(disk.slot, disk.id, disk.size_bytes) for disk in disks),
    )
    sizes = {disk.slot: disk.size_bytes for disk in disks}
    grown = tuple(replace(disk, size_bytes=sizes.get(disk.slot, disk.size_bytes)) for disk in replica.disks)
    replica = replace(replica, disks=grown)
    with context.sessions.use(on) as target:
        target.create(replica)
        _clear_leftover(context, target, replica, found)
        layers = target.open(replica, wanted)
    for disk in disks:
        context.carrier.declare_stream(found.agent, disk.id, limit_of(disk))
    with context.database.transaction() as connection:
        _opened(connection, held, found, layers)
        # After it: the point is locked before its replica.
        keep_definition(connection, replica)


def _clear_leftover(context: Context, target: Target, replica: Replica, found: Point) -> None:
    """Throw away what a frozen worker opened on the host after its point had been aborted.

    The replica's claim is ours and no other point of it is unfinished, so whatever is open there is nobody's.
    """
    journal = target.inspect(replica)
    if journal is None or journal.open_point_id in (None, found.id):
        return
    with context.database.transaction() as connection:
        other = point.get(connection, journal.open_point_id)
    if other is None or other.state is State.ABORTED:
        _log.warning("leftover layer thrown away", extra={"point": str(journal.open_point_id)})
        target.abort(replica, journal.open_point_id, journal.open_layers)


def limit_of(disk: PointDisk) -> int:
    """Return the bytes that a disk's stream may hold at most."""
    return STREAM_LIMIT_WINDOWS * max(disk.window_bytes, LAST_BREATH_WINDOW if disk.window_bytes > point.WINDOW else 0)


def _opened(connection: Connection, held: Claim, found: Point, layers: tuple[Layer, ...]) -> None:
    current = point.get(connection, found.id, lock=True)
    check(connection, "replica", found.replica_id, held.number)
    if current is None or current.state is not State.OFFERED:
        return
    head = point.head_base(connection, found.replica_id)
    reason = None
    if head is None:
        reason = "first"
    elif found.offered_base != head:
        reason = "base_lost"
        text = "the agent's base isn't the replica's head: the difference is worked out by segment digests"
        event.of_point(
            connection,
            found,
            "base_lost",
            text,
            actor="worker",
        )
    if not transition.opened(connection, current, {layer.slot: layer.identity for layer in layers}, reason=reason):
        raise Fenced
    tell_ready(connection, current)
    disks = point.disks(connection, found.id)
    if head is not None:
        _tell_growth(connection, found, {disk.slot: disk.size_bytes for disk in head.disks}, disks)
    for disk in disks:
        outbox.task(connection, found.pool, "replicate", disk.id, delay=1.0)


def _tell_growth(connection: Connection, found: Point, before: Mapping[str, int], disks: Sequence[PointDisk]) -> None:
    """Say of each disk that is larger at the source than in the head that points differ from now on."""
    for disk in disks:
        size = before.get(disk.slot, disk.size_bytes)
        if disk.size_bytes > size:
            text = f"disk {disk.slot} grew from {size} to {disk.size_bytes} bytes; older points keep the smaller disk"
            details = {"disk": disk.slot, "size_bytes": disk.size_bytes, "before_bytes": size}
            event.of_point(connection, found, "disk_grew", text, actor="worker", details=details)


def tell_ready(connection: Connection, found: Point) -> None:
    """Enqueue `Ready` for an open point: its streams, and what the layer stands on."""
    head = point.head_base(connection, found.replica_id)
    foreign = head is not None and found.offered_base != head
    sizes = {} if head is None else {disk.slot: disk.size_bytes for disk in head.disks}
    row = (
        one(connection, "SELECT sequence FROM boot_point WHERE id = %s", found.base) if found.base is not None else None
    )
    resend = damage.head_segments(connection, found.replica_id) if found.base is not None else {}
    ready = []
    for disk in point.disks(connection, found.id):
        segments = None
        if foreign and row is not None and disk.slot in sizes:
            table = segment.segments(connection, found.replica_id, disk.slot, sizes[disk.slot], upto=row["sequence"])
            segments = b"".join(table)
        until = disk.watermark_bytes + disk.window_bytes
        ready.append(
            message.ReadyDisk(
                slot=disk.slot,
                point_disk_id=disk.id,
                may_send_until=until,
                head_segments=segments,
                resend=message.segment_bits(resend.get(disk.slot, ())),
            )
        )
    body = message.Ready(
        run=found.run_uid, replica_id=found.replica_id, point_id=found.id, name=found.name, head=head, disks=ready
    )
    outbox.tell(connection, found.agent, found.id, body)


def _failed(context: Context, held: Claim, found: Point, problem: BootpointError) -> None:
    if problem.code in _PASSING:
        # The reaper enqueues it again; a point that stays like this is given up as stalled.
        note_wait(context, found, "its opening", problem)
        return
    with context.database.transaction() as connection:
        point.get(connection, found.id, lock=True)
        check(connection, "replica", found.replica_id, held.number)
        ending.give_up(connection, found.id, problem)
