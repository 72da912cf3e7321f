"""What the tests of sources do to loop devices and mounts."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bootpoint_producer.snapshots.watchdog import FITHAW
from tests.service.process import wait_for

#: Makes a loop device of a file.
Attach = Callable[..., Path]
#: Makes a file system in a new file and mounts it; returns the mount point.
Mount = Callable[..., Path]


def run(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout.strip()


def node(name: str) -> Path:
    """Return the node of a device, made where it is missing: a container has those that were there when it began."""
    path = Path("/dev") / name
    if not path.exists():
        major, minor = Path(f"/sys/class/block/{name}/dev").read_text().split(":")
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(int(major), int(minor)))
    return path


def unmount(point: Path) -> None:
    """Unmount, once those who were told to end have let go of it."""

    def unmounted() -> bool:
        return subprocess.run(["umount", point], check=False, capture_output=True).returncode == 0

    try:
        wait_for(lambda: unmounted() or _copied(point.parent), f"{point} to be unmounted", timeout=20.0)
    finally:
        # What isn't unmounted at once must not be in the way of the tests that come after it.
        if point.is_mount():
            run("umount", "--lazy", point)


def _copied(folder: Path) -> bool:
    """Whether somebody got a mount namespace of his own (a sandbox) while there were mounts in a directory.

    He has copies of them as long as he lives, and so what they stand on stays busy.
    """
    own, prefix = Path("/proc/self/ns/mnt").readlink(), f" {folder}/"
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "ns" / "mnt").readlink() != own and prefix in (process / "mounts").read_text(
                errors="replace"
            ):
                return True
    return False


def thaw(point: Path) -> None:
    """Thaw until nothing is frozen any more: whatever a test did, the machine goes on."""
    descriptor = os.open(point, os.O_RDONLY)
    try:
        with suppress(OSError):
            while True:
                fcntl.ioctl(descriptor, FITHAW, 0)
    finally:
        os.close(descriptor)
