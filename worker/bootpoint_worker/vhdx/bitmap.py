"""Sector bitmaps: which sectors of a block a differencing file holds itself ([MS-VHDX] 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bootpoint_common.units import KiB, MiB
from bootpoint_worker.vhdx.metadata import Metadata
from bootpoint_worker.vhdx.page import PAGE_BYTES, Pages

#: Bytes of the sector bitmap of a chunk.
BITMAP_BYTES = MiB

#: Most bytes between the bits of two blocks that are written at once. A request over SMB costs a worker as much time as
#: some hundred KiB of one.
WIDEST_GAP = 128 * KiB


class Bitmaps:
    """The bits of the blocks of one file; changes wait until they are written.

    Args:
        pages: The file's memory.
        metadata: The disk.
        place: Tells where the sector bitmap of a block's chunk lies in the file.
        ratio: Blocks of a chunk.
    """

    def __init__(self, *, pages: Pages, metadata: Metadata, place: Callable[[int], int], ratio: int) -> None:
        self.bytes_of_block = metadata.block_bytes // metadata.sector_bytes // 8
        self._pages = pages
        self._place = place
        self._ratio = ratio
        self._waiting: dict[int, bytearray] = {}

    def get(self, block: int) -> bytearray:
        """Return a block's bits, as they will be once what waits is written; they are only to be looked at."""
        if block in self._waiting:
            return self._waiting[block]
        at = self._at(block)
        within = at % PAGE_BYTES
        return self._pages.at(at)[within : within + self.bytes_of_block]

    def begin(self, block: int) -> None:
        """Begin with no sector for a block that is new in the file, whatever its bits are there."""
        self._waiting[block] = bytearray(self.bytes_of_block)

    def mark(self, block: int, first: int, count: int) -> None:
        """Set the bits of sectors of a block; the file has them after `write`."""
        if block not in self._waiting:
            self._waiting[block] = self.get(block)
        bits = self._waiting[block]
        low, high = first // 8, -(-(first + count) // 8)
        ones = ((1 << count) - 1) << (first - low * 8)
        bits[low:high] = (int.from_bytes(bits[low:high], "little") | ones).to_bytes(high - low, "little")

    def blank(self, place: int) -> None:
        """Take note of a sector bitmap that is new in the file: all of its bits are zero."""
        self._pages.blank(place, BITMAP_BYTES)

    def forget(self, block: int) -> None:
        """Let go of a block's bits: all of its sectors are in the file."""
        del self._waiting[block]

    @property
    def waiting(self) -> list[int]:
        """The blocks whose bits wait to be written, in their order."""
        return sorted(self._waiting)

    def write(self, blocks: Iterable[int]) -> None:
        """Write the bits of blocks, given in their order, into the file; they are durable after a flush."""
        together: list[int] = []
        for block in blocks:
            if together and not self._are_near(together[-1], block):
                self._write_together(together)
                together = []
            together.append(block)
        if together:
            self._write_together(together)

    def _are_near(self, block: int, other: int) -> bool:
        """Tell whether the bits of two blocks go into the file at once, with those between them as they are there."""
        end, start = self._at(block) + self.bytes_of_block, self._at(other)
        return 0 <= start - end <= WIDEST_GAP and self._pages.is_near(end - 1, start + 1)

    def _write_together(self, blocks: list[int]) -> None:
        start, end = self._at(blocks[0]), self._at(blocks[-1]) + self.bytes_of_block
        span = self._pages.read(start, end - start) if len(blocks) > 1 else bytearray(end - start)
        for block in blocks:
            at = self._at(block) - start
            span[at : at + self.bytes_of_block] = self._waiting.pop(block)
        self._pages.write(start, span)

    def _at(self, block: int) -> int:
        return self._place(block) + block % self._ratio * self.bytes_of_block


def stretches(bits: bytes | bytearray, first: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (first bit, number of bits, whether they are set) over a part of a block's bits, in order."""
    low, high = first // 8, -(-(first + count) // 8)
    # As text, least bit first, so that the next change is found by the machine and not by a loop.
    text = format(int.from_bytes(bits[low:high], "little"), f"0{(high - low) * 8}b")[::-1]
    at, end = first - low * 8, first - low * 8 + count
    while at < end:
        is_set = text[at] == "1"
        stop = text.find("0" if is_set else "1", at, end)
        stop = end if stop < 0 else stop
        yield low * 8 + at, stop - at, is_set
        at = stop
