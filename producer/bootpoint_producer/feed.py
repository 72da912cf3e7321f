"""One disk's way into one replica's stream: what changed, then the changed segments, then the seal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.bundle import MAX_RAW, Kind, Seal, Sealer, encode, encode_seal, encode_segments
from bootpoint_common.cipher import AgentKey
from bootpoint_common.digest import SEGMENT, SegmentTable
from bootpoint_common.extent import Extent
from bootpoint_common.message import DiskProgress

from .chunk import Chunk, Counters
from .pipeline import Encoded, Pipeline, encode_chunk
from .scan import scan
from .sources.base import Source
from .trackers.base import Tracker
from .trackers.hash import HashTracker
from .trackers.sample import Sample, Sampled
from .usedblocks import Choice, Everything, record
from .usedblocks.free import together, without

#: Changed segments of one map bundle: 36 bytes each, so that it stays well below the largest bundle.
SEGMENTS = MAX_RAW // 64

#: Makes what iterates encoded chunks; the one below does it without threads.
Encoding = Callable[[Iterable[Chunk]], AbstractContextManager[Iterable[Encoded]]]


def in_line(chunks: Iterable[Chunk]) -> AbstractContextManager[Iterable[Encoded]]:
    """Encode in the caller's thread: for tests that step."""
    return nullcontext(Encoded(chunk, encode_chunk(chunk)) for chunk in chunks)


@dataclass(frozen=True, slots=True)
class Ground:
    """What a disk's increment stands on.

    Attributes:
        base: Path of the base's block map, where it is held.
        head: The head's segment digests, where the map is not held.
        fallback: Why the map is not held; None for a full copy or a held base.
        resend: Segments that the replica holds damaged.
    """

    base: Path | None = None
    head: SegmentTable | None = None
    fallback: str | None = None
    resend: frozenset[int] = frozenset()


class Feed:
    """Makes the bundles of one disk for one replica; iterated once.

    Args:
        slot: Which disk.
        source: The disk, held still.
        tracker: Where to look for changes.
        ground: What the increment stands on.
        candidate_path: Where the block map of the new point is written.
        key: The agent's key.
        point_id: The new point.
        point_disk_id: The stream.
        before_seal: Called with size and root once the map is synced; must make them durable.
        confirm_consistency: Returns what the snapshot turned out to be worth, once everything is read.
        left_out: What needn't be read.
        sample: How much of what the tracker calls unchanged is looked at; None for nothing.
        encoding: Compresses ahead, in threads.
        most: Returns how many bytes of the disk a bundle may hold.
    """

    def __init__(
        self,
        *,
        slot: str,
        source: Source,
        tracker: Tracker,
        ground: Ground,
        candidate_path: Path,
        key: AgentKey,
        point_id: UUID,
        point_disk_id: UUID,
        before_seal: Callable[[str, int, bytes], None],
        confirm_consistency: Callable[[], str],
        left_out: Choice | None = None,
        sample: Sample | None = None,
        encoding: Encoding = Pipeline,
        most: Callable[[], int] = lambda: MAX_RAW,
    ) -> None:
        self.slot = slot
        self.point_disk_id = point_disk_id
        self.counters = Counters()
        self.sealed = False
        self._source = source
        self._tracker = tracker
        self._ground = ground
        self._candidate_path = candidate_path
        self._sealer = Sealer(key, point_id, point_disk_id)
        self._before_seal = before_seal
        self._confirm_consistency = confirm_consistency
        self._left_out = left_out or Everything()
        self._sample = sample
        self._skipped: tuple[Extent, ...] = ()
        self._encoding = encoding
        self._most = most

    def bodies(self) -> Iterator[tuple[bytes, int]]:
        """Yield each bundle with the cumulative offset of its end, in order; the last one is the seal.

        Raises:
            BootpointError: ``disk_read_error``, ``disk_changed``, and what `before_seal` raises.
        """
        with ExitStack() as stack:
            base = stack.enter_context(BlockMap.open(self._ground.base)) if self._ground.base is not None else None
            size = self._source.size_bytes
            candidate = (
                base.copy_to(self._candidate_path, size) if base else BlockMap.create(self._candidate_path, size)
            )
            stack.enter_context(candidate)
            for encoded in stack.enter_context(self._encoding(self._chunks(base, candidate))):
                yield self._sealed(encoded.body)
            yield from self._ending(candidate)
        self.sealed = True

    def _chunks(self, base: BlockMap | None, candidate: BlockMap) -> Iterator[Chunk]:
        resend = [Extent(index * SEGMENT, SEGMENT) for index in sorted(self._ground.resend)]
        self._skipped = tuple(without(self._left_out.begin(self._source), resend))
        unsure = record.kept(base.path, base.size_bytes) if base is not None else ()
        with ExitStack() as stack:
            sampled = None
            if self._sample is not None:
                unknown = tuple(together(self._skipped, unsure, lambda at, count: iter([Extent(at, count)])))
                doubted = Sampled(self._tracker, self._sample, unknown=unknown, counters=self.counters)
                self._tracker = sampled = stack.enter_context(doubted)
            yield from scan(
                self._source,
                self._tracker,
                candidate,
                base=base,
                head=self._ground.head,
                resend=self._ground.resend,
                left_out=self._skipped,
                unsure=unsure,
                counters=self.counters,
                most=self._most,
            )
            if sampled is not None and sampled.missed():
                yield from self._again(candidate, self._skipped)
        late = tuple(without(self._skipped, self._left_out.end(self._source)))
        if late:
            yield from self._again(candidate, tuple(without([Extent(0, self._source.size_bytes)], late)))
            self._skipped = tuple(without(self._skipped, late))

    def _again(self, candidate: BlockMap, left_out: Sequence[Extent]) -> Iterator[Chunk]:
        """Look at everything but what is left out; the candidate map says what the replica holds by now."""
        return scan(
            self._source, HashTracker(), candidate, left_out=left_out, counters=self.counters, most=self._most
        )

    def _ending(self, candidate: BlockMap) -> Iterator[tuple[bytes, int]]:
        changed = candidate.rehash(self._ground.head)
        for start in range(0, len(changed), SEGMENTS):
            yield self._sealed(encode(Kind.MAP, (), encode_segments(changed[start : start + SEGMENTS])))
        root = candidate.root()
        candidate.sync()
        consistency = self._confirm_consistency()
        record.keep(self._candidate_path, self._skipped)
        # The map must outlive a power cut before the worker can learn that the stream is whole: else a point could be
        # committed that this agent knows nothing of.
        self._before_seal(self.slot, self._source.size_bytes, root)
        seal = Seal(
            root=root.hex(),
            chain=self._sealer.chain.hex(),
            changed_bytes=self.counters.changed_bytes + self.counters.zero_bytes,
            scanned_bytes=self.counters.scanned_bytes,
            zero_bytes=self.counters.zero_bytes,
            wire_bytes=self._sealer.offset,
            tracker=self._tracker.name,
            fallback=self._ground.fallback or self._missed(),
            skipped=tuple((extent.offset, extent.length) for extent in self._skipped),
            consistency=consistency,
        )
        yield self._sealed(encode_seal(seal))

    def _missed(self) -> str | None:
        return self._tracker.fallback if isinstance(self._tracker, Sampled) else None

    def _sealed(self, encoded: bytes) -> tuple[bytes, int]:
        body = self._sealer.seal(encoded)
        return body, self._sealer.offset

    def progress(self, credit_wait_seconds: float) -> DiskProgress:
        """Return how far the disk is."""
        return DiskProgress(
            slot=self.slot,
            size_bytes=self._source.size_bytes,
            scanned_bytes=self.counters.scanned_bytes,
            changed_bytes=self.counters.changed_bytes + self.counters.zero_bytes,
            wire_bytes=self._sealer.offset,
            credit_wait_seconds=credit_wait_seconds,
            stream=self.point_disk_id,
        )
