"""Finding what differs from the base, and cutting it into chunks.

::

    candidates ─► whole grains ─► read ─► entries ─► compare with the map ─► grains that differ ─► chunks
    (a tracker)                   holes aren't        (the candidate map is     data, or zero
                                  read                a copy of the base's)

The candidate map starts as a copy of the base's map, or as the map of an empty disk: either way it describes
what the replica holds now, and what is found to differ is put into it. So a grain that became zero travels as
a zero extent where the replica holds data, and not at all where it holds zeros already.

Where the agent lost the base's map and knows the head's segment digests only, it can't tell which grains of a
segment differ: every grain of each segment whose digest differs travels then, zeros as well.

What is left out (see `usedblocks`) isn't read, and keeps the base's entry: the replica keeps what it holds there. So
the map says nothing of such a grain's content on the disk, and when the grain is left out no longer, it has to be read
though no tracker names it: what the base left out is `unsure`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.bundle import MAX_RAW
from bootpoint_common.digest import ENTRY, SEGMENT, ZERO_ENTRY, SegmentTable, segment_digest
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.chunk import Chunk, ChunkBuilder, Counters
from bootpoint_producer.grain import whole_grains
from bootpoint_producer.readahead import Read, digested, entries_of
from bootpoint_producer.sources.base import READ, Source
from bootpoint_producer.trackers.base import Tracker
from bootpoint_producer.usedblocks.free import together, without

#: Grains whose entries are looked at together where nothing is read: 1 MiB of entries.
_LOOK = MiB // ENTRY


def scan(
    source: Source,
    tracker: Tracker,
    candidate: BlockMap,
    *,
    base: BlockMap | None = None,
    head: SegmentTable | None = None,
    resend: frozenset[int] = frozenset(),
    left_out: Sequence[Extent] = (),
    unsure: Sequence[Extent] = (),
    counters: Counters | None = None,
    most: Callable[[], int] = lambda: MAX_RAW,
) -> Iterator[Chunk]:
    """Find what differs from the replica's head, and bring the candidate map up to date with the source.

    The map is complete when the iterator has ended.

    Args:
        source: The disk.
        tracker: Where to look; not asked when ``head`` is given, as everything has to be looked at.
        candidate: ``base.copy_to(…, source.size_bytes)``, or a new map of that size.
        base: The base's map, for the tracker and for growth.
        head: The head's segment digests, where the base's map was lost; excludes ``base``.
        resend: Segments of which every grain travels, though nothing changed: the replica holds them damaged.
        left_out: Whole grains, ascending, without overlap and outside of ``resend``, that aren't read: they keep the
            base's entry, or count as zero where there is no base or only its head.
        unsure: Whole grains, ascending, without overlap, of which the base's map says nothing of the disk: they are
            looked at whether the tracker names them or not.
        counters: Counted up on the way.
        most: Returns how many bytes of data a chunk may hold; never more than 1 MiB.

    Raises:
        BootpointError: ``disk_read_error``.
        ValueError: The maps don't fit together.
    """
    if candidate.size_bytes != source.size_bytes or (base is not None and head is not None):
        raise ValueError("the candidate map is of the source's size, and there is either a base's map or a head")
    counters = counters if counters is not None else Counters()
    builder = ChunkBuilder(counters, most)
    if head is not None:
        grown = head.grown(source.size_bytes)
        yield from _scan_segments(source, candidate, grown, resend, builder, left_out=left_out)
    else:
        yield from _resent(source, candidate, resend, builder)
        named = whole_grains(_candidates(source, tracker, base), source.size_bytes)
        wanted = without(together(named, unsure, lambda at, count: _in_whole(source, at, count)), left_out)
        for piece in digested(source, wanted, candidate.entries):
            if piece.extent.zero:
                yield from _became_zero(candidate, piece.extent, builder)
            else:
                yield from _compare(candidate, piece, builder)
    yield from builder.rest()


def _in_whole(source: Source, start: int, length: int) -> Iterator[Extent]:
    return whole_grains(source.data_extents(start, length), source.size_bytes)


def _candidates(source: Source, tracker: Tracker, base: BlockMap | None) -> Iterator[Extent]:
    """Return the tracker's candidates, and what the disk grew by: from the grain on in which the base ended."""
    size = source.size_bytes
    if base is None or base.size_bytes == size:
        return tracker.candidates(source, base)
    known = base.size_bytes // GRAIN * GRAIN
    within = (
        Extent(extent.offset, min(extent.end, known) - extent.offset, extent.zero)
        for extent in tracker.candidates(source, base)
        if extent.offset < known
    )
    return chain(within, source.data_extents(known, size - known))


def _compare(candidate: BlockMap, piece: Read, builder: ChunkBuilder) -> Iterator[Chunk]:
    builder.counters.scanned_bytes += piece.extent.length
    if not piece.data:
        return
    offset, first = piece.extent.offset, piece.extent.offset // GRAIN
    known = candidate.entries(first, len(piece.entries) // ENTRY)
    candidate.put(first, piece.entries)
    for start, end, zero in _runs(piece.entries, known):
        at, past = start * GRAIN, min(end * GRAIN, len(piece.data))
        if zero:
            yield from builder.zero(offset + at, past - at)
        else:
            yield from builder.data(offset + at, piece.data, at, past)


def _became_zero(candidate: BlockMap, extent: Extent, builder: ChunkBuilder) -> Iterator[Chunk]:
    """Send zero for those grains of an extent that reads as zero, where the replica holds something else."""
    for written, count in candidate.written(extent.offset // GRAIN, -(-extent.length // GRAIN)):
        for first in range(written, written + count, _LOOK):
            known = candidate.entries(first, min(_LOOK, written + count - first))
            entries = bytes(len(known))
            if known == entries:
                continue
            candidate.put(first, entries)
            for start, end, _ in _runs(entries, known):
                offset = (first + start) * GRAIN
                yield from builder.zero(offset, min((first + end) * GRAIN, candidate.size_bytes) - offset)


def _scan_segments(
    source: Source,
    candidate: BlockMap,
    head: SegmentTable,
    resend: frozenset[int],
    builder: ChunkBuilder,
    *,
    left_out: Sequence[Extent],
) -> Iterator[Chunk]:
    within = 0
    for index in range(len(head)):
        start = index * SEGMENT
        length = min(SEGMENT, source.size_bytes - start)
        while within < len(left_out) and left_out[within].end <= start:
            within += 1
        past = bisect_left(left_out, start + length, lo=within, key=lambda extent: extent.offset)
        entries, reads = _read_segment(source, start, length, builder, left_out[within:past])
        if any(entries):
            candidate.put(start // GRAIN, entries)
        if index in resend or segment_digest(entries) != head[index]:
            yield from _whole_segment(start, length, reads, builder)


def _resent(source: Source, candidate: BlockMap, resend: frozenset[int], builder: ChunkBuilder) -> Iterator[Chunk]:
    """Send whole segments before anything else; what the scan finds there afterwards it compares with these."""
    for index in sorted(resend):
        start = index * SEGMENT
        if start >= source.size_bytes:
            break
        length = min(SEGMENT, source.size_bytes - start)
        entries, reads = _read_segment(source, start, length, builder)
        candidate.put(start // GRAIN, entries)
        yield from _whole_segment(start, length, reads, builder)
    # The extents of a chunk ascend, and the scan begins at the disk's start.
    yield from builder.rest()


def _read_segment(
    source: Source, start: int, length: int, builder: ChunkBuilder, left_out: Sequence[Extent] = ()
) -> tuple[bytearray, list[tuple[int, bytes, bytes]]]:
    """Read a segment whole: its entries, and (offset, data, entries) of what isn't zero.

    The data is kept until the digest is known: read twice, a disk that isn't held still could give two contents.
    """
    entries = bytearray(-(-length // GRAIN) * ENTRY)
    reads: list[tuple[int, bytes, bytes]] = []
    for extent in without(_in_whole(source, start, length), left_out):
        if extent.zero:
            continue
        for offset in range(extent.offset, extent.end, READ):
            data = source.read(offset, min(READ, extent.end - offset))
            builder.counters.scanned_bytes += len(data)
            found = entries_of(data)
            at = (offset - start) // GRAIN * ENTRY
            entries[at : at + len(found)] = found
            if any(found):
                reads.append((offset, data, found))
    return entries, reads


def _whole_segment(
    start: int, length: int, reads: list[tuple[int, bytes, bytes]], builder: ChunkBuilder
) -> Iterator[Chunk]:
    done = start
    for offset, data, entries in reads:
        for first, last, zero in _runs(entries):
            if zero:
                continue
            at, past = first * GRAIN, min(last * GRAIN, len(data))
            if offset + at > done:
                yield from builder.zero(done, offset + at - done)
            yield from builder.data(offset + at, data, at, past)
            done = offset + past
    if start + length > done:
        yield from builder.zero(done, start + length - done)


def _runs(entries: bytes, known: bytes | None = None) -> Iterator[tuple[int, int, bool]]:
    """Return (first grain, end, zero) of runs of grains of one kind that differ from what is known."""
    start, kind = 0, None
    count = len(entries) // ENTRY
    for grain in range(count):
        at = grain * ENTRY
        entry = entries[at : at + ENTRY]
        now = None if known is not None and entry == known[at : at + ENTRY] else entry == ZERO_ENTRY
        if now is not kind:
            if kind is not None:
                yield start, grain, kind
            start, kind = grain, now
    if kind is not None:
        yield start, count, kind
