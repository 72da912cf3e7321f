"""Thaws what an agent froze, whatever becomes of the agent.

A program of its own, started before the first freeze and with nothing of the package in it: while a file
system is frozen it must not need a byte written, nor read where a volume is suspended (so its memory is locked), and it
must outlive the agent.

It gets what is to be frozen as arguments, and bytes on its standard input:

    0 … 119     this one is about to be frozen        128 … 247   this one was not frozen after all
    255         all are thawed, the work is done      end         the agent is dead

Arguments: seconds, then for each one the descriptor of a mount point, or ``MAJOR:MINOR`` of a device-mapper volume.
"""

import contextlib
import fcntl
import os
import select
import signal
import struct
import sys
import time

#: linux/fs.h
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
#: First byte that takes an announcement back.
UNDO = 128
#: Byte that ends the work.
DONE = 255
#: What it writes when it is ready, and when it is but its memory can't be locked.
READY = b"R"
READY_UNLOCKED = b"U"
#: Exit code when the time ran out.
TOO_LONG = 3
#: Seconds between two attempts to thaw after the time ran out: a freeze may be half-way, and can't be undone yet.
_AGAIN = 0.2

#: linux/dm-ioctl.h: the control device, its request to suspend or resume, flags: suspend; a device's number is given.
DM_CONTROL = "/dev/mapper/control"
_DM_DEV_SUSPEND = 0xC138FD06
_DM_SUSPEND = 1 << 1
_DM_PERSISTENT_DEV = 1 << 3
#: struct dm_ioctl: version, size, start of data, targets, opens, flags, event, padding, device; names follow.
DM_HEAD = "=3IIIIiIIIQ"
_DM_SIZE = 312
#: mlockall(2): what is there, and what will be.
_LOCK_ALL = 3


def suspend(control: int, device: int, *, resume: bool = False) -> None:
    """Suspend a device-mapper volume with the file system on it, or resume it; does nothing where that is done.

    Args:
        control: The open control device.
        device: The volume's number.
        resume: Whether it is to go on.

    Raises:
        OSError: The kernel refuses.
    """
    flags = _DM_PERSISTENT_DEV | (0 if resume else _DM_SUSPEND)
    request = bytearray(struct.pack(DM_HEAD, 4, 0, 0, _DM_SIZE, _DM_SIZE, 0, 0, flags, 0, 0, kernel_number(device)))
    request += bytes(_DM_SIZE - len(request))
    fcntl.ioctl(control, _DM_DEV_SUSPEND, request)


def kernel_number(device: int) -> int:
    """Return a device's number in the kernel's own form (huge_encode_dev, include/linux/kdev_t.h)."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def main(arguments: list[str]) -> int:
    """Watch one freeze; returns the exit code."""
    timeout = float(arguments[0])
    volumes = any(":" in text for text in arguments[1:])
    control = os.open(DM_CONTROL, os.O_RDWR) if volumes else -1
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - no imports
        file.write("-1000")
    os.write(1, READY if not volumes or _lock_memory() else READY_UNLOCKED)
    return _watch(time.monotonic() + timeout, arguments[1:], control)


def _watch(deadline: float, items: list[str], control: int) -> int:
    frozen: set[int] = set()
    late = False
    while True:
        wait = _AGAIN if late else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0], [], [], wait)
        said = os.read(0, 64) if ready else b""
        for byte in said:
            if byte < UNDO:
                frozen.add(byte)
            else:
                frozen.discard(byte - UNDO)
        if DONE in said:
            return TOO_LONG if late else 0
        late = late or time.monotonic() >= deadline
        gone = bool(ready) and not said
        if late or gone:
            for index in frozen:
                with contextlib.suppress(OSError):  # EINVAL: it isn't frozen
                    _thaw(items[index], control)
        if gone:
            return TOO_LONG


def _thaw(item: str, control: int) -> None:
    if ":" in item:
        major, minor = item.split(":")
        suspend(control, os.makedev(int(major), int(minor)), resume=True)
    else:
        fcntl.ioctl(int(item), FITHAW, 0)


def _lock_memory() -> bool:
    """Hold all of this program in memory: its pages can't be read again from a volume that is suspended."""
    import ctypes

    return bool(ctypes.CDLL(None).mlockall(_LOCK_ALL) == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
