"""What a source promises: a disk, or the still picture of one, that can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

from bootpoint_common.errors import Code, error
from bootpoint_common.extent import Extent
from bootpoint_common.units import MiB

#: Bytes that are read at once: fastest warm (22 GB/s; 64 KiB: 6, 4 MiB: 17), and enough for a cold disk.
READ = MiB


class Source(Protocol):
    """A disk that is open for reading. Used by one thread, but for `read`, which several may call at once."""

    @property
    def path(self) -> str:
        """Path of the file or the device, for people."""

    @property
    def size_bytes(self) -> int:
        """Size of the disk when it was opened; doesn't change."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from byte ``offset`` on.

        Raises:
            BootpointError: ``disk_read_error``: the disk can't be read there, or ends before.
        """

    def data_extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Return extents that cover the given range, ascending; those that read as zero for certain are zero.

        Raises:
            BootpointError: ``disk_read_error``.
        """

    def close(self) -> None:
        """May be called twice."""


def read_descriptor(descriptor: int, path: str, offset: int, length: int) -> bytes:
    """Return exactly ``length`` bytes of an open file or device, as `Source.read` promises."""
    parts: list[bytes] = []
    while length:
        try:
            part = os.pread(descriptor, min(length, READ), offset)
        except OSError as failure:
            raise read_error(path, offset, failure) from failure
        if not part:
            raise error(
                Code.DISK_READ_ERROR,
                f"{path} ends at byte {offset}, though it was larger when the run began",
                value=path,
            )
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_error(path: str, offset: int, failure: OSError) -> Exception:
    """Make the error of a read that the system refused at byte ``offset``."""
    return error(
        Code.DISK_READ_ERROR,
        f"{path} can't be read at byte {offset}: {failure.strerror or failure}",
        value=path,
    )
