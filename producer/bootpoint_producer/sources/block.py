"""Block devices, with logical sectors of 512 or 4,096 bytes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from bootpoint_common.extent import Extent
from bootpoint_producer.sources.base import read_descriptor

# linux/fs.h
_BLKFLSBUF = 0x1261
_BLKSSZGET = 0x1268
_BLKPBSZGET = 0x127B
_BLKGETSIZE64 = 0x80081272


class BlockSource:
    """A block device.

    What the page cache holds of the device is dropped first. A mounted partition keeps the cache of its whole
    disk alive, and writes past it: pages that an earlier run left there would be read again, out of date.

    Args:
        path: Its path, for people.
        descriptor: The open device; belongs to the source from now on.

    Attributes:
        logical_sector_bytes: Smallest part that the device addresses.
        physical_sector_bytes: Smallest part that it writes without reading first.
    """

    def __init__(self, *, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size_bytes: int = _ask(descriptor, _BLKGETSIZE64, "Q")
        self.logical_sector_bytes: int = _ask(descriptor, _BLKSSZGET, "i")
        self.physical_sector_bytes: int = _ask(descriptor, _BLKPBSZGET, "I")
        # Needs CAP_SYS_ADMIN; without it the advice below drops what is clean, which is what can be out of date.
        with contextlib.suppress(PermissionError):
            fcntl.ioctl(descriptor, _BLKFLSBUF, 0)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`."""
        return read_descriptor(self._descriptor, self.path, offset, length)

    def data_extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See `Source.data_extents`; a device doesn't say what it never wrote, so everything is data."""
        if length:
            yield Extent(offset, length)

    def close(self) -> None:
        """See `Source.close`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _ask(descriptor: int, request: int, form: str) -> int:
    buffer = bytearray(struct.calcsize(form))
    fcntl.ioctl(descriptor, request, buffer)
    value: int = struct.unpack(form, buffer)[0]
    return value
