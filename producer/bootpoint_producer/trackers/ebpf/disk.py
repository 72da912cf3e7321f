"""Disks as the kernel knows them: their numbers, what tells them apart, and which can't be followed."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import SECTOR
from bootpoint_producer.probe import line_of

_SYS = Path("/sys/dev/block")

#: What names a disk for good, where it exists; below /sys/dev/block/<number>.
_NAMES = ("serial", "wwid", "device/serial", "device/wwid", "dm/uuid", "md/uuid")


@dataclass(frozen=True, slots=True)
class Disk:
    """A block device.

    Attributes:
        major: Its number.
        minor: Likewise.
        size_bytes: Its size now.
        identity: What tells it from another that takes its place.
    """

    major: int
    minor: int
    size_bytes: int
    identity: str

    @property
    def number(self) -> int:
        """Its number as programs in the kernel see it (MKDEV: 20 bits for the minor number)."""
        return self.major << 20 | self.minor


def why_not(path: Path) -> str | None:
    """Say why a disk's writes can't be followed in the block layer; None where they can."""
    try:
        known = path.stat()
    except OSError as failure:
        return f"{path}: {failure.strerror}"
    if not stat.S_ISBLK(known.st_mode):
        return "it is a file, and the block layer knows the disk only that the file lies on"
    folder = _folder(known.st_rdev)
    if not folder.is_dir():
        return "the system doesn't show the device"
    if (folder / "partition").exists():
        return "it is a partition; whole disks are followed"
    if line_of(folder / "queue/zoned") not in (None, "", "none"):
        return "it is a zoned disk, which says afterwards only where it wrote"
    if line_of(folder / "queue/dax") == "1":
        return "programs may write to it past the block layer (dax)"
    return None


def disk(path: Path) -> Disk:
    """Look at a disk.

    Raises:
        OSError: It isn't there.
    """
    number = path.stat().st_rdev
    folder = _folder(number)
    sectors = line_of(folder / "size")
    if not sectors or not int(sectors):  # a loop device keeps its node without its file
        raise FileNotFoundError(f"{path} is no disk any more")
    names = [f"{name}={value.strip()}" for name in _NAMES if (value := line_of(folder / name))]
    if not (folder / "dm").is_dir():
        # Counts up with every disk that appears, and when a loop device gets another file; Linux 5.15.
        names.append(f"diskseq={line_of(folder / 'diskseq') or ''}")
    names.append(f"number={os.major(number)}:{os.minor(number)}")
    return Disk(os.major(number), os.minor(number), int(sectors) * SECTOR, " ".join(names))


def _folder(number: int) -> Path:
    return _SYS / f"{os.major(number)}:{os.minor(number)}"
