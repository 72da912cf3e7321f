"""The streams of one run: what is read, compressed and sent for each disk of each replica.

Each disk of each replica has a thread that makes bundles; they leave through the outlets of one `StreamSender`, which
knows nothing but credit and order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.digest import SegmentTable
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.message import Base
from bootpoint_common.stream.sender import Outlet
from bootpoint_common.stream.window import HOLD
from bootpoint_common.units import MiB

from .channel import Channel
from .chunk import Chunk
from .feed import Feed, Ground
from .limit import Metered, RunLimits
from .pipeline import Encoded, Pipeline, encode_chunk
from .snapshots import Consistency, SnapshotSet
from .tools import Tools
from .trackers.grains import Grains
from .trackers.keeper import Cut
from .trackers.sample import Sample
from .usedblocks import UsedBlocks

#: Bytes of bundles that are held for all streams of a run, and for one at least: a few bundles.
HOLD_ALL, LEAST_HOLD = 2 * HOLD, 4 * MiB

#: Disks that are read at a time: each holds up to 64 MiB of blocks on their way.
DISKS_AT_A_TIME = 2


@dataclass(slots=True)
class _Replica:
    """What a run does for one replica; `final` once its point is committed."""

    replica_id: UUID
    point_id: UUID | None = None
    name: str | None = None
    expected: frozenset[str] = frozenset()
    roots: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    channels: list[Channel] = field(default_factory=list)
    final: bool = False


class Publication:
    """All streams of a run; used by the run's thread, but for `progress`.

    Args:
        order: The run.
        tools: What it works with.
        snapshot: What is read.
        cut: What was written until the snapshot's instant.
        demand: Raises ``consistency_too_low`` where a level is below the job's.
        broke: Called by a disk's thread that can't go on.
        limits: What the run may take of its machine.
    """

    def __init__(
        self,
        order: message.StartRun,
        tools: Tools,
        snapshot: SnapshotSet,
        cut: Cut,
        *,
        limits: RunLimits,
        demand: Callable[[str], None],
        broke: Callable[[BootpointError], None],
    ) -> None:
        self._order = order
        self._tools = tools
        self._snapshot = snapshot
        self._cut = cut
        self._demand = demand
        self._broke = broke
        self._limits = limits
        self._replicas = {r.replica_id: _Replica(r.replica_id) for r in order.replicas}
        self._used = {disk.slot: self._used_blocks(disk) for disk in order.disks}
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._reading = threading.Semaphore(DISKS_AT_A_TIME)
        self._lock = threading.Lock()

    @property
    def answered(self) -> bool:
        """Whether every replica has a point that is open, or final already."""
        return all(replica.point_id or replica.final for replica in self._replicas.values())

    @property
    def final(self) -> bool:
        """Whether every replica's point is committed."""
        return all(replica.final for replica in self._replicas.values())

    @property
    def sent(self) -> bool:
        """Whether the broker holds everything, so that nothing is left to be read."""
        return self.answered and not any(thread.is_alive() for thread in self._threads)

    @property
    def committed_name(self) -> str | None:
        """Name of a committed point; None as long as there is none."""
        names = (replica.name for replica in self._replicas.values() if replica.final and replica.name)
        return next(names, None)

    def progress(self) -> list[message.DiskProgress]:
        """Return how far each disk is."""
        with self._lock:
            channels = self._channels()
        return [channel.progress() for channel in channels]

    # --- what the control plane says

    def ready(self, ready: message.Ready) -> None:
        """Begin to publish for a replica whose point is open; said again, only its credit counts.

        Raises:
            BootpointError: ``disk_changed``.
        """
        replica = self._replicas.get(ready.replica_id)
        if replica is None or replica.final:
            return
        if replica.point_id is not None:
            for disk in ready.disks:
                self.credit(disk.point_disk_id, disk.may_send_until)
            return
        replica.point_id, replica.name = ready.point_id, ready.name
        replica.expected = frozenset(disk.slot for disk in ready.disks)
        held = self._held_head(ready)
        for disk in ready.disks:
            channel = self._channel(replica, ready, disk, held)
            with self._lock:
                replica.channels.append(channel)
        for channel in replica.channels:
            work = partial(channel.work, self._reading, self._over)
            thread = threading.Thread(target=work, name=f"feed {channel.slot}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def credit(self, stream: UUID, until: int) -> None:
        """Take credit for a stream."""
        for channel in self._channels(stream):
            channel.allow(until)

    def resend(self, heard: message.ResendFrom) -> None:
        """Publish a stream again from a bundle on.

        Raises:
            RetryableError: ``stream_gap``: its bytes are no longer held.
        """
        for channel in self._channels(heard.point_disk_id):
            channel.resend_from(heard.sequence)

    def committed(self, replica_id: UUID) -> None:
        """Note that a replica's point is final."""
        replica = self._replicas.get(replica_id)
        if replica is not None:
            replica.final = True

    def ask_for_credit(self, *, all_streams: bool = False) -> None:
        """Ask for credit where none comes; for all streams, to hear whether anybody is there."""
        waiting = [channel.stream for channel in self._channels() if channel.wants_credit(anyway=all_streams)]
        if waiting:
            self._tools.link.send(message.CreditQuery(disks=waiting), pool=self._order.pool)

    def close(self) -> None:
        """Publish nothing more, end the threads, and let go of the sources; may be called twice."""
        self._over.set()
        self._limits.reading.close()
        for channel in self._channels():
            channel.end()
        for thread in self._threads:
            thread.join()
        for channel in self._channels():
            channel.close()

    def _channels(self, stream: UUID | None = None) -> list[Channel]:
        return [
            channel
            for replica in self._replicas.values()
            for channel in replica.channels
            if stream is None or channel.stream == stream
        ]

    # --- one disk of one replica

    def _held_head(self, ready: message.Ready) -> Base | None:
        """Return the head if its maps are held here, as the base or as a candidate of an earlier run."""
        if ready.head is None:
            return None
        held = self._tools.state.held(ready.replica_id, ready.head.point_id)
        if held is None or {d.slot: d for d in held.disks} != {d.slot: d for d in ready.head.disks}:
            return None
        return held

    def _channel(self, replica: _Replica, ready: message.Ready, disk: message.ReadyDisk, held: Base | None) -> Channel:
        source = Metered(self._snapshot.source(disk.slot), self._limits, self._over)
        try:
            ground = self._ground(replica, ready, disk, held, source.size_bytes)
            tracker, doubt = self._cut.tracker(replica.replica_id, disk.slot, None if ground.base is None else held)
            outlet = self._outlet(disk, len(ready.disks))
        except BaseException:
            source.close()
            raise
        feed = Feed(
            slot=disk.slot,
            source=source,
            tracker=tracker,
            ground=ground if doubt is None else replace(ground, fallback=doubt),
            candidate_path=self._tools.state.map_path(replica.replica_id, ready.point_id, disk.slot),
            key=self._tools.link.identity.key,
            point_id=ready.point_id,
            point_disk_id=disk.point_disk_id,
            before_seal=lambda slot, size, root: self._keep(replica, slot, size, root),
            confirm_consistency=self._confirm,
            left_out=self._used[disk.slot],
            sample=Sample(share=self._sample_share, since=self._since(disk.slot)),
            encoding=self._encoding,
            most=self._limits.bundle_bytes,
        )
        return Channel(self._tools, self._order.pool, feed, source, outlet, limits=self._limits, broke=self._broke)

    def _encoding(self, chunks: Iterable[Chunk]) -> AbstractContextManager[Iterable[Encoded]]:
        def encode(chunk: Chunk) -> bytes:
            self._limits.heed()
            return encode_chunk(chunk)

        return Pipeline(chunks, encode=encode)

    @property
    def _sample_share(self) -> float:
        """A machine that goes down has time for the smallest sample of what didn't change; the next run has more."""
        return 0.0 if self._order.last_breath else self._tools.sample_share

    def _used_blocks(self, disk: message.RunDisk) -> UsedBlocks:
        """Make what says which of a disk's blocks needn't be read; once for all replicas."""
        return UsedBlocks(
            slot=disk.slot,
            path=self._snapshot.path(disk.slot),
            still=self._snapshot.still(disk.slot),
            skip=self._order.skip,
            quiet=lambda: self._snapshot.confirm() is Consistency.FS,
        )

    def _since(self, slot: str) -> Callable[[], Grains | None] | None:
        """Return what tells what was written since the instant, where the disk is read as it changes."""
        return (lambda: self._cut.written_since(slot)) if self._snapshot.live(slot) else None

    def _outlet(self, disk: message.ReadyDisk, disks: int) -> Outlet:
        streams = disks * len(self._replicas)
        hold = max(HOLD_ALL // max(streams, HOLD_ALL // HOLD), LEAST_HOLD)
        outlet = self._tools.sender.open(disk.point_disk_id, hold_bytes=hold, pace=self._limits)
        outlet.allow(disk.may_send_until)
        return outlet

    def _ground(
        self, replica: _Replica, ready: message.Ready, disk: message.ReadyDisk, held: Base | None, size_bytes: int
    ) -> Ground:
        """Return what a disk's difference is made to."""
        sizes = {} if ready.head is None else {known.slot: known.size_bytes for known in ready.head.disks}
        if disk.slot not in sizes:
            return Ground()
        if sizes[disk.slot] > size_bytes:
            text = f"disk {disk.slot} shrank from {sizes[disk.slot]} to {size_bytes} bytes"
            raise error(Code.DISK_CHANGED, text, key="disk", value=disk.slot)
        resend = message.segment_numbers(disk.resend)
        if held is not None:
            base = self._tools.state.map_path(replica.replica_id, held.point_id, disk.slot)
            return Ground(base=base, resend=resend)
        return Ground(head=_table(disk, sizes[disk.slot]), fallback="base_lost", resend=resend)

    def _keep(self, replica: _Replica, slot: str, size: int, root: bytes) -> None:
        """Note a finished map; with the last one the point is kept, before that disk's seal is made."""
        with self._lock:
            replica.roots[slot] = (size, root)
            complete = set(replica.roots) == set(replica.expected)
        if complete and replica.point_id is not None:
            marks = {slot: mark for slot in replica.roots if (mark := self._cut.mark(slot)) is not None}
            self._tools.state.keep_point(replica.replica_id, replica.point_id, replica.roots, marks)

    def _confirm(self) -> str:
        reached = self._snapshot.confirm()
        self._demand(reached)
        return str(reached)


def _table(disk: message.ReadyDisk, size_bytes: int) -> SegmentTable:
    digests = disk.head_segments or b""
    return SegmentTable(size_bytes, (digests[at : at + 32] for at in range(0, len(digests), 32)))
