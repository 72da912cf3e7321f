"""What the program writes: the cells of one disk's open generation, mapped into memory.

::

    element 0   sectors, shift, level 1, level 2, overflow   read by the program
    element 0   tracker's id, generation, missed events      ours
    element 1   digest of the disk's identity, links         ours
    from 2 on   level 0, level 1, level 2: a byte a cell, 64 cells an element

`writes.bpf.c` says why there are three levels.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from bootpoint_common.units import GRAIN, SECTOR, MiB
from bootpoint_producer.trackers.grains import Grains

from . import library

#: Bytes, and cells, of an element.
ELEMENT = 64
#: Cells of a level for one of the next.
_RATIO = 64
#: Elements before level 0.
_HEADER_ELEMENTS = 2
#: Most cells of level 0: 32 MiB that the kernel holds, for 2 TiB at 64 KiB a cell; larger disks get larger cells.
MOST_CELLS = 32 * MiB

_HEADER = struct.Struct("<QIIII16sQQ8x32sII24x")
_OVERFLOW_AT = 20
_RUN = re.compile(rb"\x01+")


@dataclass(frozen=True, slots=True)
class Header:
    """What the first elements say.

    Attributes:
        size_bytes: Size of the disk when its tracking began.
        cell_bytes: Size of a cell of level 0.
        tracker: Id of the tracking.
        sequence: Number of the generation.
        missed: Events that the kernel had left out before the generation began.
        identity: Digest of the disk's identity.
        links: Ids of the links by which the program hears of writes.
        overflow: Whether more was written than the cells hold.
    """

    size_bytes: int
    cell_bytes: int
    tracker: bytes
    sequence: int
    missed: int
    identity: bytes
    links: tuple[int, int]
    overflow: bool = False

    @classmethod
    def of(cls, size_bytes: int, *, tracker: bytes, missed: int, identity: bytes, links: tuple[int, int]) -> Header:
        """Make that of a disk's first generation."""
        cell = GRAIN
        while -(-size_bytes // cell) > MOST_CELLS:
            cell *= 2
        return cls(size_bytes, cell, tracker, 1, missed, identity, links)

    @property
    def levels(self) -> tuple[int, int, int]:
        """Elements of each level."""
        cells = -(-self.size_bytes // self.cell_bytes)
        first = -(-cells // _RATIO)
        second = -(-first // _RATIO)
        return first, second, -(-second // _RATIO)

    @property
    def elements(self) -> int:
        """Elements of the whole array."""
        return _HEADER_ELEMENTS + sum(self.levels)


class Cells:
    """An array of cells in memory; see `opened` and `made`.

    Args:
        memory: The mapped array.
        header: What its first elements say.
    """

    def __init__(self, memory: mmap.mmap, header: Header) -> None:
        self._memory = memory
        self.header = header

    def mark_overflow(self) -> None:
        """Say that the generation can't be believed."""
        self._memory[_OVERFLOW_AT : _OVERFLOW_AT + 4] = b"\x01\0\0\0"

    def write_header(self, *, sequence: int, missed: int) -> None:
        """Write a generation's beginning; nothing uses the array yet."""
        self.header = replace(self.header, sequence=sequence, missed=missed)
        self._memory[: _HEADER.size] = _packed(self.header)

    def read(self) -> tuple[Grains, bool]:
        """Return what was written so far, and whether it was more than the cells hold."""
        grain = self.header.cell_bytes
        count = -(-self.header.size_bytes // grain)
        start = _HEADER_ELEMENTS * ELEMENT
        cells = bytearray(self._memory[start : start + count])
        factor = 1
        for elements in self.header.levels[:2]:
            start += elements * ELEMENT
            factor *= _RATIO
            for run in _RUN.finditer(self._memory[start : start + -(-count // factor)]):
                first, end = run.start() * factor, min(run.end() * factor, count)
                cells[first:end] = b"\x01" * (end - first)
        return Grains(bytes(cells), grain), _unpacked(self._memory).overflow

    @classmethod
    @contextmanager
    def opened(cls, descriptor: int) -> Iterator[Self]:
        """Map a map that `made` made.

        Raises:
            ValueError: It is none.
        """
        with library.mapped(descriptor, _HEADER_ELEMENTS, ELEMENT) as small:
            header = _unpacked(small)
        with library.mapped(descriptor, header.elements, ELEMENT) as memory:
            yield cls(memory, header)


def made(header: Header) -> int:
    """Make an array for a disk; returns its descriptor.

    Raises:
        OSError: The kernel refuses it.
    """
    descriptor = library.new_array(header.elements, ELEMENT)
    try:
        with library.mapped(descriptor, header.elements, ELEMENT) as memory:
            memory[: _HEADER.size] = _packed(header)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _packed(header: Header) -> bytes:
    first, second, _ = header.levels
    return _HEADER.pack(
        header.size_bytes // SECTOR,
        (header.cell_bytes // SECTOR).bit_length() - 1,
        _HEADER_ELEMENTS + first,
        _HEADER_ELEMENTS + first + second,
        header.overflow,
        header.tracker,
        header.sequence,
        header.missed,
        header.identity,
        *header.links,
    )


def _unpacked(memory: mmap.mmap) -> Header:
    sectors, shift, _, _, overflow, tracker, sequence, missed, identity, *links = _HEADER.unpack(memory[: _HEADER.size])
    return Header(
        size_bytes=sectors * SECTOR,
        cell_bytes=SECTOR << shift,
        tracker=tracker,
        sequence=sequence,
        missed=missed,
        identity=identity,
        links=(links[0], links[1]),
        overflow=bool(overflow),
    )
