"""A small memory of a file's structures, in pages: BAT and sector bitmaps of a large disk don't fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

from bootpoint_common.units import KiB
from bootpoint_worker.vhdx.fault import read_exactly
from bootpoint_worker.vhdx.file import RandomAccess

#: Bytes of a page: the entries of 8,192 blocks, or the sectors of 256 MiB. Structures begin at whole MiB.
PAGE_BYTES = 64 * KiB

#: Pages that are kept of a file: 4 MiB, so that a chain of 30 files takes 120 MiB at most; and of the one that is
#: written, for which a page that was forgotten costs a request for each of its blocks: 16 MiB, the bits of 64 GiB.
MOST_PAGES, MOST_WRITTEN = 64, 256


#: Pages that are read at once where a table is looked through: over a network each would be waited for.
AHEAD = 16


class Pages:
    """Pages of one file, the latest used ones in memory.

    Args:
        file: The file.

    Attributes:
        most: How many are kept.
    """

    def __init__(self, *, file: RandomAccess) -> None:
        self.most = MOST_PAGES
        self._file = file
        self._held: dict[int, bytearray] = {}
        self._blank: set[int] = set()

    def at(self, offset: int) -> bytearray:
        """Return the page with a byte of the file; it is only to be looked at.

        Raises:
            BootpointError: ``target_check_failed``: the file ends within it; see `RandomAccess` for others.
        """
        start = offset - offset % PAGE_BYTES
        page = self._held.get(start)
        if page is None:
            is_blank = start in self._blank
            page = bytearray(PAGE_BYTES if is_blank else read_exactly(self._file, start, PAGE_BYTES, "tables"))
        self._hold(start, page)
        return page

    def ahead(self, offset: int, end: int) -> None:
        """Read the next pages from the one with a byte of the file on, at once; as far as an end, and as `AHEAD`."""
        starts = range(offset - offset % PAGE_BYTES, end, PAGE_BYTES)[:AHEAD]
        wanted = [start for start in starts if not self.is_near(start, start + 1)]
        for start, data in zip(wanted, self._file.read_many([(start, PAGE_BYTES) for start in wanted]), strict=True):
            if len(data) == PAGE_BYTES:
                self._hold(start, bytearray(data))

    def is_near(self, offset: int, end: int) -> bool:
        """Tell whether all pages with bytes from an offset to an end are known without reading them."""
        starts = range(offset - offset % PAGE_BYTES, end, PAGE_BYTES)
        return all(start in self._held or start in self._blank for start in starts)

    def blank(self, offset: int, length: int) -> None:
        """Take note that a stretch of whole pages, which is new in the file, is zero."""
        self._blank.update(range(offset, offset + length, PAGE_BYTES))

    def read(self, offset: int, length: int) -> bytearray:
        """Return bytes of one page, or of several."""
        found = bytearray()
        for at, size in _within_pages(offset, length):
            within = at % PAGE_BYTES
            found += memoryview(self.at(at))[within : within + size]
        return found

    def write(self, offset: int, data: bytes | bytearray) -> None:
        """Write bytes of one page, or of several, into the file at once."""
        view = memoryview(data)
        for at, size in _within_pages(offset, len(data)):
            within = at % PAGE_BYTES
            if self.is_near(at, at + size):
                memoryview(self.at(at))[within : within + size] = view[at - offset : at - offset + size]
            self._blank.discard(at - within)
        self._file.write_at(offset, view)

    def _hold(self, start: int, page: bytearray) -> None:
        """Keep a page as the one that was used last."""
        self._held.pop(start, None)
        if len(self._held) >= self.most:
            del self._held[next(iter(self._held))]
        self._held[start] = page


def _within_pages(offset: int, length: int) -> Iterator[tuple[int, int]]:
    end = offset + length
    while offset < end:
        size = min(end - offset, PAGE_BYTES - offset % PAGE_BYTES)
        yield offset, size
        offset += size
