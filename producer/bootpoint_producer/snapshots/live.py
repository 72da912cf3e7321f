"""Disks that nothing holds still: they are read as they are, which is right where nobody writes to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.snapshots.usage import Usage, usage, write_counter
from bootpoint_producer.sources import Source, open_source


def disk_usage(path: Path) -> Usage:
    """Return who uses a disk.

    Raises:
        BootpointError: ``disk_missing``.
    """
    try:
        return usage(path)
    except OSError as failure:
        raise error(Code.DISK_MISSING, f"{path}: {failure.strerror}", value=str(path)) from failure


class LiveHold:
    """Reads a disk as it is. Reaches ``fs`` when nobody has it mounted or open for writing until the end.

    Args:
        path: The disk.
        kind: ``none``, or ``fsfreeze`` where its file systems are flushed by a freeze.
        reasons: Why it isn't still, in words; empty where nobody uses it.
        frozen: Whether everybody who writes to it is frozen at the instant.
    """

    live = True
    parts: Sequence[Part] = ()

    def __init__(self, path: Path, *, kind: str, reasons: Sequence[str] = (), frozen: bool = False) -> None:
        self.settled = frozen or not reasons
        self.kind = kind
        self.reasons = list(reasons)
        self._path = path
        self._written: tuple[int, ...] = ()

    def instant(self) -> None:
        """See `Hold.instant`."""
        try:
            self._written = write_counter(self._path)
        except OSError as failure:
            raise error(Code.DISK_MISSING, f"{self._path}: {failure.strerror}", value=str(self._path)) from failure

    def source(self) -> Source:
        """See `Hold.source`."""
        return open_source(self._path)

    def path(self) -> str:
        """See `Hold.path`."""
        return str(self._path)

    def still(self) -> Sequence[Still]:
        """See `Hold.still`."""
        return []

    def moved(self) -> str:
        """See `Hold.moved`."""
        try:
            if write_counter(self._path) == self._written and disk_usage(self._path).quiet:
                return ""
        except OSError as failure:
            raise error(Code.DISK_MISSING, f"{self._path}: {failure.strerror}", value=str(self._path)) from failure
        return f"somebody wrote to {self._path} while it was read"
