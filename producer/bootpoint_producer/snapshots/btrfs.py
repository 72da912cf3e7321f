"""A snapshot of the btrfs subvolume that a raw file lies in: all files of it at one instant, whatever their size.

It is made in the subvolume's own top directory. Its name goes as soon as the files are open, and the kernel keeps it
until they are closed: a dead agent leaves nothing behind, but in the instant between the two. What is left then has a
name that ``remove_leftovers`` finds.

Made by the kernel's own calls (linux/btrfs.h), which take any bytes as a name.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.sources import Source, open_source

#: linux/btrfs.h: requests, the flag of a snapshot that nobody can write to, and the inode of each subvolume's top.
_SNAP_CREATE_V2 = 0x50009417
_SNAP_DESTROY = 0x5000940F
_READ_ONLY = 1 << 1
_TOP_INODE = 256
#: Length of the name in the arguments of either request.
_NAME_V2, _NAME = 4040, 4088


class Subvolume(Part):
    """A subvolume whose snapshot is taken; a part that its disks share.

    Args:
        top: Its top directory.
        owner: The agent's name, by which leftovers are known.
    """

    def __init__(self, top: Path, *, owner: str) -> None:
        self.top = top
        self._name = os.fsencode(f".bootpoint-{owner}-{secrets.token_hex(4)}")
        self._files: dict[Path, int] = {}

    def hold(self, path: Path) -> None:
        """Add a disk; before anything is taken."""
        self._files[path] = -1

    def descriptor(self, path: Path) -> int:
        """Return the open file of a disk."""
        return self._files[path]

    def take(self) -> None:
        """See `Part.take`."""
        try:
            top = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                head = struct.pack("=qQQ4Q", top, 0, _READ_ONLY, 0, 0, 0, 0)
                # mutable: Python copies no more than 1,024 bytes of anything else
                fcntl.ioctl(top, _SNAP_CREATE_V2, bytearray(head + self._name.ljust(_NAME_V2, b"\x00")))
            finally:
                os.close(top)
        except OSError as failure:
            raise self._failed(failure) from failure

    def show(self) -> None:
        """Open the files, and take the snapshot's name away."""
        snapshot = self.top / os.fsdecode(self._name)
        try:
            for path in self._files:
                within = snapshot / path.resolve().relative_to(self.top)
                self._files[path] = os.open(within, os.O_RDONLY | os.O_CLOEXEC)
            _destroy(self.top, self._name)
        except OSError as failure:
            raise self._failed(failure) from failure

    def release(self) -> None:
        """See `Part.release`."""
        for path, descriptor in self._files.items():
            if descriptor >= 0:
                os.close(descriptor)
                self._files[path] = -1
        with suppress(OSError):
            _destroy(self.top, self._name)

    def _failed(self, failure: OSError) -> Exception:
        text = f"the subvolume at {self.top} can't be snapshotted: {failure.strerror}"
        return error(Code.SNAPSHOT_FAILED, text, value=str(self.top))


class BtrfsHold:
    """A raw file in the snapshot of its subvolume.

    Args:
        path: The file.
        subvolume: Where it lies.
        reasons: Why the picture is no better than after a power cut; empty at ``fs``.
    """

    kind = "btrfs"
    live = False
    settled = True

    def __init__(self, path: Path, subvolume: Subvolume, *, reasons: Sequence[str] = ()) -> None:
        self.reasons = list(reasons)
        self.parts: Sequence[Part] = (subvolume,)
        self._path = path
        self._subvolume = subvolume
        subvolume.hold(path)

    def instant(self) -> None:
        """See `Hold.instant`; a snapshot doesn't change."""

    def source(self) -> Source:
        """See `Hold.source`."""
        return open_source(self._path, os.dup(self._subvolume.descriptor(self._path)))

    def path(self) -> str:
        """See `Hold.path`; the snapshot has no name any more, so this is the way to it through the agent's process."""
        return f"/proc/{os.getpid()}/fd/{self._subvolume.descriptor(self._path)}"

    def still(self) -> Sequence[Still]:
        """See `Hold.still`."""
        return [Still(0, None, self.path())]

    def moved(self) -> str:
        """See `Hold.moved`."""
        return ""


def subvolume_of(path: Path) -> Path | None:
    """Return the top directory of the subvolume that a raw file lies in; None where there is none that can be reached.

    A mount can show a part of a subvolume only; then its top is out of reach.
    """
    path = path.resolve()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or os.geteuid() != 0:
            return None
        for folder in path.parents:
            top = folder.stat()
            if top.st_dev != found.st_dev:
                return None
            if top.st_ino == _TOP_INODE:
                return folder if _is_btrfs(folder) else None
    except OSError:
        pass
    return None


def remove_leftovers(files: Iterable[Path], owner: str) -> None:
    """Remove the snapshots that this agent left in the subvolumes of the given files when it died."""
    pattern = re.compile(rf"\.bootpoint-{re.escape(owner)}-[0-9a-f]{{8}}")
    for top in {top for path in files if (top := subvolume_of(path)) is not None}:
        for found in top.iterdir():
            if pattern.fullmatch(found.name):
                with suppress(OSError):
                    _destroy(top, os.fsencode(found.name))


def _destroy(top: Path, name: bytes) -> None:
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _SNAP_DESTROY, bytearray(struct.pack("=q", descriptor) + name.ljust(_NAME, b"\x00")))
    finally:
        os.close(descriptor)


def _is_btrfs(folder: Path) -> bool:
    """Whether a directory is btrfs's: only there does this question of how much is allocated have an answer."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # BTRFS_IOC_SPACE_INFO with room for no answers
        fcntl.ioctl(descriptor, 0xC0109414, struct.pack("=QQ", 0, 0))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
