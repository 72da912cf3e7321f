"""One VHDX: what it is, and what it holds of its disk."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from bootpoint_common.units import MiB
from bootpoint_worker.vhdx.bitmap import BITMAP_BYTES, Bitmaps, stretches
from bootpoint_worker.vhdx.fault import malformed
from bootpoint_worker.vhdx.file import RandomAccess
from bootpoint_worker.vhdx.header import NO_LOG, read_headers, refuse_log
from bootpoint_worker.vhdx.metadata import Kind, Metadata, read_metadata
from bootpoint_worker.vhdx.page import Pages
from bootpoint_worker.vhdx.region import read_regions
from bootpoint_worker.vhdx.table import STATE_BITS, State, Table, place_of

#: States of blocks that have a place in the file.
_PLACED = (State.FULL, State.PARTIAL)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file this is, to be compared with what a journal or a child says of it.

    Attributes:
        file_write_id: Changes whenever the file is opened and written.
        data_write_id: Changes whenever what its disk shows may change; a child names it.
        log_empty: Whether nothing in its log is still to be done; only then is all the rest certain.
        metadata: The disk's properties, with the link to the parent.
    """

    file_write_id: UUID
    data_write_id: UUID
    log_empty: bool
    metadata: Metadata


class Held(enum.Enum):
    """Where a part of a disk is, seen from one file."""

    HERE = "here"
    """In this file."""
    BENEATH = "beneath"
    """As in the parent."""
    ZERO = "zero"
    """Nowhere: it is zero."""


class Run(NamedTuple):
    """A part of a disk that is in one place.

    Attributes:
        offset: Where it begins on the disk, in bytes.
        length: Its bytes.
        held: Where it is.
        at: Where it begins in the file, in bytes; 0 unless it is there.
    """

    offset: int
    length: int
    held: Held
    at: int = 0


def identify(file: RandomAccess) -> Identity:
    """Read which file this is; its blocks aren't looked at, and its log may be full.

    Raises:
        BootpointError: ``target_check_failed``: it is no VHDX, or damaged; see `RandomAccess` for others.
    """
    header, _ = read_headers(file)
    metadata = read_metadata(file, read_regions(file, header).metadata)
    return Identity(header.file_write_id, header.data_write_id, header.log_id == NO_LOG, metadata)


class Image:
    """One open VHDX; used by one thread at a time.

    Args:
        file: The file, which the image closes.

    Attributes:
        file: The file.
        header: The header that counts.
        slot: Which of the two it is.
        metadata: The disk.
        pages: What is remembered of its tables.
        end: The file's length in bytes, as it will be once what waits is written.

    Raises:
        BootpointError: ``target_check_failed``: it is no VHDX, damaged, or its log isn't empty.
    """

    def __init__(self, file: RandomAccess) -> None:
        self.file = file
        self.header, self.slot = read_headers(file)
        refuse_log(file.name, self.header)
        self.end = file.size()
        self._regions = read_regions(file, self.header)
        self.metadata = read_metadata(file, self._regions.metadata)
        self.pages = Pages(file=file)
        self.table = Table(file=file, pages=self.pages, region=self._regions.bat, metadata=self.metadata)
        self.bitmaps = Bitmaps(
            pages=self.pages, metadata=self.metadata, place=self._bitmap_place, ratio=self.table.ratio
        )

    def length_of(self, block: int) -> int:
        """Return how many bytes of the disk a block holds: less than a block at the disk's end."""
        return min(self.metadata.block_bytes, self.metadata.size_bytes - block * self.metadata.block_bytes)

    def state_of(self, block: int) -> State:
        """Return a block's state.

        Raises:
            BootpointError: ``target_check_failed``: it is none of the format's, or not possible in this kind of file.
        """
        state = self.table.get(self.table.index(block)) & STATE_BITS
        if state in (4, 5) or (state == State.PARTIAL and self.metadata.kind is not Kind.DIFFERENCING):
            raise malformed(self.file.name, f"block {block} is in state {state}")
        return State(state)

    def place(self, block: int) -> int:
        """Return where a block that has a place lies in the file.

        Raises:
            BootpointError: ``target_check_failed``: that is where no block can be.
        """
        return self._checked(self.table.get(self.table.index(block)), self.length_of(block), f"block {block}")

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Tell where the parts of a stretch of the disk are, in order.

        Raises:
            BootpointError: ``target_check_failed``: the file is damaged there.
        """
        size, end = self.metadata.block_bytes, offset + length
        while offset < end:
            block = offset // size
            absent = self._absent_from(block, -(-end // size))
            if absent:
                stop = min(end, (block + absent) * size)
                yield Run(offset, stop - offset, self._unwritten)
            else:
                stop = min(end, (block + 1) * size)
                yield from self._block_runs(block, offset, stop)
            offset = stop

    def is_clean(self) -> bool:
        """Tell whether the file holds no block: a leaf as the host made it."""
        return self.table.first_used(0, self.table.entries) == self.table.entries

    def check_blocks(self) -> None:
        """Look at the place of every block and every sector bitmap: a writer would destroy what two share.

        Raises:
            BootpointError: ``target_check_failed``.
        """
        used = bytearray(-(-self.end // MiB) + self.metadata.block_bytes // MiB)
        index = self.table.first_used(0, self.table.entries)
        while index < self.table.entries:
            found = self._placed(index)
            if found:
                start, stop = found[0] // MiB, -(-(found[0] + found[1]) // MiB)
                if any(used[start:stop]):
                    raise malformed(self.file.name, f"two of its blocks lie at {found[0]}")
                used[start:stop] = b"\1" * (stop - start)
            index = self.table.first_used(index + 1, self.table.entries)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self.file.close()

    @property
    def _unwritten(self) -> Held:
        return Held.BENEATH if self.metadata.parent else Held.ZERO

    def _absent_from(self, block: int, stop: int) -> int:
        """Return how many blocks from one on have an entry of zeros, sector bitmaps' entries left out."""
        table, first = self.table, block
        while block < stop:
            index = table.index(block)
            last = table.index(stop - 1) + 1
            found = table.first_used(index, last)
            if found < last and not table.is_bitmap(found):
                return table.block(found) - first
            block = table.block(found) if found < last else stop
        return stop - first

    def _block_runs(self, block: int, offset: int, stop: int) -> Iterator[Run]:
        state = self.state_of(block)
        within = offset - block * self.metadata.block_bytes
        if state == State.NOT_PRESENT:
            yield Run(offset, stop - offset, self._unwritten)
        elif state == State.FULL:
            yield Run(offset, stop - offset, Held.HERE, self.place(block) + within)
        elif state == State.PARTIAL:
            yield from self._sector_runs(block, offset, stop)
        else:
            yield Run(offset, stop - offset, Held.ZERO)

    def _sector_runs(self, block: int, offset: int, stop: int) -> Iterator[Run]:
        sector, begin, place = self.metadata.sector_bytes, block * self.metadata.block_bytes, self.place(block)
        first = (offset - begin) // sector
        count = -(-(stop - begin) // sector) - first
        for at, number, here in stretches(self.bitmaps.get(block), first, count):
            # The first and the last sector may be asked for in part.
            low = max(offset, begin + at * sector)
            high = min(stop, begin + (at + number) * sector)
            yield Run(low, high - low, Held.HERE if here else Held.BENEATH, place + low - begin if here else 0)

    def _bitmap_place(self, block: int) -> int:
        entry = self.table.get(self.table.bitmap_index(block))
        if entry & STATE_BITS != State.FULL:
            raise malformed(self.file.name, f"block {block} is there in part, and its sector bitmap isn't")
        return self._checked(entry, BITMAP_BYTES, f"the sector bitmap of block {block}")

    def _placed(self, index: int) -> tuple[int, int] | None:
        """Return place and length of what an entry says is in the file; None when it says that nothing is."""
        block = self.table.block(index)
        if self.table.is_bitmap(index):
            return self._placed_bitmap(index, block - 1)
        if block >= self.table.blocks or self.state_of(block) not in _PLACED:
            return None
        if self.state_of(block) == State.PARTIAL:
            self._bitmap_place(block)
        return self.place(block), self.length_of(block)

    def _placed_bitmap(self, index: int, block: int) -> tuple[int, int] | None:
        state = self.table.get(index) & STATE_BITS
        if state == State.NOT_PRESENT:
            return None
        if state != State.FULL or self.metadata.kind is not Kind.DIFFERENCING:
            raise malformed(self.file.name, f"the sector bitmap of block {block} is in state {state}")
        return self._bitmap_place(block), BITMAP_BYTES

    def _checked(self, entry: int, length: int, what: str) -> int:
        place = place_of(entry)
        if place + length > self.end or self._regions.overlapped(place, length):
            raise malformed(self.file.name, f"{what} can't lie at {place} of {self.end} bytes")
        return place
