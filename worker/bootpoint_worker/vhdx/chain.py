"""A VHDX and its parents, read as the one disk that they make."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from bootpoint_worker.targets.base import PIECE, PIECES_KEPT
from bootpoint_worker.vhdx.fault import malformed
from bootpoint_worker.vhdx.file import RandomAccess
from bootpoint_worker.vhdx.image import Held, Image


class Part(NamedTuple):
    """A part of a disk that is in one file of a chain, or zero.

    Attributes:
        offset: Where it begins on the disk, in bytes.
        length: Its bytes.
        depth: Which file, 0 is the leaf; None where it is zero.
        at: Where it begins in that file, in bytes.
    """

    offset: int
    length: int
    depth: int | None
    at: int


class Chain:
    """A leaf with its parents; a reader of its disk (see `LayerReader`), used by one thread at a time.

    Args:
        files: The leaf, then each one's parent, to the one that stands alone. The chain closes them, at once when they
            make none.

    Attributes:
        images: The files, leaf first.
        size_bytes: Size of the leaf's disk.

    Raises:
        BootpointError: ``target_check_failed``: one is damaged, has a log that isn't empty, or isn't another's parent.
    """

    def __init__(self, files: Sequence[RandomAccess]) -> None:
        try:
            self.images = [Image(file) for file in files]
            for child, parent in pairwise(self.images):
                _check_link(child, parent)
            if self.images[-1].metadata.parent is not None:
                raise malformed(files[-1].name, "it has a parent, which isn't there")
        except BaseException:
            for file in files:
                file.close()
            raise
        self.size_bytes = self.images[0].metadata.size_bytes

    def parts(self, offset: int, length: int) -> Iterator[Part]:
        """Tell where the parts of a stretch of the disk are, in order."""
        if offset < 0 or offset + length > self.size_bytes:
            raise ValueError(f"{length} bytes at {offset} lie outside a disk of {self.size_bytes}")
        return self._parts(0, offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes; see `LayerReader.read`."""
        buffer = bytearray(length)
        self._fill([(offset, memoryview(buffer))])
        return bytes(buffer)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Tell what reads as zero for certain; see `LayerReader.extents`."""
        begun, zero, end = offset, False, offset
        for part in self.parts(offset, length):
            if (part.depth is None) != zero:
                if end > begun:
                    yield begun, end - begun, zero
                begun, zero = part.offset, part.depth is None
            end = part.offset + part.length
        if end > begun:
            yield begun, end - begun, zero

    def stream(self, ranges: Iterable[tuple[int, int]]) -> Generator[tuple[int, memoryview], None, None]:
        """Read as many pieces at a time as may be looked at; see `LayerReader.stream`."""
        pieces = (
            (at, min(PIECE, offset + length - at))
            for offset, length in ranges
            for at in range(offset, offset + length, PIECE)
        )
        while batch := [(at, memoryview(bytearray(size))) for at, size in islice(pieces, PIECES_KEPT)]:
            self._fill(batch)
            yield from batch

    def close(self) -> None:
        """Close all files; may be called twice."""
        for image in self.images:
            image.close()

    def _parts(self, depth: int, offset: int, length: int) -> Iterator[Part]:
        for run in self.images[depth].runs(offset, length):
            if run.held is Held.BENEATH:
                yield from self._beneath(depth + 1, run.offset, run.length)
            else:
                yield Part(run.offset, run.length, depth if run.held is Held.HERE else None, run.at)

    def _beneath(self, depth: int, offset: int, length: int) -> Iterator[Part]:
        """Look into a parent, whose disk may be smaller: the disk was enlarged later."""
        inside = max(0, min(length, self.images[depth].metadata.size_bytes - offset))
        if inside:
            yield from self._parts(depth, offset, inside)
        if inside < length:
            yield Part(offset + inside, length - inside, None, 0)

    def _fill(self, wanted: list[tuple[int, memoryview]]) -> None:
        """Fill buffers with what the disk holds from the offset beside each on; they are zero before."""
        by_file: dict[int, list[tuple[int, memoryview]]] = {}
        for offset, buffer in wanted:
            for part in self.parts(offset, len(buffer)):
                if part.depth is not None:
                    start = part.offset - offset
                    by_file.setdefault(part.depth, []).append((part.at, buffer[start : start + part.length]))
        for depth, asked in by_file.items():
            file = self.images[depth].file
            found = file.read_many([(at, len(buffer)) for at, buffer in asked])
            for (at, buffer), data in zip(asked, found, strict=True):
                if len(data) != len(buffer):
                    raise malformed(file.name, f"it ends within a block: {len(buffer)} bytes at {at} aren't there")
                buffer[:] = data


def _check_link(child: Image, parent: Image) -> None:
    link, found = child.metadata.parent, parent.header.data_write_id
    if link is None:
        raise malformed(child.file.name, f"it has no parent, and can't stand on {parent.file.name}")
    if not link.names(found):
        raise malformed(
            child.file.name,
            f"it was made above {link.linkage}, and {parent.file.name} is {found}: another file, or written since",
        )
    if child.metadata.sector_bytes != parent.metadata.sector_bytes:
        raise malformed(child.file.name, f"its sectors are others than those of {parent.file.name}")
