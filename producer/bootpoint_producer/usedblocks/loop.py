"""A part of a picture as a device of its own, for programs that insist on one.

The device is read-only and goes by itself with the last descriptor (LO_FLAGS_AUTOCLEAR): both are set in the one
call that makes it, so there is no moment at which a killed agent would leave one behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

# linux/loop.h
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A  # since Linux 5.8
_READ_ONLY, _AUTOCLEAR = 1, 4
#: struct loop_config: descriptor, block size, and struct loop_info64 within it (five 64-bit numbers, four 32-bit ones,
#: 160 bytes of names and keys, 16 of no meaning), 64 bytes to spare.
_CONFIG = struct.Struct("=II5Q4I160x16x64x")
#: Attempts to get a free device: another program may take the same one in between.
_ATTEMPTS = 20


@contextlib.contextmanager
def loop_device(path: str, offset: int, size: int) -> Iterator[str]:
    """Show a range of a file or device as a read-only device while the context lasts.

    Args:
        path: What it is a range of.
        offset: Its first byte, a multiple of 512.
        size: Its bytes, a multiple of 512.

    Raises:
        OSError: There are no loop devices here, or not for us.
    """
    backing = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device, name = _configured(backing, offset, size)
    finally:
        os.close(backing)
    try:
        yield name
    finally:
        os.close(device)


def _configured(backing: int, offset: int, size: int) -> tuple[int, str]:
    config = bytearray(_CONFIG.pack(backing, 0, 0, 0, 0, offset, size, 0, 0, 0, _READ_ONLY | _AUTOCLEAR))
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device, name = _opened(fcntl.ioctl(control, _CTL_GET_FREE))
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
            except OSError as failure:
                os.close(device)
                if failure.errno != errno.EBUSY:
                    raise
            else:
                return device, name
        raise OSError(errno.EBUSY, "every loop device was taken by somebody else")
    finally:
        os.close(control)


def _opened(number: int) -> tuple[int, str]:
    """Open a loop device; return a path of it as well.

    In a container the directory of devices shows those that were there when it began. What the kernel made since gets
    a node here for as long as it takes to open it.
    """
    name = f"/dev/loop{number}"
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC), name
    major, minor = Path(f"/sys/class/block/loop{number}/dev").read_text().split(":")
    with tempfile.TemporaryDirectory(prefix="bootpoint-loop-") as folder:
        node = f"{folder}/loop{number}"
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(int(major), int(minor)))
        device = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    return device, f"/proc/{os.getpid()}/fd/{device}"
