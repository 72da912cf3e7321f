"""A random-access file: all that the readers and the updater of VHDX know of where their bytes lie."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from bootpoint_common.errors import Code, error


class RandomAccess(Protocol):
    """One open file; used by one thread at a time.

    All of its methods raise `BootpointError`: ``host_full``, ``host_unreachable``, ``target_write_error``,
    ``layer_lost`` when the file is no longer there, ``standby_running`` when a VM holds it. Once one has failed for a
    reason other than its arguments, `flush` fails too: nobody may take the file for durable after a lost write.

    Attributes:
        name: What people call the file, for messages: its path.
    """

    name: str

    def size(self) -> int:
        """Return its length in bytes, what this handle has written or resized included."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read what lies there, everything that this handle wrote before included; shorter only at the end."""

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Read ranges (offset, length), in their order, with requests under way ahead of what was taken.

        Nothing may be written by this handle before the last one was taken.
        """

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes; the file grows if need be.

        May return before it is done, an error then comes from a later call; the data is copied or sent before that.
        Writes may reach the disk in any order until `flush`, but a later one of the same bytes wins.
        """

    def flush(self) -> None:
        """Return when everything written and resized before survives a power cut."""

    def resize(self, size: int) -> None:
        """Set the length in bytes; what is added reads as zero. Ordered with writes as they are with each other."""

    def close(self) -> None:
        """Let go of it; may be called twice; says nothing about what wasn't flushed."""


class LocalFile:
    """A file of this machine; see `RandomAccess`.

    Args:
        path: Where.
        writable: Whether it may be changed; it has to exist in any case.

    Raises:
        BootpointError: ``layer_lost``: it isn't there; ``target_write_error``: it can't be opened.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.name = str(path)
        self._failed = False
        with self._explained("open"):
            self._descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        self._closed = False

    def size(self) -> int:
        """Ask the file system; see `RandomAccess.size`."""
        with self._explained("look at"):
            return os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Read; see `RandomAccess.read_at`."""
        with self._explained(f"read {length} bytes at {offset} of"):
            data = os.pread(self._descriptor, length, offset)
            # One call gives at most 2 GiB, and may give less than there is.
            while len(data) < length and (more := os.pread(self._descriptor, length - len(data), offset + len(data))):
                data += more
            return data

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Read one after the other: the kernel reads ahead; see `RandomAccess.read_many`."""
        return (self.read_at(offset, length) for offset, length in ranges)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write; see `RandomAccess.write_at`."""
        view = memoryview(data).cast("B")
        with self._explained(f"write {len(view)} bytes at {offset} of"):
            while view:
                done = os.pwrite(self._descriptor, view, offset)
                view, offset = view[done:], offset + done

    def flush(self) -> None:
        """Make it durable; see `RandomAccess.flush`."""
        if self._failed:
            raise error(Code.TARGET_WRITE_ERROR, f"{self.name} isn't durable: a write has failed before")
        with self._explained("flush"):
            os.fsync(self._descriptor)

    def resize(self, size: int) -> None:
        """Set the length; see `RandomAccess.resize`."""
        with self._explained(f"set to {size} bytes"):
            os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close it; see `RandomAccess.close`."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self._failed = True
            said = f"can't {what} {self.name}: {exc.strerror}"
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise error(Code.HOST_FULL, said) from exc
            if exc.errno == errno.ENOENT:
                raise error(Code.LAYER_LOST, said) from exc
            raise error(Code.TARGET_WRITE_ERROR, said) from exc
