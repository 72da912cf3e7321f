"""Ways to hold a disk still while it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import AtInstant, Consistency, Snapshot, SnapshotSet, nothing
from bootpoint_producer.snapshots.fsfreeze import FREEZE_TIMEOUT, FsFreeze
from bootpoint_producer.snapshots.none import NoSnapshot, disk_usage
from bootpoint_producer.snapshots.reflink import Reflink, can_clone, remove_leftovers

__all__ = [
    "AtInstant",
    "Choice",
    "Consistency",
    "Snapshot",
    "SnapshotSet",
    "choose",
    "nothing",
    "remove_leftovers",
]


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to take a snapshot, and why it is the one.

    Attributes:
        snapshot: What takes it.
        reason: In words.
    """

    snapshot: Snapshot
    reason: str


def choose(disks: Mapping[str, Path], wanted: str = "auto", *, freeze_timeout: float = FREEZE_TIMEOUT) -> Choice:
    """Choose how to hold disks still.

    Args:
        disks: Path of each slot's file or device.
        wanted: ``auto``, or ``none``, ``fsfreeze`` or ``reflink`` to have just that.
        freeze_timeout: Seconds that file systems may stay frozen.

    Raises:
        BootpointError: ``snapshot_failed``: what is wanted isn't possible here, or unknown; ``disk_missing``.
    """
    found = {path: disk_usage(path) for path in disks.values()}
    unclonable = [path for path in disks.values() if not can_clone(path)]
    if wanted == "none":
        return Choice(NoSnapshot(), "asked for")
    if wanted == "fsfreeze":
        return Choice(FsFreeze(timeout=freeze_timeout), "asked for")
    if wanted == "reflink":
        if unclonable:
            raise error(
                Code.SNAPSHOT_FAILED,
                f"{unclonable[0]} is no file on a file system that copies by reference",
                value=str(unclonable[0]),
            )
        return Choice(Reflink(), "asked for")
    if wanted != "auto":
        raise error(Code.SNAPSHOT_FAILED, f"there is no snapshot of the kind {wanted!r}", value=wanted)
    if not unclonable:
        if any(use.mounts for use in found.values()):
            return Choice(FsFreeze(timeout=freeze_timeout), "file systems on the disks are mounted")
        return Choice(Reflink(), "the disks are files on storage that copies by reference")
    busy = [f"{path} is {use.words()}" for path, use in found.items() if not use.quiet]
    if not busy:
        return Choice(NoSnapshot(), "nobody uses the disks")
    return Choice(NoSnapshot(), f"nothing here can hold the disks still, and {'; '.join(busy)}")
