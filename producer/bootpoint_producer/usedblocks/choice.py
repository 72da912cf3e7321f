"""What a run leaves out of a disk, and whether that holds good until the disk was read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from bootpoint_common.extent import Extent
from bootpoint_common.units import format_size
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.sources.base import Source
from bootpoint_producer.usedblocks.disk import LeftOut, left_out
from bootpoint_producer.usedblocks.free import without

_log = logging.getLogger(__name__)


class Choice(Protocol):
    """Says what of a disk isn't read; both methods may be called by several threads, and several times."""

    def begin(self, source: Source) -> Sequence[Extent]:
        """Return the whole grains that needn't be read, ascending, without overlap."""

    def end(self, source: Source) -> Sequence[Extent]:
        """Return those of them of which that is still true, once everything else was read."""


class Everything:
    """Leaves nothing out."""

    def begin(self, source: Source) -> Sequence[Extent]:  # noqa: ARG002 - of no disk
        """See `Choice.begin`."""
        return ()

    def end(self, source: Source) -> Sequence[Extent]:  # noqa: ARG002 - of no disk
        """See `Choice.end`."""
        return ()


class UsedBlocks:
    """Leaves out what is free, on one disk in one run.

    The maps of file systems must be of the very instant that is read. They are where a snapshot holds the disk still;
    else only if nobody wrote from before the maps were read until everything was.

    Args:
        slot: The disk, for the log.
        path: The picture, for programs.
        still: What of it a snapshot holds still.
        skip: What else the job leaves out.
        quiet: Returns whether nobody has written to the disk since the run began, and nobody can; asked where no
            snapshot holds any of it still.
    """

    def __init__(
        self, *, slot: str, path: str, still: Sequence[Still], skip: Collection[str], quiet: Callable[[], bool]
    ) -> None:
        self._slot = slot
        self._path = path
        self._held = still
        self._skip = skip
        self._quiet = quiet
        self._lock = threading.Lock()
        self._found: LeftOut | None = None
        self._unwritten = False

    def begin(self, source: Source) -> Sequence[Extent]:
        """See `Choice.begin`; the search may take minutes, and is made once."""
        with self._lock:
            if self._found is None:
                self._found = self._search(source)
                told = {"slot": self._slot, "left_out": format_size(self._found.size_bytes)}
                _log.info("used blocks", extra={**told, "reasons": "; ".join(self._found.reasons)})
            return self._found.extents

    def _search(self, source: Source) -> LeftOut:
        if self._held:
            return left_out(self._path, source, self._skip, still=self._held)
        if self._quiet():
            found = left_out(self._path, source, self._skip)
            self._unwritten = self._quiet()
            if self._unwritten:
                return found
        return left_out(self._path, source, self._skip, still=())

    def end(self, source: Source) -> Sequence[Extent]:
        """See `Choice.end`."""
        chosen = self.begin(source)
        if self._held or not chosen or (self._unwritten and self._quiet()):
            return chosen
        now = left_out(self._path, source, self._skip, still=())
        gone = tuple(without(chosen, now.extents))
        if gone:
            total = format_size(sum(extent.length for extent in gone))
            _log.warning("somebody wrote to a disk: what was free is read after all",
                         extra={"slot": self._slot, "size": total})  # fmt: skip
        return tuple(without(chosen, gone))
