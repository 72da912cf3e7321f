"""Digests of a disk: grain, segment, root.

::

    disk      │ grain 0 │ grain 1 │ …            │ last grain: only the bytes that exist │
                  │ BLAKE3, 16 bytes; all-zero data gives 16 zero bytes
    entries   │ e0 e1 … e255 │ e256 … e511 │ … │ last segment: only the entries that exist │
                  │ BLAKE3, 32 bytes, over the entries
    segments  │ s0           │ s1          │ …
                  │ BLAKE3, 32 bytes, over size (u64, big-endian) ‖ grain (u32, big-endian) ‖ s0 ‖ s1 ‖ …
    root      │ r
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias

from blake3 import blake3

from bootpoint_common.units import GRAIN

#: Anything that holds bytes and can be hashed without a copy.
Buffer: TypeAlias = bytes | bytearray | memoryview

#: Bytes of a grain's entry.
ENTRY = 16
#: Grains of a segment; its entries fill one page of the map's file.
SEGMENT_GRAINS = 256
#: Bytes of a disk that a segment covers.
SEGMENT = SEGMENT_GRAINS * GRAIN
#: Bytes of a segment's digest and of the root.
DIGEST = 32
#: Entry of a grain that reads as zero.
ZERO_ENTRY = bytes(ENTRY)


@lru_cache(maxsize=8)
def _zero_grain(length: int) -> bytes:
    return blake3(bytes(length)).digest(length=ENTRY)


_ZERO_GRAIN = _zero_grain(GRAIN)


def grain_digest(data: Buffer) -> bytes:
    """Return the entry of one grain: 16 bytes, all zero when every byte of ``data`` is zero.

    Args:
        data: The grain as the replica reads it; of the last one the bytes that exist.
    """
    digest = blake3(data).digest(length=ENTRY)
    # Comparing digests finds zeros at no cost; looking at the bytes first would read the grain twice.
    zero = _ZERO_GRAIN if len(data) == GRAIN else _zero_grain(len(data))
    return ZERO_ENTRY if digest == zero else digest


def grain_digests(data: Buffer) -> bytes:
    """Return the entries of consecutive grains, the last of which may be partial."""
    view = memoryview(data)
    whole = len(view) // GRAIN * GRAIN
    # Few steps for each grain: threads that digest at the same time wait for each other's.
    digests = [blake3(view[at : at + GRAIN]).digest(ENTRY) for at in range(0, whole, GRAIN)]
    if _ZERO_GRAIN in digests:
        digests = [ZERO_ENTRY if each == _ZERO_GRAIN else each for each in digests]
    if whole < len(view):
        digests.append(grain_digest(view[whole:]))
    return b"".join(digests)


def segment_digest(entries: Buffer) -> bytes:
    """Return the digest of a segment from its entries (16 bytes for each grain that exists)."""
    return blake3(entries).digest()


@lru_cache(maxsize=8)
def zero_segment(grains: int = SEGMENT_GRAINS) -> bytes:
    """Return the digest of a segment of ``grains`` grains that all read as zero."""
    return segment_digest(bytes(grains * ENTRY))


def root(size_bytes: int, segment_digests: Iterable[bytes]) -> bytes:
    """Return the root of a disk: 32 bytes that stand for its size and every byte of it."""
    hasher = blake3(struct.pack(">QI", size_bytes, GRAIN))
    for digest in segment_digests:
        hasher.update(digest)
    return hasher.digest()


def grain_count(size_bytes: int) -> int:
    """Return how many grains a disk has, a partial last one counted."""
    return -(-size_bytes // GRAIN)


def segment_count(size_bytes: int) -> int:
    """Return how many segments a disk has, a partial last one counted."""
    return -(-size_bytes // SEGMENT)


def segment_grains(size_bytes: int, index: int) -> int:
    """Return how many grains segment ``index`` of a disk has: 256, or fewer in the last one."""
    return min(SEGMENT_GRAINS, grain_count(size_bytes) - index * SEGMENT_GRAINS)


def as_text(digest: bytes) -> str:
    """Write a digest as people and JSON see it: ``b3:<hex>``."""
    return f"b3:{digest.hex()}"


def from_text(text: str) -> bytes:
    """Read what `as_text` wrote.

    Raises:
        ValueError: The text is no digest.
    """
    prefix, _, digits = text.partition(":")
    if prefix != "b3":
        raise ValueError(f"{text!r} is no digest: it starts with 'b3:'")
    return bytes.fromhex(digits)


class SegmentTable:
    """The segment digests of a disk without its entries: what the other side of an agent keeps.

    Args:
        size_bytes: Size of the disk.
        digests: One for each segment, in order; by default those of a disk that reads as zero.

    Raises:
        ValueError: The number of digests doesn't fit the size.
    """

    def __init__(self, size_bytes: int, digests: Iterable[bytes] | None = None) -> None:
        self.size_bytes = size_bytes
        count = segment_count(size_bytes)
        if digests is not None:
            self._digests = bytearray(b"".join(digests))
        elif count:
            last = zero_segment(segment_grains(size_bytes, count - 1))
            self._digests = bytearray(zero_segment() * (count - 1) + last)
        else:
            self._digests = bytearray()
        if len(self._digests) != count * DIGEST:
            raise ValueError(f"{len(self._digests) / DIGEST:g} segment digests for a disk of {count} segments")

    def grown(self, size_bytes: int) -> SegmentTable:
        """Return the table of the disk after it grew: the new area reads as zero.

        A last segment that was partial is kept as it was: only its entries could tell its new digest, so
        the side that holds them always sends it.
        """
        table = SegmentTable(size_bytes)
        if len(table) < len(self):
            raise ValueError(f"a disk of {self.size_bytes} bytes can't shrink to {size_bytes}")
        table._digests[: len(self._digests)] = self._digests
        return table

    def update(self, changed: Iterable[tuple[int, bytes]]) -> None:
        """Put in changed segments (index, digest).

        Raises:
            ValueError: An index lies outside the disk, or a digest isn't 32 bytes.
        """
        for index, digest in changed:
            if not 0 <= index < len(self) or len(digest) != DIGEST:
                raise ValueError(f"segment {index} of {len(self)}, {len(digest)} bytes of digest")
            self._digests[index * DIGEST : (index + 1) * DIGEST] = digest

    def __len__(self) -> int:
        return len(self._digests) // DIGEST

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return bytes(self._digests[index * DIGEST : (index + 1) * DIGEST])

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def root(self) -> bytes:
        """Return the root of the disk that has these segments."""
        return root(self.size_bytes, (bytes(self._digests),))
