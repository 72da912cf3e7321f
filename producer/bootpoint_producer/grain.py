"""Extents in whole grains, the unit of change."""

from __future__ import annotations

from collections.abc import Iterator

from bootpoint_common.extent import Extent, merge
from bootpoint_common.units import GRAIN, round_up


def whole_grains(extents: Iterator[Extent], size_bytes: int) -> Iterator[Extent]:
    """Widen extents to whole grains; a grain that is only partly zero for certain has to be read.

    Args:
        extents: Ascending, without overlap.
        size_bytes: Size of the disk, where its last grain ends.
    """

    def pieces() -> Iterator[Extent]:
        done = 0
        for extent in extents:
            start = extent.offset // GRAIN * GRAIN
            end = min(size_bytes, round_up(extent.end, GRAIN))
            zero_start, zero_end = end, end
            if extent.zero:
                zero_start = round_up(extent.offset, GRAIN)
                zero_end = end if extent.end == size_bytes else extent.end // GRAIN * GRAIN
                if zero_end <= zero_start:
                    zero_start = zero_end = end
            for first, last, zero in ((start, zero_start, False), (zero_start, zero_end, True), (zero_end, end, False)):
                first = max(first, done)  # noqa: PLW2901 - its front may be done already
                if last > first:
                    yield Extent(first, last - first, zero)
                    done = last

    return merge(pieces())
