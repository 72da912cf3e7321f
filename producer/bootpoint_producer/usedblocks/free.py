"""Collecting what is free: whole grains only, and no more ranges than a seal can list."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, round_up

#: Ranges that are left out of a disk at most: a seal lists them (28 bytes each at most), and they are held in memory.
MOST_LEFT_OUT = 4096


class FreeGrains:
    """Keeps the longest of the free ranges that it is told; memory doesn't depend on how many there are.

    Attributes:
        told_bytes: Bytes of all ranges that it was told.
    """

    def __init__(self) -> None:
        self.told_bytes = 0
        self._ranges: list[tuple[int, int]] = []  # a heap: (length, offset)

    def add(self, start: int, end: int) -> None:
        """Take a range of bytes of the disk that is free; a grain that is used in part isn't."""
        self.told_bytes += max(0, end - start)
        first, last = round_up(start, GRAIN), end // GRAIN * GRAIN
        if last > first:
            self._push(last - first, first)

    def take(self, other: FreeGrains) -> None:
        """Take what another one keeps."""
        self.told_bytes += other.told_bytes
        for length, offset in other._ranges:
            self._push(length, offset)

    def _push(self, length: int, offset: int) -> None:
        if len(self._ranges) < MOST_LEFT_OUT:
            heapq.heappush(self._ranges, (length, offset))
        else:
            heapq.heappushpop(self._ranges, (length, offset))

    def extents(self) -> tuple[Extent, ...]:
        """Return the ranges, ascending."""
        return tuple(sorted(Extent(offset, length) for length, offset in self._ranges))


def without(extents: Iterable[Extent], removed: Sequence[Extent]) -> Iterator[Extent]:
    """Return what is left of some extents when others are taken away.

    Args:
        extents: Ascending, without overlap.
        removed: Likewise.
    """
    at = 0
    for extent in extents:
        start = extent.offset
        while at < len(removed) and removed[at].end <= start:
            at += 1
        cut = at  # what begins in this extent may reach into the next one
        while cut < len(removed) and removed[cut].offset < extent.end:
            if removed[cut].offset > start:
                yield Extent(start, removed[cut].offset - start, extent.zero)
            start = min(removed[cut].end, extent.end)
            cut += 1
        if start < extent.end:
            yield Extent(start, extent.end - start, extent.zero)


def together(
    named: Iterable[Extent], more: Sequence[Extent], find: Callable[[int, int], Iterator[Extent]]
) -> Iterator[Extent]:
    """Return some extents, and between them what others reach beyond them.

    Args:
        named: Ascending, without overlap.
        more: Likewise.
        find: Returns the extents of a range (offset, length) that only ``more`` has.
    """
    done, at = 0, 0
    for extent in named:
        while at < len(more) and more[at].offset < extent.offset:
            start, end = max(more[at].offset, done), min(more[at].end, extent.offset)
            if end > start:
                yield from find(start, end - start)
            if more[at].end > extent.offset:
                break  # the rest of it lies beyond this extent
            at += 1
        yield extent
        done = extent.end
    for other in more[at:]:
        start = max(other.offset, done)
        if other.end > start:
            yield from find(start, other.end - start)
