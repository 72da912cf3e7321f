"""Speaking to the device mapper where LVM's programs would be too late, too slow, or would write (linux/dm-ioctl.h)."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from bootpoint_producer.snapshots import watchdog
from bootpoint_producer.snapshots.program import run

_DM_TARGET_MSG = 0xC138FD0E
_DM_DEV_SUSPEND = 0xC138FD06
_SUSPEND, _PERSISTENT_DEV, _SKIP_LOCKFS = 1 << 1, 1 << 3, 1 << 10
_HEAD_SIZE = 312
_SYS = Path("/sys/dev/block")


class Mapper:
    """The device mapper's control device, open.

    Raises:
        OSError: There is none, or it may not be used.
    """

    def __init__(self) -> None:
        self._control = os.open(watchdog.DM_CONTROL, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """May be called twice."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def hold(self, device: int) -> None:
        """Suspend a device; the file system on it isn't frozen by that, for somebody did that already."""
        self._ask(_DM_DEV_SUSPEND, device, _SUSPEND | _SKIP_LOCKFS)

    def resume(self, device: int) -> None:
        """Let a device go on."""
        self._ask(_DM_DEV_SUSPEND, device, 0)

    def message(self, device: int, text: str) -> None:
        """Send a message to a device's only target.

        Raises:
            OSError: It refuses.
        """
        # struct dm_target_msg: sector, text
        self._ask(_DM_TARGET_MSG, device, 0, struct.pack("=Q", 0) + text.encode() + b"\x00")

    def _ask(self, request: int, device: int, flags: int, data: bytes = b"") -> None:
        length = _HEAD_SIZE + len(data)
        number = watchdog.kernel_number(device)
        head = struct.pack(watchdog.DM_HEAD, 4, 0, 0, length, _HEAD_SIZE, 0, 0, flags | _PERSISTENT_DEV, 0, 0, number)
        fcntl.ioctl(self._control, request, bytearray(head.ljust(_HEAD_SIZE, b"\x00") + data))


def table(device: int) -> list[list[str]]:
    """Return the words of each line of a device's table: start, length (sectors), target, its parameters.

    Raises:
        ProgramError: The device mapper can't tell.
    """
    text = run("dmsetup", "table", "--major", str(os.major(device)), "--minor", str(os.minor(device)))
    return [line.split() for line in text.splitlines() if line.strip()]


def below(device: int) -> list[int]:
    """Return the devices that a device stands on."""
    return [number(each) for each in (_folder(device) / "slaves").glob("*")]


def above(device: int) -> list[int]:
    """Return the devices that stand on a device."""
    return [number(each) for each in (_folder(device) / "holders").glob("*")]


def number(folder: Path) -> int:
    """Return the number of a device by its directory in /sys."""
    major, minor = (folder / "dev").read_text().split(":")
    return os.makedev(int(major), int(minor))


def _folder(device: int) -> Path:
    return _SYS / f"{os.major(device)}:{os.minor(device)}"
