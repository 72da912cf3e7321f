"""A still picture of a whole disk, composed of what holds each piece of it.

::

    disk     ┌─────┬──────┬──────┬─────────────────────────────────────────────┐
             │ GPT │ ESP  │ /boot│ PV:  metadata │ extents of root, home, none   │
             └──┬──┴──┬───┴──┬───┴────────┬───────────┬─────────┬───────┬───────┘
    read from  disk  disk   disk     memory, from    snapshot  snapshot  nowhere:
                                     before the      of root   of home   zero
                                     snapshots

What comes from the disk itself doesn't change while it is read, or the picture says that it did.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bootpoint_common.extent import Extent, merge
from bootpoint_producer.sources import Source


class Content(Protocol):
    """What a piece is read from."""

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on, counted from the piece's first byte."""

    def close(self) -> None:
        """May be called twice."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the disk that doesn't come from the disk itself.

    Attributes:
        offset: First byte on the disk.
        length: Bytes.
        content: What it is read from; None reads as zero.
    """

    offset: int
    length: int
    content: Content | None

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.offset + self.length


class Memory:
    """Bytes that were read beforehand."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, offset: int, length: int) -> bytes:
        """See `Content.read`."""
        return self._content[offset : offset + length]

    def close(self) -> None:
        """See `Content.close`."""


class Linear:
    """A range of another source.

    Args:
        source: Belongs to the picture.
        start: First byte in it.
    """

    def __init__(self, source: Source, start: int) -> None:
        self._source = source
        self._start = start

    def read(self, offset: int, length: int) -> bytes:
        """See `Content.read`."""
        return self._source.read(self._start + offset, length)

    def close(self) -> None:
        """See `Content.close`."""
        self._source.close()


class Striped:
    """One stripe of a range of another source (Linux, Documentation/admin-guide/device-mapper/striped.rst).

    Args:
        source: Belongs to the picture.
        start: First byte of the range in it.
        stripes: How many stripes share the range.
        number: Which of them this is, from 0 on.
        chunk: Bytes of each that follow each other.
    """

    def __init__(self, source: Source, start: int, *, stripes: int, number: int, chunk: int) -> None:
        self._source = source
        self._start = start
        self._stripes = stripes
        self._number = number
        self._chunk = chunk

    def read(self, offset: int, length: int) -> bytes:
        """See `Content.read`."""
        parts = []
        while length:
            row, within = divmod(offset, self._chunk)
            count = min(length, self._chunk - within)
            at = self._start + (row * self._stripes + self._number) * self._chunk + within
            parts.append(self._source.read(at, count))
            offset, length = offset + count, length - count
        return b"".join(parts)

    def close(self) -> None:
        """See `Content.close`."""
        self._source.close()


class PictureSource:
    """A disk, read from its pieces and, between them, from itself.

    Args:
        disk: The disk as it is; belongs to this one.
        pieces: What comes from elsewhere; don't overlap; belong to this one.
    """

    def __init__(self, disk: Source, pieces: Sequence[Piece]) -> None:
        self.path = disk.path
        self.size_bytes = disk.size_bytes
        self._disk = disk
        self._pieces = sorted(pieces, key=lambda piece: piece.offset)
        self._starts = [piece.offset for piece in self._pieces]

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`."""
        parts = [self._read(piece, at, count) for piece, at, count in self._split(offset, length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def data_extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See `Source.data_extents`."""
        yield from merge(
            Extent(at, count, zero=piece is not None and piece.content is None)
            for piece, at, count in self._split(offset, length)
        )

    def close(self) -> None:
        """See `Source.close`."""
        self._disk.close()
        for piece in self._pieces:
            if piece.content is not None:
                piece.content.close()

    def _read(self, piece: Piece | None, offset: int, length: int) -> bytes:
        if piece is None:
            return self._disk.read(offset, length)
        if piece.content is None:
            return bytes(length)
        return piece.content.read(offset - piece.offset, length)

    def _split(self, offset: int, length: int) -> Iterator[tuple[Piece | None, int, int]]:
        """Return (piece or None for the disk itself, first byte on the disk, bytes), ascending."""
        end = offset + length
        index = max(bisect_right(self._starts, offset) - 1, 0)
        while offset < end:
            while index < len(self._pieces) and self._pieces[index].end <= offset:
                index += 1
            piece = self._pieces[index] if index < len(self._pieces) else None
            if piece is None or piece.offset >= end:
                stop, found = end, None
            elif piece.offset > offset:
                stop, found = piece.offset, None
            else:
                stop, found = min(piece.end, end), piece
            yield found, offset, stop - offset
            offset = stop
