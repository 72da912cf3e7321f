"""The BAT: state and place of every block ([MS-VHDX] 2.5).

The entries of the blocks of a chunk (2^23 sectors) are followed by the one of the chunk's sector bitmap::

    │ block 0 │ block 1 │ … │ block ratio-1 │ bitmap 0 │ block ratio │ …

Each is 64 bits: the state in bits 0 to 2, the offset in MiB in bits 20 to 63.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable
from itertools import groupby

from bootpoint_common.units import MiB, round_up
from bootpoint_worker.vhdx.fault import malformed
from bootpoint_worker.vhdx.file import RandomAccess
from bootpoint_worker.vhdx.metadata import Kind, Metadata
from bootpoint_worker.vhdx.page import PAGE_BYTES, Pages
from bootpoint_worker.vhdx.region import Region

#: Sectors of a chunk: as many as the bits of a sector bitmap of 1 MiB (2.4).
CHUNK_SECTORS = 1 << 23

#: Bytes of an entry.
ENTRY_BYTES = 8

#: Bits of an entry that hold its state.
STATE_BITS = 7

_SOMETHING = re.compile(rb"[^\0]")

_ENTRY = struct.Struct("<Q")


class State(enum.IntEnum):
    """What an entry says of its block (2.5.1.1); 4 and 5 mean nothing."""

    NOT_PRESENT = 0
    """It is as in the parent; without a parent it was never written."""
    UNDEFINED = 1
    """Its content is anybody's guess; here it is zero."""
    ZERO = 2
    """It is zero."""
    UNMAPPED = 3
    """It was trimmed; here it is zero."""
    FULL = 6
    """All of its sectors are in this file; of a sector bitmap: it is in this file."""
    PARTIAL = 7
    """The sectors whose bit is set are in this file, the others as in the parent."""


class Table:
    """The entries of one file; changes wait until they are written.

    Args:
        file: The file.
        pages: Its memory.
        region: Where the table lies.
        metadata: The disk.

    Raises:
        BootpointError: ``target_check_failed``: the table is too short for the disk.
    """

    def __init__(self, *, file: RandomAccess, pages: Pages, region: Region, metadata: Metadata) -> None:
        self.ratio = CHUNK_SECTORS * metadata.sector_bytes // metadata.block_bytes
        self.blocks = -(-metadata.size_bytes // metadata.block_bytes)
        differencing = metadata.kind is Kind.DIFFERENCING
        # Without a parent the last entry is the last block's (2.5).
        self.entries = (
            -(-self.blocks // self.ratio) * (self.ratio + 1)
            if differencing
            else self.blocks + (self.blocks - 1) // self.ratio
        )
        if self.entries * ENTRY_BYTES > region.length:
            raise malformed(file.name, f"its BAT has {region.length} bytes, too few for {self.entries} entries")
        self._pages = pages
        self._start = region.offset
        self._waiting: dict[int, int] = {}

    def index(self, block: int) -> int:
        """Return which entry is a block's."""
        return block + block // self.ratio

    def bitmap_index(self, block: int) -> int:
        """Return which entry is that of the sector bitmap of a block's chunk."""
        return (block // self.ratio + 1) * (self.ratio + 1) - 1

    def is_bitmap(self, index: int) -> bool:
        """Tell whether an entry is a sector bitmap's."""
        return index % (self.ratio + 1) == self.ratio

    def block(self, index: int) -> int:
        """Return which block the entry is of; of a sector bitmap's entry, the first block behind it."""
        return index - index // (self.ratio + 1)

    def get(self, index: int) -> int:
        """Return an entry, as it will be once what waits is written."""
        if index in self._waiting:
            return self._waiting[index]
        at = self._start + index * ENTRY_BYTES
        (entry,) = _ENTRY.unpack_from(self._pages.at(at), at % PAGE_BYTES)
        return int(entry)

    def set(self, index: int, entry: int) -> None:
        """Change an entry; the file has it after `write`."""
        self._waiting[index] = entry

    @property
    def waiting(self) -> tuple[list[int], list[int]]:
        """Which entries wait to be written: those of sector bitmaps, and those of blocks."""
        bitmaps = [index for index in self._waiting if self.is_bitmap(index)]
        return bitmaps, [index for index in self._waiting if not self.is_bitmap(index)]

    def first_used(self, index: int, stop: int) -> int:
        """Return the first entry from one on that isn't all zero, at most ``stop``.

        With entries that wait it may be an earlier one: a writer doesn't look at large parts of a disk.
        """
        if self._waiting:
            return index
        while index < stop:
            at = self._start + index * ENTRY_BYTES
            if not self._pages.is_near(at, at + 1):
                self._pages.ahead(at, self._start + stop * ENTRY_BYTES)
            found = _SOMETHING.search(self._pages.at(at), at % PAGE_BYTES)
            if found:
                return min(stop, index + (found.start() - at % PAGE_BYTES) // ENTRY_BYTES)
            index += (PAGE_BYTES - at % PAGE_BYTES) // ENTRY_BYTES
        return stop

    def write(self, indices: Iterable[int]) -> None:
        """Write changed entries into the file; they don't wait any more, and are durable after a flush.

        Those of a page go at once, with the entries between them as they are in the file.
        """
        for _, near in groupby(sorted(indices), lambda index: (self._start + index * ENTRY_BYTES) // PAGE_BYTES):
            changed = list(near)
            at = self._start + changed[0] * ENTRY_BYTES
            within, length = at % PAGE_BYTES, (changed[-1] - changed[0] + 1) * ENTRY_BYTES
            span = self._pages.at(at)[within : within + length]
            for index in changed:
                _ENTRY.pack_into(span, (index - changed[0]) * ENTRY_BYTES, self._waiting.pop(index))
            self._pages.write(at, span)


def place_of(entry: int) -> int:
    """Return where an entry's block lies in the file, in bytes."""
    return entry - entry % MiB


def first_free(size: int) -> int:
    """Return where the next block of a file of that many bytes goes (2.4: blocks begin at whole MiB)."""
    return round_up(size, MiB)
