"""What LVM has on this machine, asked once for a plan, and the snapshots that the disks of the plan share."""

from __future__ import annotations

import os
import stat
from functools import cached_property
from pathlib import Path

from bootpoint_producer.snapshots.lvm import report
from bootpoint_producer.snapshots.lvm.report import Disk, Volume
from bootpoint_producer.snapshots.lvm.volume import ThickSnapshot, ThinSnapshot, rooms
from bootpoint_producer.snapshots.program import ProgramError

#: Types of volumes whose extents lie on disks as they are.
PLAIN = ("linear", "striped")


class Refused(Exception):  # noqa: N818 - a reason, not an error of ours
    """Why LVM can't hold a disk still; its text is for people."""


class Survey:
    """What LVM has, and the snapshots that a plan needs of it.

    Args:
        owner: The agent's name.
    """

    def __init__(self, *, owner: str) -> None:
        self._owner = owner
        self._snapshots: dict[str, ThickSnapshot | ThinSnapshot] = {}

    @cached_property
    def volumes(self) -> dict[str, Volume]:
        """All volumes by their keys; none where LVM isn't there."""
        try:
            return {volume.key: volume for volume in report.volumes()}
        except ProgramError:
            return {}

    @cached_property
    def disks(self) -> dict[int, Disk]:
        """All physical volumes by the numbers of their devices."""
        try:
            return {disk.device: disk for disk in report.disks()}
        except ProgramError:
            return {}

    def volume(self, device: int) -> Volume | None:
        """Return the volume that a device is, if it is one and not a part of one."""
        if not report.is_volume(device):
            return None
        return next((each for each in self.volumes.values() if each.device == device and not each.hidden), None)

    def snapshot(self, volume: Volume) -> ThickSnapshot | ThinSnapshot:
        """Return the snapshot of a volume that is to be taken, the same one for all who need it.

        Raises:
            Refused: It is of a type of which none is taken here.
        """
        if volume.key not in self._snapshots:
            self._snapshots[volume.key] = self._made(volume)
            shares = rooms(
                snapshot.volume for snapshot in self._snapshots.values() if isinstance(snapshot, ThickSnapshot)
            )
            for key, extents in shares.items():
                thick = self._snapshots[key]
                assert isinstance(thick, ThickSnapshot)  # noqa: S101 - shares has no others
                thick.extents = extents
        return self._snapshots[volume.key]

    def _made(self, volume: Volume) -> ThickSnapshot | ThinSnapshot:
        if volume.kind == "thin":
            return ThinSnapshot(volume, owner=self._owner)
        if volume.origin:
            raise Refused(f"{volume.full_name} is itself a snapshot")
        if volume.kind not in PLAIN:
            raise Refused(f"{volume.full_name} is of the type {volume.kind}")
        return ThickSnapshot(volume, owner=self._owner)


def device_of(path: Path) -> int | None:
    """Return the number of a block device; None for anything else."""
    found = path.stat()
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else None


def name_of(device: int) -> str:
    """Return the kernel's name of a device, for people."""
    return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
