"""Ranges of a disk: what changed, what is zero, what was skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A range of a disk.

    Attributes:
        offset: First byte, from the start of the disk.
        length: Bytes, more than 0.
        zero: Whether the range reads as zero (no data travels for it).
    """

    offset: int
    length: int
    zero: bool = False

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + self.length


def merge(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours of the same kind; the extents are ascending and don't overlap."""
    last: Extent | None = None
    for extent in extents:
        if last is not None and last.end == extent.offset and last.zero == extent.zero:
            last = Extent(last.offset, last.length + extent.length, last.zero)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last
