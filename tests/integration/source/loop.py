"""What the tests of sources do to loop devices and mounts."""

from __future__ import annotations

import fcntl
import os
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


def unmount(point: Path) -> None:
    """Unmount, once those who were told to end have let go of it."""

    def unmounted() -> bool:
        return subprocess.run(["umount", point], check=False, capture_output=True).returncode == 0

    try:
        wait_for(unmounted, f"{point} to be unmounted", timeout=20.0)
    except TimeoutError:
        # Whoever holds it (a sandbox that was begun meanwhile has a mount of its own): the directory can be removed.
        run("umount", "--lazy", point)
        raise


def thaw(point: Path) -> None:
    """Thaw until nothing is frozen any more: whatever a test did, the machine goes on."""
    descriptor = os.open(point, os.O_RDONLY)
    try:
        with suppress(OSError):
            while True:
                fcntl.ioctl(descriptor, FITHAW, 0)
    finally:
        os.close(descriptor)
