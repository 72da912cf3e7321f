"""The actor that applies one disk's stream: it takes the claim, fences, runs a slice, and sees to what comes next."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_common.store import agent, ending, event, host, outbox, point, segment
from bootpoint_common.store.claim import Claim, claim
from bootpoint_common.store.database import Connection, one, run
from bootpoint_common.store.host import Host
from bootpoint_common.store.point import Point, PointDisk, State
from bootpoint_common.stream.carrier import CarrierLost

from .arrival import GAP_SECONDS, PREFETCH
from .commit import commit
from .context import Context
from .opening import limit_of
from .pace import Pace
from .replica import replica_of
from .slice import Slice, run_slice
from .step import delete_streams
from .targets.base import Target
from .targets.layer import Layer

_log = logging.getLogger(__name__)

#: Longest slice in seconds, even while nobody waits.
LONGEST_SLICE = 20 * 60.0

#: Longest wait of an idle slice's successor in seconds; the agent's `more` cuts it short.
LONGEST_IDLE = 10.0

#: Slices in a row that may fail on the target before the point is given up.
MOST_FAILURES = 5

#: Failures of the target that a new slice may get over; any other gives the point up at once.
_PASSING = frozenset({Code.HOST_UNREACHABLE, Code.TARGET_WRITE_ERROR, Code.BUSY})


@dataclass(frozen=True, slots=True)
class Work:
    """What a slice of a disk's stream needs to know of its point, its host and its agent's keys."""

    found: Point
    disk: PointDisk
    host: Host
    keys: dict[int, bytes]


def replicate(context: Context, point_disk_id: UUID) -> None:
    """Run one slice of a disk's stream, if there is something in it and nobody else does."""
    work = look(context, point_disk_id)
    if work is None:
        return
    depth = context.carrier.depth(point_disk_id)
    if depth is None:
        _declare_again(context, work)
    elif not depth and work.disk.idle:
        # A broker that was killed may come back without what it was told last: with the queue, and without its binding
        # (RabbitMQ 3.10). Then the agent hears that there is no such stream, and nothing would ever come.
        context.carrier.bind_stream(work.found.agent, point_disk_id)
    if not depth:
        _wait(context, work, idle=work.disk.idle + 1, gap=depth is None)
        return
    held = claim(context.database, "boot_point_disk", point_disk_id, renewing=context.renewing)
    if held is None:
        return
    last = False
    with held:
        try:
            last = _slice(context, held, work)
        except Fenced:
            _log.info("slice ended: the claim is somebody else's", extra={"point_disk": str(point_disk_id)})
        except CarrierLost as lost:
            _log.info(
                "slice ended: the stream is out of reach", extra={"point_disk": str(point_disk_id), "cause": str(lost)}
            )
        except BootpointError as problem:
            failed(context, held, work, problem)
    if last:
        commit(context, work.found.id)


def look(context: Context, point_disk_id: UUID) -> Work | None:
    """Read what a slice needs; None where the disk's stream needs none any more."""
    with context.database.transaction() as connection:
        disk = point.disk(connection, point_disk_id)
        found = None if disk is None else point.get(connection, disk.point_id)
        if disk is None or found is None or found.state is not State.OPEN or disk.sealed_at is not None:
            return None
        run(connection, "UPDATE boot_point_disk SET enqueued_at = NULL WHERE id = %s", point_disk_id)
        source = agent.get(connection, found.agent)
        return Work(found, disk, host.get(connection, found.host_id), source.keys(context.vault))


def _declare_again(context: Context, work: Work) -> None:
    """Make a stream anew that somebody deleted.

    What the broker hadn't confirmed comes again by itself. What it had is a gap: the agent is asked for it in a while,
    unless something moves until then, and gives the run up (``stream_gap``) where it no longer holds it.
    """
    if look(context, work.disk.id) is None:
        return  # the point has ended, and its streams with it
    context.carrier.declare_stream(work.found.agent, work.disk.id, limit_of(work.disk))
    with context.database.transaction() as connection:
        current = point.get(connection, work.found.id, lock=True)
        if current is not None and current.state is State.OPEN:
            _log.warning("stream made anew: somebody deleted it", extra={"point_disk": str(work.disk.id)})
            text = f"the stream of disk {work.disk.slot} of {work.found.name} was deleted, and is made anew"
            event.of_point(connection, work.found, "stream_lost", text, actor="worker", code=str(Code.STREAM_GAP))
            return
        # It ended between the two: should the broker be lost now, the reaper deletes the stream.
        run(connection, "UPDATE boot_point_disk SET stream_deleted_at = NULL WHERE id = %s", work.disk.id)
    delete_streams(context, [work.disk])


def _slice(context: Context, held: Claim, work: Work) -> bool:
    """Run the slice under the claim; returns whether it sealed the whole point."""
    with ExitStack() as stack:
        target = stack.enter_context(context.sessions.use(work.host))
        current = slice_for(context, held, work, target, stack)
        current.send_credit()
        run_slice(
            current,
            keep_going=_Pulse(context, held, current),
            seconds=_length(context, work, target),
            idle_seconds=context.idle_seconds,
        )
    if not current.done:
        _wait(context, work, idle=int(current.in_gap), gap=current.in_gap, number=held.number)
    return current.sealed_point


def slice_for(context: Context, held: Claim, work: Work, target: Target, stack: ExitStack) -> Slice:
    """Fence, open the writer on the recorded layer, and join both with the stream."""
    with context.database.transaction() as connection:
        disk = point.disk(connection, work.disk.id)
        # What was read before the claim may be old: the slice that held it until now may have given the point up.
        current = point.get(connection, work.found.id)
        replica = replica_of(connection, work.found.replica_id)
        samples = segment.samples(connection, work.disk.id)
    if disk is None or disk.writer != held.number or current is None or current.state is not State.OPEN:
        raise Fenced
    if disk.layer is None:
        raise error(Code.LAYER_LOST, f"disk {disk.slot} of {work.found.name} has no layer", host=work.found.host)
    layer = Layer(point_id=work.found.id, slot=disk.slot, identity=disk.layer)
    writer = stack.enter_context(closing(target.open_writer(replica, layer, held.number)))
    consumer = stack.enter_context(closing(context.carrier.consume(disk.id, PREFETCH)))
    return Slice(
        context,
        work.found,
        disk,
        number=held.number,
        writer=writer,
        consumer=consumer,
        keys=work.keys,
        known_samples=samples,
        pace=Pace(context, work.found.run_uid, held) if target.over_network else None,
    )


class _Pulse:
    """Asked between steps: is the claim still ours, is there progress, are we to stop?"""

    def __init__(self, context: Context, held: Claim, current: Slice) -> None:
        self._context, self._held, self._current = context, held, current
        self._watermark = current.watermark

    def __call__(self) -> bool:
        self._held.assert_held()
        if self._current.watermark != self._watermark:
            self._watermark = self._current.watermark
            self._held.progress()
        return not self._context.stopping.is_set()


def _length(context: Context, work: Work, target: Target) -> float:
    with context.database.transaction() as connection:
        waiting = one(
            connection,
            "SELECT 1 FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
            " JOIN replica y ON y.id = p.replica_id WHERE p.state = 'open' AND y.pool = %s"
            " AND d.sealed_at IS NULL AND d.writer_until < now() AND d.idle = 0 LIMIT 1",
            work.found.pool,
        )
    return target.slice_seconds if waiting else LONGEST_SLICE


def _wait(context: Context, work: Work, *, idle: int, gap: bool = False, number: int | None = None) -> None:
    """Enqueue the successor: at once after a slice that did something, later and later while the stream is empty.

    A gap outlives its slice, which ends soon because nothing comes that could be applied: the row keeps since when.
    """
    delay = min(2.0 ** (idle - 1), LONGEST_IDLE) if idle else 0.0
    with context.database.transaction() as connection:
        row = one(
            connection,
            "UPDATE boot_point_disk SET idle = %s, gap_since = CASE WHEN %s THEN coalesce(gap_since, now())"
            " ELSE gap_since END WHERE id = %s AND sealed_at IS NULL"
            " RETURNING sequence, gap_since < now() - make_interval(secs => %s)"
            # What another slice has in hand isn't missing.
            " AND (writer_until < now() OR writer = %s) AS overdue",
            idle,
            gap,
            work.disk.id,
            GAP_SECONDS,
            number,
        )
        if row is not None and row["overdue"]:
            # Once: who still finds a gap sets it again.
            run(connection, "UPDATE boot_point_disk SET gap_since = NULL WHERE id = %s", work.disk.id)
            again = message.ResendFrom(point_disk_id=work.disk.id, sequence=row["sequence"])
            outbox.tell(connection, work.found.agent, work.disk.id, again)
        outbox.task(connection, work.found.pool, "replicate", work.disk.id, delay=delay)


def failed(context: Context, held: Claim, work: Work, problem: BootpointError) -> None:
    """Try again a few times where that may help; else give the point up. Only while the claim is ours."""
    _log.warning(
        "slice failed", extra={"point_disk": str(work.disk.id), "code": str(problem.code), "cause": problem.message}
    )
    with context.database.transaction() as connection:
        one(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", work.found.id)
        row = one(
            connection,
            "UPDATE boot_point_disk SET failures = failures + 1 WHERE id = %s AND writer = %s RETURNING failures",
            work.disk.id,
            held.number,
        )
        if row is None:
            return
        # A host that is away may be booting: its layer is intact, and the reaper ends what makes no progress at all.
        patient = problem.code is Code.HOST_UNREACHABLE or row["failures"] < MOST_FAILURES
        if problem.code in _PASSING and patient:
            delay = 2.0 ** min(row["failures"], MOST_FAILURES)
            outbox.task(connection, work.found.pool, "replicate", work.disk.id, delay=delay)
            return
        _give_up(connection, work, problem)


def _give_up(connection: Connection, work: Work, problem: BootpointError) -> None:
    context_of = f"disk {work.disk.slot} of {work.found.name}: {problem.message}"
    told = error(
        problem.code,
        context_of,
        key=problem.key,
        value=problem.value,
        hint=problem.hint,
        job=work.found.job,
        host=work.found.host,
    )
    ending.give_up(connection, work.found.id, told)


__all__ = ["replicate"]
