"""An agent that is stepped: the real feed, sender, state and link, with its waiting taken out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.digest import SegmentTable
from bootpoint_common.errors import BootpointError
from bootpoint_common.extent import Extent
from bootpoint_common.identity import new_id
from bootpoint_common.stream.carrier import AgentCarrier, CarrierLost, Consumer
from bootpoint_common.stream.memory import MemoryBroker
from bootpoint_common.stream.sender import Outlet, StreamClosedError, StreamSender
from bootpoint_common.units import GRAIN
from bootpoint_producer.chunk import Chunk
from bootpoint_producer.feed import Feed, Ground
from bootpoint_producer.link import Link
from bootpoint_producer.pipeline import Encoded, encode_chunk
from bootpoint_producer.sources import Source, open_source
from bootpoint_producer.state import AgentState
from bootpoint_producer.trackers.hash import HashTracker
from tests.service.faulty import Faults, FaultyPublisher

#: The machine that every agent of the model runs on.
MACHINE: dict[str, Any] = {"smbios_uuid": "0c1d9c3e-0000-4000-8000-000000000002", "disk_serials": []}


def grain_by_grain(chunks: Iterable[Chunk]) -> AbstractContextManager[Iterable[Encoded]]:
    """Encode every grain as a bundle of its own, so that a small disk has a long stream."""

    def split() -> Iterator[Encoded]:
        for chunk in chunks:
            position = 0
            for extent in chunk.extents:
                for offset in range(extent.offset, extent.end, GRAIN):
                    size = min(GRAIN, extent.end - offset)
                    data = b"" if extent.zero else chunk.payload[position : position + size]
                    position += len(data)
                    piece = Chunk((Extent(offset, size, extent.zero),), data)
                    yield Encoded(piece, encode_chunk(piece))

    return nullcontext(split())


@dataclass
class _Stream:
    feed: Feed
    source: Source
    outlet: Outlet
    bodies: Iterator[tuple[bytes, int]]
    pending: tuple[bytes, int] | None = None
    ended: bool = False


@dataclass
class _Work:
    order: message.StartRun
    instant: datetime
    frozen: dict[str, Path]
    point_id: UUID | None = None
    streams: list[_Stream] = field(default_factory=list)
    roots: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    failed: message.Problem | None = None


class ModelAgent:
    """One source machine with its disks.

    Attributes:
        expected: What each point has to show: content of every disk, by point.
    """

    def __init__(
        self, broker: MemoryBroker, name: str, folder: Path, sizes: dict[str, int], rng: random.Random
    ) -> None:
        self.name = name
        self.disks = {slot: folder / f"{name}-{slot}.raw" for slot in sizes}
        self.expected: dict[UUID, dict[str, bytes]] = {}
        self.faults = Faults()
        self._broker = broker
        self._folder = folder
        self._rng = rng
        self._now = 0.0
        self.state = AgentState(folder / f"state-{name}")
        self.work: _Work | None = None
        self._carrier: AgentCarrier | None = None
        self._inbox: Consumer | None = None
        for slot, size in sizes.items():
            with self.disks[slot].open("wb") as stream:
                stream.truncate(size)

    # --- life

    def boot(self) -> None:
        """Start anew, as after a crash: everything that was in memory is gone."""
        if self._carrier is not None:
            self._carrier.close()
        self._carrier = self._broker.agent_carrier(self.name)
        carrier = self._carrier
        identity = self.state.identity()
        assert identity is not None
        self.work = None
        self.state.check()
        self.link = Link(identity, carrier, new_id())
        self.sender = StreamSender(
            connect=lambda: FaultyPublisher(carrier.publisher(), self._rng, self.faults), clock=lambda: self._now
        )
        with suppress(CarrierLost):
            self._inbox = carrier.inbox()
        self.welcomed = False
        self._greet()

    def _greet(self) -> None:
        runs = [] if self.work is None else [self.work.order.run]
        self.link.send(
            message.Hello(
                protocol=message.PROTOCOL,
                version="model",
                incarnation=self.link.incarnation,
                machine=MACHINE,
                runs=runs,
            )
        )

    def pass_time(self) -> None:
        """Let the waits of the sender be over, and show that the agent lives."""
        self._now += 60.0
        if not self.welcomed:
            self._greet()
        runs = [] if self.work is None else [message.RunProgress(run=self.work.order.run)]
        self.link.send(message.Heartbeat(runs=runs))

    # --- the disk

    def write(self, slot: str, grain: int, data: bytes) -> None:
        """Write to the live disk; the part beyond its end is cut off."""
        size = self.disks[slot].stat().st_size
        with self.disks[slot].open("r+b") as stream:
            stream.seek(grain * GRAIN)
            stream.write(data[: max(0, size - grain * GRAIN)])

    def grow(self, slot: str, size: int) -> None:
        """Make the live disk larger."""
        with self.disks[slot].open("r+b") as stream:
            stream.truncate(max(size, self.disks[slot].stat().st_size))

    # --- steps

    def hear(self, *, lose: bool = False, repeat: bool = False) -> bool:
        """Take one message; it may be lost, or come twice. Returns whether there was one."""
        assert self._inbox is not None
        delivery = self._inbox.get(0)
        if delivery is None:
            return False
        self._inbox.ack(delivery.tag)
        for _ in range(0 if lose else 2 if repeat else 1):
            self._take(self.link.open(delivery.body))
        return True

    def say(self) -> None:
        """Say again what has had no answer: the offer, the failure, the wait for credit, more."""
        work = self.work
        if work is None:
            return
        if work.failed is not None:
            self.link.send(message.Failed(run=work.order.run, problem=work.failed), pool=work.order.pool)
        elif work.point_id is None:
            self._offer(work)
        else:
            ids = [stream.outlet.stream for stream in work.streams]
            self.link.send(message.More(disks=ids), pool=work.order.pool)
            self.link.send(message.CreditQuery(disks=ids), pool=work.order.pool)

    def feed(self, index: int) -> bool:
        """Make the next bundle of a disk and offer it; returns whether something moved."""
        if self.work is None or not self.work.streams or self.work.failed is not None:
            return False
        stream = self.work.streams[index % len(self.work.streams)]
        if stream.ended:
            return False
        if stream.pending is None:
            stream.pending = next(stream.bodies, None)
            if stream.pending is None:
                stream.ended = True
                stream.source.close()
                return True
        with suppress(StreamClosedError):
            if not stream.outlet.offer(*stream.pending, timeout=0):
                return False
        stream.pending = None
        return True

    def publish(self) -> None:
        """Move what may go, and take in what the broker says."""
        self.sender.step(0)

    # --- messages

    def _take(self, heard: message.ToAgent) -> None:
        match heard:
            case message.Welcome():
                self.welcomed = self.welcomed or heard.incarnation == self.link.incarnation
            case message.StartRun():
                self._begin(heard)
            case message.Ready():
                self._ready(heard)
            case message.Credit():
                for stream in self._streams(heard.point_disk_id):
                    stream.outlet.allow(heard.may_send_until)
            case message.ResendFrom():
                self._resend(heard)
            case message.Committed():
                self.state.adopt(heard.replica_id, heard.point_id)
                self._end(heard.run)
            case message.Aborted():
                if heard.replica_id is not None and heard.point_id is not None:
                    self.state.drop(heard.replica_id, heard.point_id)
                self._end(heard.run)

    def _resend(self, asked: message.ResendFrom) -> None:
        for stream in self._streams(asked.point_disk_id):
            try:
                stream.outlet.resend_from(asked.sequence)
            except BootpointError as problem:
                assert self.work is not None
                self.work.failed = message.Problem(code=str(problem.code), message=problem.message)

    def _streams(self, stream_id: UUID) -> list[_Stream]:
        return [] if self.work is None else [s for s in self.work.streams if s.outlet.stream == stream_id]

    def _begin(self, order: message.StartRun) -> None:
        if self.work is not None or order.run in self.state.ended():
            return
        frozen = {}
        for disk in order.disks:
            frozen[disk.slot] = self._folder / f"{self.name}-{disk.slot}-{order.run}.frozen"
            frozen[disk.slot].write_bytes(self.disks[disk.slot].read_bytes())
        self.work = _Work(order, datetime.now(UTC), frozen)
        self._offer(self.work)

    def _offer(self, work: _Work) -> None:
        disks = [message.OfferDisk(slot=slot, size_bytes=path.stat().st_size) for slot, path in work.frozen.items()]
        replicas = [
            message.OfferReplica(replica_id=r.replica_id, base=self.state.base(r.replica_id))
            for r in work.order.replicas
        ]
        offer = message.Offer(
            run=work.order.run, instant=work.instant, consistency="fs", snapshot="none", disks=disks, replicas=replicas
        )
        self.link.send(offer, pool=work.order.pool)

    def _ready(self, ready: message.Ready) -> None:
        work = self.work
        if work is None or work.order.run != ready.run or work.failed is not None:
            return
        if work.point_id is not None:
            for disk in ready.disks:
                for stream in self._streams(disk.point_disk_id):
                    stream.outlet.allow(disk.may_send_until)
            return
        work.point_id = ready.point_id
        self.expected[ready.point_id] = {slot: path.read_bytes() for slot, path in work.frozen.items()}
        for disk in ready.disks:
            source = open_source(work.frozen[disk.slot])
            outlet = self.sender.open(disk.point_disk_id, hold_bytes=4 * GRAIN, in_flight_bytes=3 * GRAIN)
            outlet.allow(disk.may_send_until)
            feed = Feed(
                slot=disk.slot,
                source=source,
                tracker=HashTracker(),
                ground=self._ground(ready, disk),
                candidate_path=self.state.map_path(ready.replica_id, ready.point_id, disk.slot),
                key=self.link.identity.key,
                point_id=ready.point_id,
                point_disk_id=disk.point_disk_id,
                before_seal=lambda slot, size, root: self._keep(work, ready, slot, size, root),
                confirm_consistency=lambda: "fs",
                encoding=grain_by_grain,
            )
            work.streams.append(_Stream(feed, source, outlet, feed.bodies()))

    def _ground(self, ready: message.Ready, disk: message.ReadyDisk) -> Ground:
        if ready.head is None:
            return Ground()
        held = self.state.held(ready.replica_id, ready.head.point_id)
        if held is not None and sorted(held.disks, key=repr) == sorted(ready.head.disks, key=repr):
            return Ground(base=self.state.map_path(ready.replica_id, held.point_id, disk.slot))
        size = next(known.size_bytes for known in ready.head.disks if known.slot == disk.slot)
        digests = disk.head_segments or b""
        table = SegmentTable(size, (digests[at : at + 32] for at in range(0, len(digests), 32)))
        return Ground(head=table, fallback="base_lost")

    def _keep(self, work: _Work, ready: message.Ready, slot: str, size: int, root: bytes) -> None:
        work.roots[slot] = (size, root)
        if set(work.roots) == {disk.slot for disk in ready.disks}:
            self.state.keep_point(ready.replica_id, ready.point_id, work.roots)

    def _end(self, run: UUID) -> None:
        if self.work is None or self.work.order.run != run:
            return
        for stream in self.work.streams:
            stream.outlet.close()
            stream.source.close()
        self.state.keep_ended(run)
        self.work = None
