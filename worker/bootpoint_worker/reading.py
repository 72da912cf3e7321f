"""Digests of a disk as its replica reads, segment by segment.

::

    a thread      extents ─► data ranges ─► stream (requests under way) ─► queue of pieces
    the caller                                                               └─► entries ─► segments

What reads as zero for certain is not read. Hashing and receiving go on side by side: each of them takes about as long.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from bootpoint_common.digest import ENTRY, SEGMENT, grain_digests, segment_digest, segment_grains
from bootpoint_common.units import GRAIN, MiB, round_up

from .targets.base import PIECE, PIECES_KEPT, LayerReader

#: Segments that the host is asked about at once: which parts of 1 GiB hold data.
WINDOW = 1024 * MiB // SEGMENT

#: Pieces that wait for the caller; one more is in its hands and one in the thread's.
_AHEAD = PIECES_KEPT - 3


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it was read.

    Attributes:
        number: Which one.
        entries: An entry for each of its grains.
        read_bytes: Bytes that had to be read for it.
    """

    number: int
    entries: bytes
    read_bytes: int

    @property
    def digest(self) -> bytes:
        """Its digest."""
        return segment_digest(self.entries)


def read_segments(reader: LayerReader, first: int, end: int) -> Generator[Segment, None, None]:
    """Read segments ``first`` to before ``end``, in order.

    Args:
        reader: Used by a thread of its own until the iterator ends or is closed.
        first: First segment.
        end: The one after the last.

    Raises:
        BootpointError: What the reader raises.
    """
    number, read_bytes = first, 0
    entries = bytearray(segment_grains(reader.size_bytes, number) * ENTRY) if first < end else bytearray()
    with closing(_ahead(reader, first, end)) as pieces:
        for offset, data in pieces:
            while offset // SEGMENT > number:
                yield Segment(number, bytes(entries), read_bytes)
                number, read_bytes = number + 1, 0
                entries = bytearray(segment_grains(reader.size_bytes, number) * ENTRY)
            at = (offset - number * SEGMENT) // GRAIN * ENTRY
            found = grain_digests(data)
            entries[at : at + len(found)] = found
            read_bytes += len(data)
    while number < end:
        yield Segment(number, bytes(entries), read_bytes)
        number, read_bytes = number + 1, 0
        entries = bytearray(max(0, segment_grains(reader.size_bytes, number)) * ENTRY)


def read_segment(reader: LayerReader, number: int) -> Segment:
    """Read one segment, in the caller's thread."""
    entries = bytearray(segment_grains(reader.size_bytes, number) * ENTRY)
    read_bytes = 0
    for offset, data in reader.stream(_data(reader, number, number + 1)):
        found = grain_digests(data)
        at = (offset - number * SEGMENT) // GRAIN * ENTRY
        entries[at : at + len(found)] = found
        read_bytes += len(data)
    return Segment(number, bytes(entries), read_bytes)


def _data(reader: LayerReader, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges that may hold something, of whole grains, none of them across the end of a piece."""
    for window in range(first, end, WINDOW):
        start = window * SEGMENT
        length = min(min(window + WINDOW, end) * SEGMENT, reader.size_bytes) - start
        done = start
        for offset, size, zero in reader.extents(start, length):
            if zero:
                continue
            at = max(done, offset // GRAIN * GRAIN)
            done = min(reader.size_bytes, round_up(offset + size, GRAIN))
            while at < done:
                part = min(done - at, PIECE - at % PIECE)
                yield at, part
                at += part


def _ahead(reader: LayerReader, first: int, end: int) -> Generator[tuple[int, memoryview], None, None]:
    """Yield the pieces of `LayerReader.stream` from a thread that reads on meanwhile."""
    pieces: queue.Queue[tuple[int, memoryview] | BaseException | None] = queue.Queue(_AHEAD)
    over = threading.Event()

    def put(item: tuple[int, memoryview] | BaseException | None) -> bool:
        while not over.is_set():
            try:
                pieces.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            with closing(reader.stream(_data(reader, first, end))) as stream:
                for piece in stream:
                    if not put(piece):
                        return
        except BaseException as problem:  # noqa: BLE001 - the thread's boundary: the caller raises it
            put(problem)
            return
        put(None)

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        while (item := pieces.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
        thread.join()
