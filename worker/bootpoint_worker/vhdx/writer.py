"""Changes a VHDX in place so that a power cut at any write leaves a file that reads.

Every sector reads as before or as written, at every moment, because of the order::

    new ids in both headers ─flush─► payload ─flush─► sector bitmaps ─flush─► BAT, bitmaps' places
                                                                    ─flush─► BAT, blocks' places ─flush─►

A block that is new in the file isn't seen before its place stands in the BAT, so its payload and its bits need no order
between them. New blocks go behind the file's end. The log isn't used: until the BAT is written the file is what it was,
and what a run has left half done is thrown away with the leaf.
"""

from __future__ import annotations

from collections.abc import Iterator

from bootpoint_common.units import MiB
from bootpoint_worker.vhdx.bitmap import BITMAP_BYTES
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.header import renew
from bootpoint_worker.vhdx.page import MOST_WRITTEN
from bootpoint_worker.vhdx.table import State, first_free, place_of

#: Zeros that are written at a time.
_ZEROS = memoryview(bytes(MiB))


class VhdxWriter:
    """A hold on a chain's leaf, or on a file that stands alone; see `LayerWriter`.

    The leaf must have no child, and nobody else may write any of the files.

    Args:
        chain: The leaf, open for writing, and its parents; the writer closes it.

    Attributes:
        size_bytes: Size of the leaf's disk.

    Raises:
        BootpointError: ``target_check_failed``: blocks of the leaf lie where none can be; then nothing was written.
    """

    def __init__(self, chain: Chain) -> None:
        self.size_bytes = chain.size_bytes
        self._chain = chain
        self._image = chain.images[0]
        self._image.pages.most = MOST_WRITTEN
        self._image.check_blocks()
        self._image.end = first_free(self._image.end)
        self._grown = self._image.file.size()
        self._renewed = False
        #: Blocks whose place doesn't stand in the file yet.
        self._new: set[int] = set()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes; see `LayerWriter.write`."""
        view = memoryview(data).cast("B")
        self._inside(offset, len(view))
        sector = self._image.metadata.sector_bytes
        if offset % sector or len(view) % sector:
            offset, view = self._whole_sectors(offset, view)
        taken = 0
        for block, within, length in self._pieces(offset, len(view)):
            self._put(block, within, view[taken : taken + length])
            taken += length

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zero; see `LayerWriter.zero`.

        What reads as zero already is left alone, and all else becomes zeros in the file. An entry could say of a whole
        block that it is zero, but of a block that a parent has, libvhdi 20260901 shows the parent's bytes then.
        """
        self._inside(offset, length)
        for at, size, is_zero in list(self.extents(offset, length)):
            for start in () if is_zero else range(at, at + size, len(_ZEROS)):
                self.write(start, _ZEROS[: min(len(_ZEROS), at + size - start)])

    def read(self, offset: int, length: int) -> bytes:
        """Read what the leaf shows, its parents beneath; see `LayerWriter.read`."""
        self._grow()
        return self._chain.read(offset, length)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Tell what reads as zero for certain; see `LayerReader.extents`."""
        return self._chain.extents(offset, length)

    def flush(self) -> None:
        """Bring everything into the file, in its order, durably; see `LayerWriter.flush`."""
        table, bitmaps, file = self._image.table, self._image.bitmaps, self._image.file
        marked = self._marked()
        self._grow()
        if any(block not in self._new for block in marked):
            # These blocks are seen already: a bit must not be there before its sector.
            file.flush()
        bitmaps.write(marked)
        file.flush()
        for indices in table.waiting:
            # The bitmaps' places first: a block that is there in part can't be read without.
            if indices:
                table.write(indices)
                file.flush()
        self._new.clear()

    def close(self) -> None:
        """Close all files of the chain; see `LayerWriter.close`."""
        self._chain.close()

    def _put(self, block: int, within: int, data: memoryview) -> None:
        """Write whole sectors of one block."""
        self._renew()
        image = self._image
        state = image.state_of(block)
        if state not in (State.FULL, State.PARTIAL):
            state = self._allocate(block, state)
        image.file.write_at(image.place(block) + within, data)
        if state == State.PARTIAL:
            sector = image.metadata.sector_bytes
            image.bitmaps.mark(block, within // sector, len(data) // sector)

    def _allocate(self, block: int, state: State) -> State:
        """Give a block a place behind the file's end, where everything is zero."""
        image = self._image
        # One that was zero as a whole shows nothing of the parent, and what isn't written stays zero.
        partial = state == State.NOT_PRESENT and image.metadata.parent is not None
        state = State.PARTIAL if partial else State.FULL
        image.table.set(image.table.index(block), image.end | state)
        image.end += image.metadata.block_bytes
        self._new.add(block)
        if partial:
            image.bitmaps.begin(block)
        return state

    def _marked(self) -> list[int]:
        """Return the blocks whose bits have to be written, with places for their bitmaps; whole blocks need no bits."""
        table, bitmaps = self._image.table, self._image.bitmaps
        marked = []
        for block in bitmaps.waiting:
            if self._is_whole(block):
                table.set(table.index(block), place_of(table.get(table.index(block))) | State.FULL)
                bitmaps.forget(block)
                continue
            marked.append(block)
            if not table.get(table.bitmap_index(block)):
                table.set(table.bitmap_index(block), self._image.end | State.FULL)
                bitmaps.blank(self._image.end)
                self._image.end += BITMAP_BYTES
        return marked

    def _is_whole(self, block: int) -> bool:
        sectors = self._image.length_of(block) // self._image.metadata.sector_bytes
        return int.from_bytes(self._image.bitmaps.get(block), "little") == (1 << sectors) - 1

    def _whole_sectors(self, offset: int, view: memoryview) -> tuple[int, memoryview]:
        """Add what the disk shows around a range, up to whole sectors."""
        sector = self._image.metadata.sector_bytes
        start, end = offset // sector * sector, -(-(offset + len(view)) // sector) * sector
        around = bytearray(self.read(start, end - start))
        around[offset - start : offset - start + len(view)] = view
        return start, memoryview(around)

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (block, offset within it, length) over a range."""
        size, end = self._image.metadata.block_bytes, offset + length
        while offset < end:
            block, within = divmod(offset, size)
            part = min(size - within, end - offset)
            yield block, within, part
            offset += part

    def _inside(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size_bytes:
            raise ValueError(f"{length} bytes at {offset} lie outside a disk of {self.size_bytes}")

    def _grow(self) -> None:
        """Give the file the length that its blocks need; what wasn't written of them is zero."""
        if self._grown < self._image.end:
            self._image.file.resize(self._image.end)
            self._grown = self._image.end

    def _renew(self) -> None:
        if not self._renewed:
            self._renewed = True
            self._image.header = renew(self._image.file, self._image.header, self._image.slot)
