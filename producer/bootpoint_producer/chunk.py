"""Chunks: what a scan found to differ, packed to travel, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bootpoint_common.bundle import MAX_EXTENTS, MAX_RAW
from bootpoint_common.extent import Extent


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of what differs.

    Attributes:
        extents: Ascending, made of whole grains (of the disk's last grain, the bytes that exist).
        payload: The data of those that aren't zero, one after the other; at most 1 MiB.
    """

    extents: tuple[Extent, ...]
    payload: bytes


@dataclass(slots=True)
class Counters:
    """What a scan has done so far.

    Attributes:
        scanned_bytes: Bytes that were read.
        changed_bytes: Bytes that travel as data.
        zero_bytes: Bytes that travel as zero extents.
    """

    scanned_bytes: int = 0
    changed_bytes: int = 0
    zero_bytes: int = 0


class ChunkBuilder:
    """Packs extents into chunks: joins neighbours, and ends a chunk at either limit.

    Args:
        counters: Counted up by what is packed.
        most: Returns how many bytes of data a chunk may hold; never more than 1 MiB.
    """

    def __init__(self, counters: Counters, most: Callable[[], int]) -> None:
        self.counters = counters
        self._most = most
        self._extents: list[Extent] = []
        self._parts: list[bytes] = []
        self._size = 0

    def zero(self, offset: int, length: int) -> Iterator[Chunk]:
        """Add bytes that are zero; yields a chunk that is full."""
        self.counters.zero_bytes += length
        yield from self._add(Extent(offset, length, zero=True))

    def data(self, offset: int, data: bytes, start: int, end: int) -> Iterator[Chunk]:
        """Add ``data[start:end]``, which lies at byte ``offset`` of the disk; yields chunks that are full."""
        self.counters.changed_bytes += end - start
        while start < end:
            most = min(self._most(), MAX_RAW)
            if self._size >= most:
                yield self._take()
            length = min(end - start, most - self._size)
            yield from self._add(Extent(offset, length))
            # Slices of bytes are copies, or the whole: a view would keep 1 MiB alive for one grain.
            self._parts.append(data[start : start + length])
            self._size += length
            start, offset = start + length, offset + length

    def rest(self) -> Iterator[Chunk]:
        """Yield what isn't full, if there is any."""
        if self._extents:
            yield self._take()

    def _add(self, extent: Extent) -> Iterator[Chunk]:
        last = self._extents[-1] if self._extents else None
        if last is not None and last.end == extent.offset and last.zero == extent.zero:
            self._extents[-1] = Extent(last.offset, last.length + extent.length, last.zero)
            return
        if len(self._extents) == MAX_EXTENTS:
            yield self._take()
        self._extents.append(extent)

    def _take(self) -> Chunk:
        payload = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        chunk = Chunk(tuple(self._extents), payload)
        self._extents, self._parts, self._size = [], [], 0
        return chunk
