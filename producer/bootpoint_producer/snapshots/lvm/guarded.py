"""Reading a snapshot that can be lost while it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bootpoint_common.errors import BootpointError
from bootpoint_common.extent import Extent
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.sources import Source


class GuardedSource:
    """A source whose read errors are told apart: the disk's, and those of a snapshot that is lost.

    Args:
        source: What is read; belongs to this one.
        parts: What it stands on.
        path: The disk's path, for people.
    """

    def __init__(self, source: Source, parts: Sequence[Part], *, path: str) -> None:
        self.path = path
        self.size_bytes = source.size_bytes
        self._source = source
        self._parts = parts

    def read(self, offset: int, length: int) -> bytes:
        """See `Source.read`; raises ``snapshot_lost`` as well."""
        try:
            return self._source.read(offset, length)
        except BootpointError:
            for part in self._parts:
                part.confirm()
            raise

    def data_extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See `Source.data_extents`."""
        return self._source.data_extents(offset, length)

    def close(self) -> None:
        """See `Source.close`."""
        self._source.close()
