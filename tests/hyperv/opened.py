"""An open VHDX file: what its disk shows, and what a guest writes to it; see `avhdx`."""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Self

from bootpoint_common.units import MiB
from tests.hyperv import front, layout
from tests.hyperv.front import PARENT_MISMATCH, PARENT_NOT_FOUND, PARENT_SIZE_MISMATCH, VhdxError
from tests.hyperv.layout import Item, State

#: Most bytes that are read or written at once.
PIECE = 8 * MiB


#: Finds the file of a parent, by the path of the child and what its locator says.
Finder = Callable[[Path, dict[str, str]], Path]


def beside(child: Path, locator: dict[str, str]) -> Path:
    """Find a parent by the locator's relative path, which every writer of the format gives."""
    return child.parent.joinpath(*PureWindowsPath(locator["relative_path"]).parts)


def locator_of(parent: Vhdx, child: Path, windows_path: str | None = None) -> dict[str, str]:
    """Return what a child's locator says about its parent (2.6.2.6.3)."""
    relative = PureWindowsPath(os.path.relpath(parent.path, child.parent))
    return {
        "parent_linkage": f"{{{parent.data_guid}}}",
        "relative_path": str(relative) if relative.parts[0] == ".." else f".\\{relative}",
        "absolute_win32_path": windows_path or f"D:\\{relative}",
    }


class Vhdx:
    """An open file; use it in a ``with`` block.

    Args:
        path: Of the file.
        writable: Whether it may be changed.
        find: Finds its parent.

    Attributes:
        shape: What it is like.
        disk_id: The disk's identity, which a differencing disk has from its base.
        locator: What it says about its parent; empty without one.

    Raises:
        VhdxError: It can't be used.
    """

    def __init__(self, path: Path, *, writable: bool = False, find: Finder = beside) -> None:
        self.path = path
        self._find = find
        self._fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        self._below: Vhdx | None = None
        self._written = False
        try:
            self.header = front.read_header(self._fd)
            self._regions = front.read_regions(self._fd)
            items = front.read_items(self._fd, self._regions[layout.METADATA_REGION][0])
            self.shape = front.shape_of(items)
            self.disk_id = items[Item.DISK_ID]
            self.locator = layout.read_locator(items[Item.PARENT]) if self.shape.has_parent else {}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it and of its parent."""
        if self._below is not None:
            self._below.close()
            self._below = None
        os.close(self._fd)

    # --- identity

    @property
    def regions(self) -> list[tuple[int, int]]:
        """Offset and length of log, BAT and metadata."""
        return [self.header.log, *self._regions.values()]

    @property
    def data_guid(self) -> uuid.UUID:
        """What changes with the disk's content; a child names its parent by it."""
        return uuid.UUID(bytes_le=self.header.data_guid)

    @property
    def parent_path(self) -> Path | None:
        """Where its parent is; None without one."""
        return self._find(self.path, self.locator) if self.shape.has_parent else None

    @property
    def below(self) -> Vhdx | None:
        """Its parent, opened once; None without one.

        Raises:
            VhdxError: It isn't there, or isn't the one.
        """
        if self._below is None and (path := self.parent_path) is not None:
            if not path.exists():
                raise VhdxError(f"the parent {path.name} isn't there", PARENT_NOT_FOUND)
            self._below = Vhdx(path, find=self._find)
            linkage = uuid.UUID(self.locator["parent_linkage"])
            if linkage != self._below.data_guid:
                raise VhdxError(f"the parent {path.name} isn't the one that the disk was made on", PARENT_MISMATCH)
            if self._below.shape.size != self.shape.size:
                raise VhdxError(f"the parent {path.name} has another size", PARENT_SIZE_MISMATCH)
        return self._below

    def set_parent(self, parent: Path, windows_path: str | None = None) -> None:
        """Let it stand on another file, whose content is what the parent's was (a merge ends with this)."""
        with Vhdx(parent) as below:
            locator = locator_of(below, self.path, windows_path)
        if self._below is not None:
            self._below.close()
            self._below = None
        self.locator = locator
        start, _ = self._regions[layout.METADATA_REGION]
        put(self._fd, start, layout.metadata(self.shape, self.disk_id, locator))

    # --- blocks

    def entry(self, number: int) -> tuple[State, int]:
        """Return state and offset of a BAT entry."""
        (raw,) = struct.unpack("<Q", front.get(self._fd, self._regions[layout.BAT_REGION][0] + 8 * number, 8))
        return State(raw & layout.STATE_MASK), raw & layout.OFFSET_MASK

    def bat(self) -> tuple[int, ...]:
        """Return all entries of the BAT."""
        start, _ = self._regions[layout.BAT_REGION]
        return struct.unpack(f"<{self.shape.entries}Q", front.get(self._fd, start, 8 * self.shape.entries))

    def _set_entry(self, number: int, state: State, offset: int) -> None:
        put(self._fd, self._regions[layout.BAT_REGION][0] + 8 * number, struct.pack("<Q", offset | state))

    def _bitmap_place(self, block: int) -> tuple[int, int]:
        """Return where a block's bits begin in the file, and how many bytes they are."""
        _, start = self.entry(self.shape.bitmap_entry(block))
        length = self.shape.block_size // self.shape.sector_size // 8
        return start + block % self.shape.chunk_ratio * length, length

    def runs(self, block: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (start, end, ours) over a part of a block, by sectors: whether this file holds them, or its parent."""
        state, _ = self.entry(self.shape.payload_entry(block))
        if state is not State.PARTIAL:
            yield start, end, state not in (State.NOT_PRESENT, State.UNDEFINED) or not self.shape.has_parent
            return
        bits = int.from_bytes(front.get(self._fd, *self._bitmap_place(block)), "little")
        sector = self.shape.sector_size
        while start < end:
            left = bits >> start // sector
            # The lowest bit that differs from the first ends the run.
            others = ~left if left & 1 else left
            count = (others & -others).bit_length() - 1 if others else end
            stop = min(end, (start // sector + count) * sector)
            yield start, stop, bool(left & 1)
            start = stop

    def read(self, offset: int, length: int) -> bytes:
        """Read what the disk shows."""
        return b"".join(self._read_block(*part) for part in self._parts(offset, length))

    def _read_block(self, block: int, start: int, end: int) -> bytes:
        state, where = self.entry(self.shape.payload_entry(block))
        found = b""
        for first, last, ours in self.runs(block, start, end):
            if ours and state in (State.FULL, State.PARTIAL):
                found += front.get(self._fd, where + first, last - first)
            elif not ours and self.below is not None:
                found += self.below.read(block * self.shape.block_size + first, last - first)
            else:
                found += bytes(last - first)
        return found

    def _parts(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (block, start in it, end in it) of a range."""
        size = self.shape.block_size
        if offset < 0 or offset + length > self.shape.size:
            raise ValueError(f"{length} bytes at {offset} don't lie inside a disk of {self.shape.size}")
        while length:
            start = offset % size
            part = min(length, size - start)
            yield offset // size, start, start + part
            offset, length = offset + part, length - part

    def write(self, offset: int, data: bytes) -> None:
        """Write whole sectors, as a guest does."""
        if offset % self.shape.sector_size or len(data) % self.shape.sector_size:
            raise ValueError("a disk is written by sectors")
        self.renew()
        view = memoryview(data)
        for block, start, end in self._parts(offset, len(data)):
            where = self._allocate(block)
            put(self._fd, where + start, view[: end - start])
            view = view[end - start :]
            if self.entry(self.shape.payload_entry(block))[0] is State.PARTIAL:
                self._mark(block, start // self.shape.sector_size, end // self.shape.sector_size)

    def _allocate(self, block: int) -> int:
        """Return where a block is in the file, after a place was found for it."""
        number = self.shape.payload_entry(block)
        state, where = self.entry(number)
        if state in (State.FULL, State.PARTIAL):
            return where
        where = self._append(self.shape.block_size)
        partial = self.shape.has_parent and state in (State.NOT_PRESENT, State.UNDEFINED)
        if partial:
            bitmap = self.shape.bitmap_entry(block)
            if self.entry(bitmap)[0] is not State.FULL:
                self._set_entry(bitmap, State.FULL, self._append(MiB))
            place, length = self._bitmap_place(block)
            put(self._fd, place, bytes(length))
        self._set_entry(number, State.PARTIAL if partial else State.FULL, where)
        return where

    def _append(self, length: int) -> int:
        """Make the file longer, by zeros, and return where they begin."""
        where = -(-os.fstat(self._fd).st_size // MiB) * MiB
        os.ftruncate(self._fd, where + length)
        return where

    def _mark(self, block: int, first: int, last: int) -> None:
        """Say of sectors of a block that they are in this file."""
        place, length = self._bitmap_place(block)
        bits = int.from_bytes(front.get(self._fd, place, length), "little") | (1 << last) - (1 << first)
        put(self._fd, place, bits.to_bytes(length, "little"))

    def renew(self) -> None:
        """Give the file new identities before its first byte changes (2.2.2.1), older header first."""
        if self._written:
            return
        self._written = True
        head = self.header
        head.file_guid, head.data_guid = uuid.uuid4().bytes_le, uuid.uuid4().bytes_le
        for _ in layout.HEADERS:
            head.sequence += 1
            written = layout.header(head.sequence, head.file_guid, head.data_guid)
            put(self._fd, layout.HEADERS[head.sequence % 2], written)

    def present(self) -> list[int]:
        """Return the numbers of the blocks that this file says anything about."""
        ratio = self.shape.chunk_ratio + 1
        states = ((number, raw & layout.STATE_MASK) for number, raw in enumerate(self.bat()) if raw)
        said = (number for number, state in states if state not in (State.NOT_PRESENT, State.UNDEFINED))
        return [number - number // ratio for number in said if number % ratio < ratio - 1]

    def content(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of everything that this file holds itself, a piece at a time."""
        size = self.shape.block_size
        for block in self.present():
            end = min(size, self.shape.size - block * size)
            for start, stop, ours in self.runs(block, 0, end):
                for first in range(start, stop, PIECE) if ours else ():
                    yield block * size + first, self._read_block(block, first, min(stop, first + PIECE))


def put(fd: int, offset: int, data: bytes | memoryview) -> None:
    """Write bytes as a whole."""
    if os.pwrite(fd, data, offset) != len(data):
        raise OSError(f"{len(data)} bytes weren't written as a whole")
