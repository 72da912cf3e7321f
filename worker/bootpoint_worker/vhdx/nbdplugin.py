"""nbdkit's plugin for a chain of VHDX files: run by nbdkit's Python plugin, with functions as nbdkit names them.

Source: nbdkit-python-plugin(3), nbdkit-plugin(3).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from bootpoint_worker.smb import SmbFiles
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.view import View
from bootpoint_worker.vhdx.writer import VhdxWriter

#: Version of the interface between nbdkit and plugins: with flags.
API_VERSION = 2

#: NBDKIT_EXTENT_HOLE and NBDKIT_EXTENT_ZERO together: nothing is there, and it reads as zero.
HOLE = 3

#: Most bytes that are read of a description, which a pipe takes at once.
LONGEST = 65536

#: What is served, and the host that it is on: one login for all connections of NBD.
_served: list[tuple[View, SmbFiles | None]] = []


def config(key: str, value: str) -> None:
    """Take a setting: ``view`` is a descriptor with the chain's description."""
    if key != "view":
        raise ValueError(f"no setting {key}: view=DESCRIPTOR")
    view = msgspec.json.decode(os.read(int(value), LONGEST), type=View)
    _served.append((view, view.host()))


def open(readonly: bool) -> Chain | VhdxWriter:  # noqa: A001 - nbdkit calls it so
    """Open the files for one connection."""
    ((view, host),) = _served
    return view.open(host, read_only=True) if readonly or not view.writable else view.write(host)


def close(disk: Chain | VhdxWriter) -> None:
    """Close the files."""
    disk.close()


def get_size(disk: Chain | VhdxWriter) -> int:
    """Return the disk's bytes."""
    return disk.size_bytes


def can_write(disk: Chain | VhdxWriter) -> bool:
    """Tell whether the disk may be written."""
    return isinstance(disk, VhdxWriter)


def can_flush(disk: Chain | VhdxWriter) -> bool:
    """Tell whether there is something to flush."""
    return isinstance(disk, VhdxWriter)


def pread(disk: Chain | VhdxWriter, buffer: bytearray, offset: int, flags: int) -> None:  # noqa: ARG001 - nbdkit's
    """Read bytes."""
    buffer[:] = disk.read(offset, len(buffer))


def pwrite(disk: VhdxWriter, buffer: bytes, offset: int, flags: int) -> None:  # noqa: ARG001 - nbdkit's
    """Write bytes."""
    disk.write(offset, buffer)


def zero(disk: VhdxWriter, count: int, offset: int, flags: int) -> None:  # noqa: ARG001 - nbdkit's
    """Make bytes zero."""
    disk.zero(offset, count)


def flush(disk: VhdxWriter, flags: int) -> None:  # noqa: ARG001 - nbdkit's
    """Make what was written durable."""
    disk.flush()


def extents(
    disk: Chain | VhdxWriter, count: int, offset: int, flags: int  # noqa: ARG001 - nbdkit's
) -> Iterator[tuple[int, int, int]]:
    """Tell which parts are holes."""
    return ((at, length, HOLE if is_zero else 0) for at, length, is_zero in disk.extents(offset, count))
