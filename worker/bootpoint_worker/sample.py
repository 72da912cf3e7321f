"""Which grains a commit reads back from the replica: 1 % of what was written, and at least 64.

The choice is made by a hash of the point and the grain's number: nobody can foresee it, and a slice on another worker
makes the same one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from uuid import UUID

from blake3 import blake3

from bootpoint_common.digest import ZERO_ENTRY, grain_digest
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN

#: Share of the grains that is read back whatever their number.
SHARE = 0.01

#: Least number of grains that is read back, as far as there are so many.
LEAST = 64

_LIMIT = int(SHARE * 2**64)


class Sampler:
    """Chooses grains of one stream as they are written.

    Args:
        point_id: The boot point.
        known: Grains that earlier slices chose.
    """

    def __init__(self, point_id: UUID, known: Iterable[int] = ()) -> None:
        self._key = point_id.bytes
        # The LEAST smallest hashes so far, as a heap of their negatives: the largest of them is at the top.
        self._smallest: list[int] = []
        for grain in known:
            self._chosen(grain)

    def add(self, extents: Iterable[Extent], payload: memoryview) -> dict[int, bytes]:
        """Return number and digest of the chosen ones among the grains of a bundle."""
        found: dict[int, bytes] = {}
        position = 0
        for extent in extents:
            if extent.zero:
                found.update((grain, ZERO_ENTRY) for grain in _ends(extent) if self._chosen(grain))
                continue
            for offset in range(extent.offset, extent.end, GRAIN):
                size = min(GRAIN, extent.end - offset)
                if self._chosen(offset // GRAIN):
                    found[offset // GRAIN] = grain_digest(payload[position : position + size])
                position += size
        return found

    def _chosen(self, grain: int) -> bool:
        value = int.from_bytes(blake3(self._key + grain.to_bytes(8, "big")).digest(length=8), "big")
        if len(self._smallest) < LEAST:
            heapq.heappush(self._smallest, -value)
            return True
        if value < -self._smallest[0]:
            heapq.heapreplace(self._smallest, -value)
            return True
        return value < _LIMIT


def _ends(extent: Extent) -> Iterator[int]:
    """Yield the first and the last grain of a zero extent, which may be as large as the disk."""
    first, last = extent.offset // GRAIN, (extent.end - 1) // GRAIN
    yield first
    if last != first:
        yield last
