"""Raw image files; their holes are never read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from bootpoint_common.extent import Extent
from bootpoint_producer.sources.base import read_descriptor, read_error


class FileSource:
    """A raw file.

    Args:
        path: Its path, for people.
        descriptor: The open file; belongs to the source from now on.
    """

    def __init__(self, *, path: str, descriptor: int) -> None:
        self.path = path
        self.size_bytes = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`."""
        return read_descriptor(self._descriptor, self.path, offset, length)

    def data_extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See `Source.data_extents`; a file system without holes gives one extent of data."""
        end = offset + length
        while offset < end:
            data = self._seek(offset, end, os.SEEK_DATA)
            if data > offset:
                yield Extent(offset, data - offset, zero=True)
            if data < end:
                hole = self._seek(data, end, os.SEEK_HOLE)
                yield Extent(data, hole - data)
                data = hole
            offset = data

    def close(self) -> None:
        """See `Source.close`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _seek(self, offset: int, end: int, whence: int) -> int:
        try:
            return min(end, os.lseek(self._descriptor, offset, whence))
        except OSError as failure:
            if failure.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return end
            raise read_error(self.path, offset, failure) from failure
