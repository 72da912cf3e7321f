"""The tracker that knows what was written."""

from __future__ import annotations

from collections.abc import Iterator

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.extent import Extent
from bootpoint_producer.sources.base import Source

from .grains import Grains


class ChangedTracker:
    """Names what was written since the base.

    Args:
        name: ``ebpf`` or ``thin``.
        written: What was written since the base.
    """

    def __init__(self, *, name: str, written: Grains) -> None:
        self.name = name
        self._written = written

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        """See `Tracker.candidates`."""
        if base is None:
            return source.data_extents(0, source.size_bytes)
        return self._written.extents(source.size_bytes)
