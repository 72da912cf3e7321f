"""A FUSE file system of one file, ``disk``, of which one MiB in the middle is read only while its gate is open.

A process of its own: ``python gated_fuse.py MOUNTPOINT BACKING_FILE``. The gate is shut until the line ``open`` comes
on standard input; ``shut`` shuts it again. So a run over this disk stands in its midst for as long as a test likes,
while whoever looks at its partition table, which is at both ends, is not held up.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from typing import Any

# libfuse 3; the name is read when the module is imported.
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy  # type: ignore[import-untyped]

#: Bytes that lie behind the gate, in the middle.
GATE = 1 << 20


class GatedFile(mfusepy.Operations):  # type: ignore[misc]
    """The file system: a directory with ``disk`` in it."""

    use_ns = True

    def __init__(self, descriptor: int, gate: threading.Event) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._gate = gate

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/disk":
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self._size}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", "disk"]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if self._size // 2 <= offset < self._size // 2 + GATE:
            self._gate.wait()
        return os.pread(self._descriptor, size, offset)


def main(mountpoint: str, backing: str) -> None:
    """Serve until the file system is unmounted."""
    gate = threading.Event()

    def obey() -> None:
        for line in sys.stdin:
            {"open": gate.set, "shut": gate.clear}[line.strip()]()

    threading.Thread(target=obey, daemon=True).start()
    mfusepy.FUSE(
        GatedFile(os.open(backing, os.O_RDONLY), gate), mountpoint, foreground=True, fsname="bootpoint-gate",
        direct_io=True,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
