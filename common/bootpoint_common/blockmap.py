"""The block map: a file that holds the entry of every grain of a disk, and the digests of its segments.

Made so that a disk of holes costs nothing: what is zero is a hole in the file, and it is read and written by
pread and pwrite (a mapping of the whole file would stay resident)::

    0      header: magic, size of the disk, grain (one page)
    4096   entries, one page for each segment
    …      segment digests, 32 bytes each; 32 zero bytes stand for "every entry is zero"
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from bootpoint_common.digest import (
    DIGEST,
    ENTRY,
    SEGMENT_GRAINS,
    Buffer,
    SegmentTable,
    grain_count,
    root,
    segment_count,
    segment_digest,
    segment_grains,
    zero_segment,
)
from bootpoint_common.durable import sync_folder
from bootpoint_common.units import GRAIN, MiB

_PAGE = SEGMENT_GRAINS * ENTRY
_MAGIC = b"BPMAP\x00\x00\x01"
_HEADER = struct.Struct(">8sQI")
_ZERO_DIGEST = bytes(DIGEST)
#: Segments that are read from a map's file at once: 1 MiB of entries.
_BATCH = MiB // _PAGE


class DamagedMap(ValueError):  # noqa: N818 - says what the file is
    """A file is no block map, or is one that was cut off; what it described has to be found out anew."""


class BlockMap:
    """A disk's entries and segment digests in a file; made by `create`, `open` and `copy_to`.

    Memory doesn't depend on the disk, apart from one byte for each segment. Used by one thread; `entries` of a map that
    nobody changes may be asked by several.
    """

    def __init__(self, path: Path, descriptor: int, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.grains = grain_count(size_bytes)
        self.segments = segment_count(size_bytes)
        self._descriptor = descriptor
        self._stale = bytearray(self.segments)
        self._touched = bytearray(self.segments)

    # -- making and ending ---------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, size_bytes: int) -> BlockMap:
        """Make the map of a disk that reads as zero, in place of a file that may be there."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        made = cls(path, descriptor, size_bytes)
        try:
            _write(descriptor, _HEADER.pack(_MAGIC, size_bytes, GRAIN), 0)
            os.ftruncate(descriptor, made._digest_at(made.segments))
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def open(cls, path: Path) -> BlockMap:
        """Open the map that `sync` left; whether its content is whole, `check` says.

        Raises:
            FileNotFoundError: There is none.
            DamagedMap: The file is no block map, or not a whole one.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            header = os.pread(descriptor, _HEADER.size, 0)
            if len(header) < _HEADER.size:
                raise DamagedMap(f"{path} is no block map")
            magic, size_bytes, grain = _HEADER.unpack(header)
            if magic != _MAGIC or grain != GRAIN:
                raise DamagedMap(f"{path} is no block map of this version")
            if os.fstat(descriptor).st_size != _PAGE + segment_count(size_bytes) * (_PAGE + DIGEST):
                raise DamagedMap(f"{path} was cut off")
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, size_bytes)

    def copy_to(self, path: Path, size_bytes: int | None = None) -> BlockMap:
        """Copy the map, for a disk that may have grown to ``size_bytes``; the copy counts as unchanged.

        What the disk grew by reads as zero. A last segment that was partial counts as changed then, because
        it has more entries now.

        Raises:
            ValueError: The disk would shrink.
        """
        size_bytes = self.size_bytes if size_bytes is None else size_bytes
        if size_bytes < self.size_bytes:
            raise ValueError(f"a disk of {self.size_bytes} bytes can't shrink to {size_bytes}")
        self._refresh()
        made = BlockMap.create(path, size_bytes)
        try:
            made._take(self)  # noqa: SLF001 - of its own class
        except BaseException:
            made.close()
            raise
        return made

    def _take(self, base: BlockMap) -> None:
        """Copy what ``base`` holds, at most 1 MiB at once, and holes as holes."""
        for start, end in base._data(_PAGE, base._digest_at(0)):
            for at in range(start, end, MiB):
                _write(self._descriptor, _read(base._descriptor, min(MiB, end - at), at), at)
        for first in range(0, base.segments, _BATCH):
            count = min(_BATCH, base.segments - first)
            stored = _read(base._descriptor, count * DIGEST, base._digest_at(first))
            if any(stored):
                _write(self._descriptor, stored, self._digest_at(first))
        if base.grains % SEGMENT_GRAINS and self.grains > base.grains:
            self._mark(base.segments - 1, base.segments)

    def sync(self) -> None:
        """Bring the segment digests up to date, and the file and its name onto stable storage."""
        self._refresh()
        os.fsync(self._descriptor)
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- entries -------------------------------------------------------------------------------------------

    def entries(self, first: int, count: int) -> bytes:
        """Return the entries of ``count`` grains from grain ``first`` on.

        Raises:
            ValueError: They don't all lie inside the disk.
        """
        self._inside(first, count)
        return _read(self._descriptor, count * ENTRY, _PAGE + first * ENTRY)

    def put(self, first: int, entries: Buffer) -> None:
        """Store the entries of consecutive grains from grain ``first`` on.

        Raises:
            ValueError: They don't all lie inside the disk, or the length is no multiple of 16.
        """
        count, rest = divmod(len(entries), ENTRY)
        if rest:
            raise ValueError(f"{len(entries)} bytes are no whole number of entries")
        self._inside(first, count)
        _write(self._descriptor, entries, _PAGE + first * ENTRY)
        self._mark(first // SEGMENT_GRAINS, -(-(first + count) // SEGMENT_GRAINS))

    def written(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """Return ranges (first grain, count) outside of which every entry in the given range is zero.

        Costs nothing for what is a hole in the map's file, however large; what it names may be zero too.
        """
        self._inside(first, count)
        for start, end in self._data(_PAGE + first * ENTRY, _PAGE + (first + count) * ENTRY):
            grain = (start - _PAGE) // ENTRY
            yield grain, -(-(end - _PAGE) // ENTRY) - grain

    # -- digests -------------------------------------------------------------------------------------------

    def segment_digests(self) -> Iterator[bytes]:
        """Return the digests of all segments, in order."""
        self._refresh()
        for first in range(0, self.segments, _BATCH):
            count = min(_BATCH, self.segments - first)
            stored = _read(self._descriptor, count * DIGEST, self._digest_at(first))
            for index in range(count):
                digest = stored[index * DIGEST : (index + 1) * DIGEST]
                yield self._zero(first + index) if digest == _ZERO_DIGEST else digest

    def changed_segments(self, base: SegmentTable | None = None) -> Iterator[tuple[int, bytes]]:
        """Return (index, digest) of what differs from the base.

        Args:
            base: The base's segment digests; by default what was touched since the map was made or copied.
        """
        expected = None if base is None else base.grown(self.size_bytes)
        for index, digest in enumerate(self.segment_digests()):
            if self._touched[index] if expected is None else digest != expected[index]:
                yield index, digest

    def rehash(self, base: SegmentTable | None = None) -> list[tuple[int, bytes]]:
        """Return `changed_segments` as a list (about 160 bytes for each 16 MiB of the disk)."""
        return list(self.changed_segments(base))

    def root(self) -> bytes:
        """Return the root of the disk."""
        return root(self.size_bytes, self.segment_digests())

    def check(self) -> list[int]:
        """Compute every segment's digest anew from its entries.

        Returns:
            The segments whose stored digest differs: the file was damaged, or not synced before a crash.
        """
        self._refresh()
        return [
            index
            for first in range(0, self.segments, _BATCH)
            for index, computed, stored in self._compute(first, min(_BATCH, self.segments - first))
            if computed != stored
        ]

    def _refresh(self) -> None:
        """Compute the digests of segments whose entries were put since they were last computed."""
        at = self._stale.find(1)
        while at >= 0:
            end = self._stale.find(0, at)
            count = min(_BATCH, (self.segments if end < 0 else end) - at)
            digests = b"".join([computed for _, computed, _ in self._compute(at, count)])
            _write(self._descriptor, digests, self._digest_at(at))
            self._stale[at : at + count] = bytes(count)
            at = self._stale.find(1, at + count)

    def _compute(self, first: int, count: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Return (index, computed, stored) for consecutive segments, in the form in which digests are stored."""
        start, end = first * SEGMENT_GRAINS, min((first + count) * SEGMENT_GRAINS, self.grains)
        stored = _read(self._descriptor, count * DIGEST, self._digest_at(first))
        hole = next(self.written(start, end - start), None) is None
        if hole and stored == bytes(len(stored)):
            return
        entries = memoryview(self.entries(start, end - start))
        for index in range(count):
            digest = segment_digest(entries[index * _PAGE : (index + 1) * _PAGE])
            if digest == self._zero(first + index):
                digest = _ZERO_DIGEST
            yield first + index, digest, stored[index * DIGEST : (index + 1) * DIGEST]

    def _zero(self, index: int) -> bytes:
        return zero_segment(segment_grains(self.size_bytes, index))

    # -- the file ------------------------------------------------------------------------------------------

    def _digest_at(self, index: int) -> int:
        return _PAGE + self.segments * _PAGE + index * DIGEST

    def _mark(self, start: int, end: int) -> None:
        self._stale[start:end] = self._touched[start:end] = b"\x01" * (end - start)

    def _inside(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self.grains:
            raise ValueError(f"grains {first} to {first + count} of a disk of {self.grains} grains")

    def _data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Return the ranges of the file, within the given one, that are no holes."""
        while start < end:
            try:
                data = os.lseek(self._descriptor, start, os.SEEK_DATA)
            except OSError as failure:
                if failure.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                    return
                raise
            if data >= end:
                return
            hole = min(end, os.lseek(self._descriptor, data, os.SEEK_HOLE))
            yield data, hole
            start = hole


def _read(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) != length:
        raise DamagedMap(f"a block map ends {length - len(data)} bytes too early")
    return data


def _write(descriptor: int, data: Buffer, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
