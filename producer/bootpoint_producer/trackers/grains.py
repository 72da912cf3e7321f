"""A set of grains of one disk: what a tracker saw written.

One byte a grain, 0 or 1: eight times the size of a bit set, but kernels before 5.12 have no atomic "or" for a BPF
program, and a byte needs none. Runs are found at memory speed by a regular expression, unions are made by whole
numbers, and a stored set is compressed, which leaves next to nothing of it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN

_RUN = re.compile(rb"\x01+")


@dataclass(frozen=True, slots=True)
class Grains:
    """A set of grains.

    Attributes:
        cells: A byte for each grain of the disk, 1 where it is in the set.
        grain_bytes: Size of a grain: `GRAIN`, or a power of two times that.
    """

    cells: bytes
    grain_bytes: int = GRAIN

    @classmethod
    def of(cls, extents: Iterable[Extent], size_bytes: int) -> Grains:
        """Make the set of all grains that extents touch.

        Args:
            extents: In any order and alignment; what lies beyond the disk's end is left out.
            size_bytes: Size of the disk.
        """
        cells = bytearray(-(-size_bytes // GRAIN))
        for extent in extents:
            first, end = extent.offset // GRAIN, min(-(-extent.end // GRAIN), len(cells))
            if first < end:
                cells[first:end] = b"\x01" * (end - first)
        return cls(bytes(cells))

    @property
    def count(self) -> int:
        """How many grains are in the set."""
        return self.cells.count(1)

    def has(self, offset: int) -> bool:
        """Return whether the grain at a byte of the disk is in the set."""
        index = offset // self.grain_bytes
        return index < len(self.cells) and self.cells[index] == 1

    def union(self, other: Grains) -> Grains:
        """Return what is in either set.

        Raises:
            ValueError: The sets are of different disks or grains.
        """
        if len(self.cells) != len(other.cells) or self.grain_bytes != other.grain_bytes:
            raise ValueError("sets of grains of different disks")
        both = int.from_bytes(self.cells, "little") | int.from_bytes(other.cells, "little")
        return Grains(both.to_bytes(len(self.cells), "little"), self.grain_bytes)

    def extents(self, size_bytes: int) -> Iterator[Extent]:
        """Return the set's runs as extents, ascending, cut at the disk's end.

        Args:
            size_bytes: Size of the disk.
        """
        for run in _RUN.finditer(self.cells):
            start, end = run.start() * self.grain_bytes, min(run.end() * self.grain_bytes, size_bytes)
            if start < end:
                yield Extent(start, end - start)

    def packed(self) -> bytes:
        """Return the set in few bytes, for `unpacked`; damage is noticed (zlib keeps a checksum)."""
        return zlib.compress(self.cells, 1)

    @classmethod
    def unpacked(cls, packed: bytes, count: int, grain_bytes: int) -> Grains:
        """Read what `packed` made.

        Args:
            packed: The bytes.
            count: Grains of the disk.
            grain_bytes: Size of a grain.

        Raises:
            ValueError: The bytes are damaged, or of another disk.
        """
        reader = zlib.decompressobj()
        try:
            cells = reader.decompress(packed, count + 1)
        except zlib.error as damage:
            raise ValueError(f"a set of grains is damaged: {damage}") from damage
        if len(cells) != count or not reader.eof:
            raise ValueError("a set of grains is damaged, or of another disk")
        return cls(cells, grain_bytes)
