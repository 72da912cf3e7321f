"""Reading, digesting and comparing ahead of who uses it: on two threads, for one alone is half as fast as b3sum.

Each thread drops what didn't change itself, so that it reads into the same memory again and again: memory that another
core has just touched, or that the kernel has to give anew, costs more than the reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from bootpoint_common.digest import ENTRY, grain_digests
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.sources.base import READ, Source

#: Threads that read: what keeps two cores busy.
READERS = 2
#: Pieces of at most 1 MiB that a thread gets at once, so that handing them over costs little.
_AT_ONCE = 4
#: Such lots on their way at once: one in each thread's hands, and the next one. At most 12 MiB of data.
_AHEAD = READERS + 1

#: A block of this size is asked for once, and given back: from then on glibc keeps what is free below twice as much
#: (mallopt(3), M_TRIM_THRESHOLD), instead of returning it to the kernel after each piece.
_KEPT = 16 * MiB

_ZERO_READ = bytes(READ)


@dataclass(frozen=True, slots=True)
class Read:
    """A piece of a disk that was read, or one that needn't be because it is zero.

    Attributes:
        extent: Where; whole grains.
        entries: Their entries; empty for what is zero.
        data: Their bytes; empty where the entries are as known, and for what is zero.
    """

    extent: Extent
    entries: bytes = b""
    data: bytes = b""


def digested(source: Source, extents: Iterable[Extent], known: Callable[[int, int], bytes]) -> Iterator[Read]:
    """Return extents in pieces of at most 1 MiB, in order.

    Args:
        source: The disk; its `read` is called by several threads.
        extents: Whole grains.
        known: Returns the known entries of grains (first, count); called by the caller's thread, ahead of what it gets.

    Raises:
        BootpointError: ``disk_read_error``.
    """
    bytes(_KEPT)
    pieces = _pieces(extents)
    waiting: deque[Future[list[Read]]] = deque()
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="read")
    try:
        while lot := [(each, _known(each, known)) for each in islice(pieces, _AT_ONCE)]:
            waiting.append(pool.submit(_read, source, lot))
            if len(waiting) >= _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def entries_of(data: bytes) -> bytes:
    """Return the entries of what was read; of zeros at the cost of a look at them."""
    if data == _ZERO_READ:
        return bytes(len(data) // GRAIN * ENTRY)
    return grain_digests(data)


def _known(piece: Extent, known: Callable[[int, int], bytes]) -> bytes:
    return b"" if piece.zero else known(piece.offset // GRAIN, -(-piece.length // GRAIN))


def _read(source: Source, lot: list[tuple[Extent, bytes]]) -> list[Read]:
    return [Read(piece) if piece.zero else _compared(source, piece, known) for piece, known in lot]


def _compared(source: Source, piece: Extent, known: bytes) -> Read:
    # A function of its own, so that the memory is free before the next piece is read.
    data = source.read(piece.offset, piece.length)
    entries = entries_of(data)
    return Read(piece, entries, b"" if entries == known else data)


def _pieces(extents: Iterable[Extent]) -> Iterator[Extent]:
    for extent in extents:
        if extent.zero:
            yield extent
            continue
        for offset in range(extent.offset, extent.end, READ):
            yield Extent(offset, min(READ, extent.end - offset))
