"""What a tracker promises: where a disk may have changed since its base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.extent import Extent
from bootpoint_producer.sources.base import Source


class Tracker(Protocol):
    """Knows, or finds out, where to look. May name too much, never too little. Used by one thread."""

    @property
    def name(self) -> str:
        """``hash``, ``ebpf``, ``thin``, ``bitmap`` or ``image``."""

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        """Return what may differ from the base, ascending, without overlap, in any alignment.

        What reads as zero for certain is zero and won't be read. What a disk grew by needn't be named.

        Args:
            source: The disk as it is now.
            base: Block map of the base; None when there is none: everything may differ.

        Raises:
            BootpointError: ``disk_read_error``.
        """
