"""No snapshot: the disks are read as they are, which is right where nobody writes to them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import AtInstant, Consistency, SnapshotSet, nothing
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


class LiveSet:
    """Disks that are read as they are.

    Args:
        disks: Path of each slot.
        reasons: Who uses a disk, in words; empty where nobody does.
    """

    kind = "none"

    def __init__(self, *, disks: Mapping[str, Path], reasons: list[str]) -> None:
        self._disks = dict(disks)
        self._written = {path: write_counter(path) for path in self._disks.values()}
        self.instant = datetime.now(UTC)
        self.reason = "; ".join(reasons)
        self.consistency = Consistency.CRASH if reasons else Consistency.FS

    @property
    def settled(self) -> bool:
        """Whether nothing can have been on its way to the disks at the instant, and reach them after they were read."""
        return self.consistency.reaches(Consistency.FS)

    def source(self, slot: str) -> Source:
        """See `SnapshotSet.source`."""
        return open_source(self._disks[slot])

    def path(self, slot: str) -> str:
        """See `SnapshotSet.path`."""
        return str(self._disks[slot])

    def confirm(self) -> Consistency:
        """See `SnapshotSet.confirm`."""
        for path, before in self._written.items():
            if write_counter(path) != before or not disk_usage(path).quiet:
                return Consistency.CRASH
        return self.consistency

    def release(self) -> None:
        """See `SnapshotSet.release`; there is nothing to give back."""


def is_live(taken: SnapshotSet) -> bool:
    """Say whether disks are read as they change."""
    return isinstance(taken, LiveSet)


def is_settled(taken: SnapshotSet) -> bool:
    """Say whether everything that was on its way to the disks at the instant is in what will be read.

    A snapshot waits for what is under way; disks that are read as they are don't, unless nobody wrote to them.
    """
    return taken.settled if isinstance(taken, LiveSet) else True


class NoSnapshot:
    """Reaches ``fs`` when nobody has the disks mounted or open for writing, else ``crash``."""

    kind = "none"

    def take(self, disks: Mapping[str, Path], *, at_instant: AtInstant = nothing) -> LiveSet:
        """See `Snapshot.take`."""
        found = {path: disk_usage(path) for path in disks.values()}
        reasons = [f"{path} is {use.words()}" for path, use in found.items() if not use.quiet]
        at_instant()
        return LiveSet(disks=disks, reasons=reasons)
