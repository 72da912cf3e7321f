"""A FUSE file system of one file, ``disk``, that forgets what was not synced when the power is cut.

A process of its own, so that it can be killed: ``python powercut_fuse.py MOUNTPOINT BACKING_FILE``. Writes stay in
this process until an fsync of ``disk`` moves them into the backing file, which so holds at every moment what a
power cut leaves at the least. One command comes on standard input::

    cut SEED      a random part of the unsynced writes reaches the backing file, the rest is forgotten; answered by
                  ``cut KEPT LOST`` (bytes). From then on every write and sync succeeds and does nothing: the kernel
                  has to be able to let go of the file, and nothing of it may get through.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# libfuse 3, for version 2 cuts writes into pages; the name is read when the module is imported.
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy  # type: ignore[import-untyped]

#: Bytes that a disk writes as one.
SECTOR = 512

#: Bytes of the pieces that unsynced writes are looked up by.
PAGE = 4096

#: Most places at which one write is torn.
MAX_TEARS = 8


@dataclass(frozen=True, slots=True)
class Write:
    """A write that is not durable yet."""

    offset: int
    data: bytes


class VolatileFile:
    """A file whose unsynced writes are held in memory; thread-safe.

    Args:
        descriptor: The backing file, open for reading and writing.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._unsynced: list[Write] = []
        self._pages: dict[int, bytearray] = {}
        self._off = False
        self.size_bytes = os.fstat(descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return what was written last, synced or not."""
        with self._lock:
            data = bytearray(os.pread(self._descriptor, length, offset))
            end = offset + len(data)
            for number in range(offset // PAGE, -(-end // PAGE)) if self._pages else ():
                page = self._pages.get(number)
                if page is not None:
                    start, stop = max(offset, number * PAGE), min(end, (number + 1) * PAGE)
                    data[start - offset : stop - offset] = page[start - number * PAGE : stop - number * PAGE]
            return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Hold a write until the next sync."""
        with self._lock:
            if self._off:
                return
            self._unsynced.append(Write(offset, data))
            end = offset + len(data)
            for number in range(offset // PAGE, -(-end // PAGE)):
                start, stop = max(offset, number * PAGE), min(end, (number + 1) * PAGE)
                page = self._pages.get(number)
                if page is None:
                    page = self._pages[number] = bytearray(os.pread(self._descriptor, PAGE, number * PAGE))
                page[start - number * PAGE : stop - number * PAGE] = data[start - offset : stop - offset]

    def sync(self) -> None:
        """Move everything that was written before into the backing file."""
        with self._lock:
            for write in self._unsynced:
                os.pwrite(self._descriptor, write.data, write.offset)
            self._forget()

    def cut(self, generator: random.Random) -> tuple[int, int]:
        """Cut the power; returns how many unsynced bytes were kept and how many were lost."""
        with self._lock:
            total = kept = 0
            for write in self._unsynced:
                total += len(write.data)
                for part in survivors(write, generator):
                    os.pwrite(self._descriptor, part.data, part.offset)
                    kept += len(part.data)
            self._forget()
            self._off = True
            return kept, total - kept

    def _forget(self) -> None:
        self._unsynced.clear()
        self._pages.clear()


def survivors(write: Write, generator: random.Random) -> Iterator[Write]:
    """Yield what a cut leaves of a write: all of it, nothing, or some runs of sectors."""
    fate = generator.randrange(3)
    if fate == 0:
        return
    if fate == 1:
        yield write
        return
    sectors = -(-len(write.data) // SECTOR)
    tears = {generator.randrange(1, sectors) for _ in range(MAX_TEARS)} if sectors > 1 else set()
    edges = [0, *sorted(tears), sectors]
    for first, last in pairwise(edges):
        if generator.getrandbits(1):
            yield Write(write.offset + first * SECTOR, write.data[first * SECTOR : last * SECTOR])


class OneFile(mfusepy.Operations):  # type: ignore[misc]
    """The file system: a directory with ``disk`` in it, of a fixed size."""

    use_ns = True

    def __init__(self, file: VolatileFile) -> None:
        self._file = file

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/disk":
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._file.size_bytes}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", "disk"]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._file.read(offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if offset + len(data) > self._file.size_bytes:
            raise mfusepy.FuseOSError(errno.ENOSPC)
        self._file.write(offset, data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._file.sync()
        return 0


def obey(file: VolatileFile) -> None:
    """Carry out the commands on standard input."""
    for line in sys.stdin:
        command, _, seed = line.strip().partition(" ")
        if command == "cut":
            kept, lost = file.cut(random.Random(int(seed)))
            sys.stdout.write(f"cut {kept} {lost}\n")
            sys.stdout.flush()


def main(mountpoint: str, backing: str) -> None:
    """Serve until the file system is unmounted."""
    file = VolatileFile(os.open(backing, os.O_RDWR))
    threading.Thread(target=obey, args=(file,), daemon=True).start()
    mfusepy.FUSE(OneFile(file), mountpoint, foreground=True, nothreads=True, fsname="bootpoint-powercut")


if __name__ == "__main__":
    main(*sys.argv[1:])
