"""The tracker that knows what was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.extent import Extent
from bootpoint_producer.sources.base import Source

from .grains import Grains, merged


class ChangedTracker:
    """Names what was written since the base, and what the base owes.

    Args:
        name: ``ebpf`` or ``thin``.
        written: What was written since the base.
        owed: What the base left out: there its block map doesn't say what the disk held, so it may differ unwritten.
    """

    def __init__(self, *, name: str, written: Grains, owed: Iterable[Extent] = ()) -> None:
        self.name = name
        self._written = written
        self._owed = tuple(owed)

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        """See `Tracker.candidates`."""
        if base is None:
            yield from source.data_extents(0, source.size_bytes)
            return
        yield from merged(chain(self._written.extents(source.size_bytes), self._owed))
