"""File systems of every kind in partitions of raw files, filled by whatever can write them here."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import SECTOR, MiB
from tests.integration.source.loop import run, unmount

#: Where the partitions of `PartitionedDisk` are, in bytes: a file system, and a swap area behind a gap.
START, SIZE = 1 * MiB + 7 * SECTOR, 150 * MiB
SWAP_START, SWAP_SIZE = 160 * MiB, 24 * MiB
DISK = 200 * MiB

_MAKE = {
    "ext2": ("mkfs.ext2", "-q", "-F", "-E", "nodiscard"),
    "ext3": ("mkfs.ext3", "-q", "-F", "-b", "1024", "-E", "nodiscard"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K", "--unsupported", "-d", "agcount=3"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-K"),
    "ntfs": ("mkfs.ntfs", "-q", "-Q", "-F"),
    "vfat": ("mkfs.vfat", "-F", "16"),
    "exfat": ("mkfs.exfat",),
}
_MOUNT = {"ntfs": ("ntfs-3g",), "exfat": ("mount.exfat-fuse",)}
_CHECK = {
    "ext2": ("e2fsck", "-f", "-n"),
    "ext3": ("e2fsck", "-f", "-n"),
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--check-data-csum"),
    "ntfs": ("ntfsfix", "-n"),
    "vfat": ("fsck.vfat", "-n"),
    "exfat": ("fsck.exfat", "-n"),
}
KINDS = tuple(_MAKE)


@contextmanager
def partition(image: Path, start: int = START, size: int = SIZE) -> Iterator[Path]:
    """Make a loop device of a partition."""
    device = Path(run("losetup", "--find", "--show", "--offset", str(start), "--sizelimit", str(size), image))
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(fs: str, image: Path) -> Iterator[Path]:
    """Mount the file system of a disk."""
    with partition(image) as device, tempfile.TemporaryDirectory() as point:
        run(*_MOUNT.get(fs, ("mount",)), device, point)
        try:
            yield Path(point)
        finally:
            unmount(Path(point))


@contextmanager
def opened(fs: str, image: Path) -> Iterator[Path]:
    """Give the files of a disk's file system a folder, and take the folder's changes over (FAT has no driver here)."""
    if fs != "vfat":
        with mounted(fs, image) as point:
            yield point
        return
    drive = f"{image}@@{START}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["mcopy", "-i", drive, "-s", "-n", "::*", name], check=False, capture_output=True)
        before = digests(folder)
        yield folder
        after = digests(folder)
        for file in before:
            if before[file] != after.get(file):
                run("mdel", "-i", drive, f"::{file}")
        for file in after:
            if before.get(file) != after[file]:
                run("mcopy", "-i", drive, "-s", folder / file, f"::{file}")


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass
class PartitionedDisk:
    """A raw file with a GUID table, a file system and a swap area, full of what was there before."""

    fs: str
    image: Path

    def build(self) -> None:
        """Make it; every byte that nobody writes is random."""
        stale = os.urandom(MiB)
        with self.image.open("wb") as file:
            for number in range(DISK // MiB):
                file.write(stale[number:] + stale[:number])
        table = f"label: gpt\nfirst-lba: 34\nstart={START // SECTOR}, size={SIZE // SECTOR}\n"
        table += f"start={SWAP_START // SECTOR}, size={SWAP_SIZE // SECTOR}, type=swap\n"
        subprocess.run(["sfdisk", "-q", "-w", "always", self.image], input=table, text=True, check=True)
        with partition(self.image) as device:
            run(*_MAKE[self.fs], device)
        with partition(self.image, SWAP_START, SWAP_SIZE) as device:
            run("mkswap", "-L", "swapped", device)

    def change(self, rng: random.Random, keep: int = 3) -> None:
        """Delete all but some files, and write new ones, large and small."""
        with opened(self.fs, self.image) as folder:
            for path in sorted(folder.iterdir()):
                if path.is_file() and int(path.name[1:]) % keep:
                    path.unlink()
            number = max((int(path.name[1:]) for path in folder.glob("f*")), default=0)
            for size in [rng.randrange(6 * MiB) for _ in range(8)] + [rng.randrange(9000) for _ in range(40)]:
                number += 1
                (folder / f"f{number}").write_bytes(rng.randbytes(size))

    def fill_and_free(self) -> None:
        """Write files all over the file system, and delete them: what they held stays in free blocks."""
        with opened(self.fs, self.image) as folder:
            free = shutil.disk_usage(folder).free if self.fs != "vfat" else SIZE - 10 * MiB
            (folder / "f1").write_bytes(os.urandom(free * 2 // 3))
        with opened(self.fs, self.image) as folder:
            (folder / "f1").unlink()

    def check(self, image: Path) -> None:
        """Require that the file system on an image is without errors."""
        with partition(image) as device:
            done = subprocess.run([*_CHECK[self.fs], device], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
