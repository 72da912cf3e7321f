"""A slice: some time of one worker's work on one disk of an open point.

::

    stream ──► order ──► open ──► write ──► … ──► flush ──► record ──► ack ──► credit
               (drop what was seen,                   target    watermark   broker   agent
                hold what lies beyond a gap)

The order of the last four is the promise: what is acked was recorded, what was recorded survives a power cut of the
target. A slice that dies anywhere loses nothing: the broker delivers again from the last ack, the next slice goes on
from the recorded watermark, and what lies between is written again with the same effect.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from bootpoint_common import message
from bootpoint_common.bundle import Bundle, Opener, Place, decode_seal, decode_segments, peek
from bootpoint_common.cipher import Reject
from bootpoint_common.errors import BootpointError
from bootpoint_common.frame import Kind
from bootpoint_common.store import event, watermark
from bootpoint_common.store.database import Connection
from bootpoint_common.store.point import Point, PointDisk
from bootpoint_common.store.watermark import SealRecord, Watermark
from bootpoint_common.stream.carrier import Consumer, Delivery

from . import messenger
from .arrival import Arrivals
from .context import Context
from .pace import Pace
from .sample import Sampler
from .targets.base import LayerWriter

_log = logging.getLogger(__name__)

#: Most seconds between two records while bundles come.
RECORD_SECONDS = 2.0

#: Share of the window after which the watermark is recorded: a batch as large as the window would make the agent
#: wait for each flush (measured: 168 MiB/s became 24).
RECORD_SHARE = 4

#: Longest wait for a bundle in seconds, so that a stop or a lost claim is noticed.
STEP_SECONDS = 0.2

#: Seconds after which a stream without a bundle counts as empty. A worker that is faster than its agent finds nothing
#: after each bundle: a flush, a transaction and a credit for each would cost more than the bundle.
EMPTY_SECONDS = 0.1

#: Reasons of a refusal that anybody could have caused who reached the queue: such a bundle is dropped and counted.
#: Any other bundle was made with the agent's key, so the agent itself is at fault and the point is given up.
_FORGED = frozenset(
    {Reject.TRUNCATED, Reject.OVERSIZED, Reject.VERSION, Reject.DIRECTION, Reject.KEY, Reject.POINT, Reject.ALTERED}
)


class Slice:
    """One claim's work on one stream; used by one thread, step by step.

    Args:
        context: What the worker works with.
        found: The point.
        disk: Its disk, as recorded when the claim was taken.
        number: The claim's number.
        writer: The layer's writer, which has fenced all earlier ones.
        consumer: The stream's consumer.
        keys: The agent's keys.
        pace: What the job may send to its hosts; None for no limit.
        clock: Monotonic seconds.

    Attributes:
        sealed_point: Whether this slice recorded the last disk's seal.
        done: Whether the disk's stream is applied to its end.
    """

    def __init__(
        self,
        context: Context,
        found: Point,
        disk: PointDisk,
        *,
        number: int,
        writer: LayerWriter,
        consumer: Consumer,
        keys: dict[int, bytes],
        known_samples: dict[int, bytes],
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sealed_point = False
        self.done = False
        self._context = context
        self._point = found
        self._disk = disk
        self._number = number
        self._writer = writer
        self._consumer = consumer
        self._pace = pace
        self._clock = clock
        self._opener = Opener(
            keys,
            found.id,
            disk.id,
            disk.size_bytes,
            sequence=disk.sequence,
            offset=disk.watermark_bytes,
            chain=disk.chain_digest,
        )
        self._sampler = Sampler(found.id, known_samples)
        self._mark = self._fresh_mark(disk.applied_bytes)
        self._recorded_offset = disk.watermark_bytes
        self._recorded_at = clock()
        self._arrivals = Arrivals(clock)
        self._seal: SealRecord | None = None

    @property
    def watermark(self) -> int:
        """Cumulative encrypted bytes that are recorded."""
        return self._recorded_offset

    def send_credit(self) -> None:
        """Tell the agent how far it may go; it takes the largest, and asks when none came."""
        until = self._recorded_offset + self._disk.window_bytes
        messenger.send_lossy(
            self._context, self._point.agent, message.Credit(point_disk_id=self._disk.id, may_send_until=until)
        )

    def step(self, timeout: float) -> bool:
        """Take one bundle and do what follows from it.

        Args:
            timeout: Seconds to wait for it.

        Returns:
            False when none came.

        Raises:
            Fenced: The claim, or the hold on the layer, is somebody else's now.
            CarrierLost: The stream is out of reach.
            BootpointError: The target failed, or the agent's bundle broke a rule.
        """
        delivery = self._consumer.get(min(timeout, EMPTY_SECONDS))
        if delivery is None:
            if self._due_when_idle():
                self.record()
            delivery = self._consumer.get(timeout)
        if delivery is None:
            if self._arrivals.overdue():
                self.ask_again()
            return False
        self._take(delivery)
        self._drain()
        if self._seal is not None or self._due():
            self.record()
        return True

    def record(self) -> None:
        """Flush the target, record the watermark, ack, send credit: in this order."""
        if self._opener.offset == self._recorded_offset:
            self._ack()
            return
        self._writer.flush()
        mark = self._mark
        mark.watermark_bytes = self._opener.offset
        mark.sequence = self._opener.sequence
        mark.chain_digest = self._opener.chain
        mark.wire_bytes = self._opener.offset - self._recorded_offset
        with self._context.database.transaction() as connection:
            if self._seal is None:
                watermark.record(connection, self._disk, self._number, mark)
            else:
                self.sealed_point = watermark.seal(
                    connection, self._disk, self._number, mark, self._seal, agent=self._point.agent
                )
                if self._seal.fallback == watermark.SAMPLE_MISS:
                    self._tell_of_miss(connection)
        self.done = self._seal is not None
        self._recorded_offset = self._opener.offset
        self._recorded_at = self._clock()
        self._mark = self._fresh_mark(mark.applied_bytes)
        self._ack()
        if not self.done:
            self.send_credit()

    def _tell_of_miss(self, connection: Connection) -> None:
        event.of_point(
            connection,
            self._point,
            watermark.SAMPLE_MISS,
            f"the change tracker of disk {self._disk.slot} had missed changes: this run scanned the whole disk, but"
            " points since its last whole scan may lack changes",
            actor="agent",
            details={"slot": self._disk.slot},
        )

    def _fresh_mark(self, applied_bytes: int) -> Watermark:
        return Watermark(0, 0, b"", applied_bytes, segments=[], samples={}, worker=self._context.worker)

    def _due(self) -> bool:
        ahead = self._opener.offset - self._recorded_offset
        return ahead >= self._disk.window_bytes // RECORD_SHARE or (
            ahead > 0 and self._clock() - self._recorded_at >= RECORD_SECONDS
        )

    def _due_when_idle(self) -> bool:
        return self._opener.offset > self._recorded_offset or self._arrivals.unacked

    def _take(self, delivery: Delivery) -> None:
        """Sort a delivery in: next, seen before, beyond a gap, or no bundle of this stream at all."""
        try:
            place = self._opener.place(delivery.body)
        except BootpointError as problem:
            self._refuse(delivery, problem)
            return
        sequence = peek(delivery.body).sequence
        self._arrivals.note(delivery.tag, sequence)
        if place is Place.NEXT:
            self._apply(delivery.body)
            if self._opener.sequence == sequence:
                self._arrivals.refuse_last(sequence)
        elif place is Place.AHEAD and not self._arrivals.hold(sequence, delivery.body):
            self.ask_again()

    def _drain(self) -> None:
        """Apply what waited beyond a gap that is filled now."""
        while (body := self._arrivals.take(self._opener.sequence)) is not None:
            self._apply(body)

    def _apply(self, body: bytes) -> None:
        try:
            bundle = self._opener.open(body)
        except BootpointError as problem:
            if problem.value not in _FORGED:
                self._context.tally.refused(str(problem.value))
                raise
            self._note_refusal(problem)
            return
        if bundle.kind is Kind.DATA:
            self._write(bundle)
        elif bundle.kind is Kind.MAP:
            self._mark.segments += decode_segments(bundle.payload)
        else:
            self._seal = _seal_record(bundle)

    def _write(self, bundle: Bundle) -> None:
        if self._pace is not None:
            self._pace.wait(len(bundle.payload))
        position = 0
        for extent in bundle.extents:
            if extent.zero:
                self._writer.zero(extent.offset, extent.length)
            else:
                self._writer.write(extent.offset, bundle.payload[position : position + extent.length])
                position += extent.length
            self._mark.applied_bytes += extent.length
            self._mark.worker_bytes += extent.length
        self._mark.samples |= self._sampler.add(bundle.extents, bundle.payload)

    def _ack(self) -> None:
        """Ack the longest run of deliveries, from the oldest on, that are durable or were seen before."""
        tag = self._arrivals.durable(self._opener.sequence)
        if tag is not None:
            self._consumer.ack(tag)

    def _refuse(self, delivery: Delivery, problem: BootpointError) -> None:
        """Drop what is no bundle of this stream; the true one of its place still comes, or a gap shows."""
        self._arrivals.note(delivery.tag)
        self._note_refusal(problem)

    def _note_refusal(self, problem: BootpointError) -> None:
        self._context.tally.refused(str(problem.value))
        left_out = self._context.refusals.admit(self._disk.id, problem.value)
        if left_out is None:
            return
        _log.warning("bundle refused", extra={"reason": str(problem.value), "point_disk": str(self._disk.id)})
        with self._context.database.transaction() as connection:
            event.of_point(
                connection,
                self._point,
                "bundle_refused",
                problem.message,
                actor="worker",
                code=str(problem.code),
                details={"reason": str(problem.value), "slot": self._disk.slot, "left_out": left_out},
            )

    @property
    def in_gap(self) -> bool:
        """Whether the next bundle is missing: others came from beyond it, or a forged one in its place."""
        return self._arrivals.in_gap(self._opener.sequence)

    def ask_again(self) -> None:
        """Drop what lies beyond the gap, and ask for everything from the missing bundle on."""
        self._arrivals.forget_ahead(self._opener.sequence)
        again = message.ResendFrom(point_disk_id=self._disk.id, sequence=self._opener.sequence)
        messenger.send_lossy(self._context, self._point.agent, again)


def _seal_record(bundle: Bundle) -> SealRecord:
    seal = decode_seal(bundle.payload)
    return SealRecord(
        read_digest=bytes.fromhex(seal.root),
        applied_digest=bytes.fromhex(seal.chain),
        scanned_bytes=seal.scanned_bytes,
        changed_bytes=seal.changed_bytes,
        wire_bytes=bundle.header.offset,
        tracker=seal.tracker,
        fallback=seal.fallback,
        skipped=[(offset, length) for offset, length in seal.skipped],
        consistency=seal.consistency,
    )


def run_slice(
    work: Slice,
    *,
    keep_going: Callable[[], bool],
    seconds: float,
    idle_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Step a slice until its end: the seal, its length, a while without a bundle, or a stop.

    Args:
        work: The slice.
        keep_going: Asked between steps; false ends the slice, or raises `Fenced`.
        seconds: Its length.
        idle_seconds: Seconds without a bundle after which it ends.
        clock: Monotonic seconds.
    """
    end = clock() + seconds
    quiet_since = clock()
    while not work.done and clock() < end and keep_going():
        if work.step(min(STEP_SECONDS, idle_seconds)):
            quiet_since = clock()
        elif clock() - quiet_since >= idle_seconds:
            break
    if not work.done:
        work.record()
