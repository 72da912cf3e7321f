"""Dynamic disks of Windows (LDM), known by their headers.

::

    sector 0       6                                       size - 2048        + 1856     + 2047
    ┌─────┬───┬──────────┬──────────────────────────────────┬──────────────────┬──────────┬─┐
    │ MBR │   │ PRIVHEAD │ type 0x42, from first to last    │ LDM database     │ PRIVHEAD │P│
    └─────┴───┴──────────┴──────────────────────────────────┴──────────────────┴──────────┴─┘

The layout is described by the Linux kernel's block/partitions/ldm.h and its admin-guide/ldm.rst, which the numbers
below follow. All numbers of a header are big-endian; sectors have 512 bytes.
"""

from __future__ import annotations

import os
import struct
from uuid import UUID

from bootpoint_common.units import SECTOR, MiB

_MAGIC = b"PRIVHEAD"
#: Version of the format: 2.11 (Windows 2000) or 2.12 (since Vista).
_VERSION = 2
#: Where a header says things: version, the disk's GUID as text, and (start, size) of its room and of its database.
_VERSION_AT, _GUID_AT, _ROOM_AT = 0x0C, 0x30, 0x11B
#: Length of the GUID's text.
_GUID_LENGTH = 36
#: Sectors from a disk's start to the first header; from the database's start to the other two.
_FIRST, _OTHERS = 6, (1856, 2047)
#: Bytes of the database at a disk's end.
_DATABASE = MiB


def has_header(path: str, size_bytes: int, sector_bytes: int = SECTOR) -> bool:
    """Say whether a disk has a valid LDM header at one of its places; False too for what can't be read.

    Args:
        path: A file or device.
        size_bytes: Its size.
        sector_bytes: Its logical sectors: those with 4,096 bytes count in them.
    """
    places = {_FIRST * SECTOR, _FIRST * sector_bytes}
    places |= {size_bytes - _DATABASE + other * SECTOR for other in _OTHERS}
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        return any(_is_header(os.pread(descriptor, SECTOR, place), size_bytes) for place in places if place > 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_header(sector: bytes, size_bytes: int) -> bool:
    """Check a header as the kernel does: eight letters alone could be anything's content."""
    if len(sector) < SECTOR or not sector.startswith(_MAGIC):
        return False
    (version,) = struct.unpack_from(">H", sector, _VERSION_AT)
    start, size, database, database_size = struct.unpack_from(">4Q", sector, _ROOM_AT)
    try:
        UUID(sector[_GUID_AT : _GUID_AT + _GUID_LENGTH].decode("ascii"))
    except ValueError:
        return False
    fits: bool = size > 0 and start + size <= database and (database + database_size) * SECTOR <= size_bytes
    return fits and bool(version == _VERSION)
