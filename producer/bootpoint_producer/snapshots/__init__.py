"""Ways to hold a disk still while it is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bootpoint_producer.snapshots import btrfs, reflink, zfs
from bootpoint_producer.snapshots.base import AtInstant, Consistency, Snapshot, SnapshotSet, Still, nothing
from bootpoint_producer.snapshots.choice import Choice, choose
from bootpoint_producer.snapshots.lvm import volume

__all__ = [
    "AtInstant",
    "Choice",
    "Consistency",
    "Snapshot",
    "SnapshotSet",
    "Still",
    "choose",
    "nothing",
    "remove_leftovers",
]


def remove_leftovers(files: Iterable[Path], owner: str) -> None:
    """Remove what an agent left behind when it died; what belongs to others stays.

    Args:
        files: The raw files that it may protect.
        owner: Its name.
    """
    files = list(files)
    reflink.remove_leftovers(files)
    btrfs.remove_leftovers(files, owner)
    volume.remove_leftovers(owner)
    zfs.remove_leftovers(owner)
