"""What lies in a VHDX file in front of its blocks, as it is read."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from tests.hyperv import layout
from tests.hyperv.layout import Item, Shape

#: winerror.h, codes of virtual disks (ERROR_VHD_…): what is wrong with a file.
FORMAT_UNKNOWN, HEADER_CORRUPT, BAT_CORRUPT = 0xC03A0004, 0xC03A0008, 0xC03A000A
PARENT_NOT_FOUND, PARENT_MISMATCH, METADATA_UNREADABLE = 0xC03A000D, 0xC03A000E, 0xC03A0010
PARENT_SIZE_MISMATCH = 0xC03A0017


class VhdxError(Exception):
    """A file isn't a VHDX that can be used.

    Args:
        message: Why.
        code: One of the codes above.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Header:
    """The header that counts: the valid one with the higher sequence number (2.2.2).

    Attributes:
        valid: How many of the two are valid.
        sequence: Its sequence number.
        file_guid: What changes whenever the file does, as it is stored.
        data_guid: What changes whenever the disk's content does, likewise.
        log_guid: Which entries of the log are to be replayed, likewise; zeros for none.
        log: Offset and length of the log.
    """

    valid: int
    sequence: int
    file_guid: bytes
    data_guid: bytes
    log_guid: bytes
    log: tuple[int, int]


def get(fd: int, offset: int, length: int) -> bytes:
    """Read bytes that have to be there.

    Raises:
        VhdxError: They aren't.
    """
    data = os.pread(fd, length, offset)
    if len(data) < length:
        raise VhdxError("the file ends too early", HEADER_CORRUPT)
    return data


def read_header(fd: int) -> Header:
    """Read the header that counts.

    Raises:
        VhdxError: It isn't a VHDX, or has no valid header.
    """
    if get(fd, 0, 8) != layout.FILE_SIGNATURE:
        raise VhdxError("it doesn't begin as a VHDX does", FORMAT_UNKNOWN)
    raw = [get(fd, offset, layout.HEADER_BYTES) for offset in layout.HEADERS]
    valid = [layout.HEADER.unpack_from(each) for each in raw if each[:4] == b"head" and layout.is_sealed(each)]
    if not valid:
        raise VhdxError("neither header is valid", HEADER_CORRUPT)
    _, _, sequence, file_guid, data_guid, log_guid, _, _, length, offset = max(valid, key=lambda fields: fields[2])
    return Header(len(valid), sequence, file_guid, data_guid, log_guid, (offset, length))


def read_regions(fd: int) -> dict[bytes, tuple[int, int]]:
    """Read offset and length of each region, by its GUID.

    Raises:
        VhdxError: Neither table is valid.
    """
    raw = [get(fd, offset, layout.REGION_BYTES) for offset in layout.REGION_TABLES]
    table = next((each for each in raw if each[:4] == b"regi" and layout.is_sealed(each)), None)
    if table is None:
        raise VhdxError("neither region table is valid", HEADER_CORRUPT)
    count = layout.REGION_HEADER.unpack_from(table)[2]
    places = (layout.REGION_HEADER.size + number * layout.REGION_ENTRY.size for number in range(count))
    entries = (layout.REGION_ENTRY.unpack_from(table, place) for place in places)
    return {region: (offset, length) for region, offset, length, _ in entries}


def read_items(fd: int, start: int) -> dict[Item, bytes]:
    """Read the items of the metadata region that begins at an offset.

    Raises:
        VhdxError: It isn't one.
    """
    table = get(fd, start, layout.ITEMS_OFFSET)
    signature, _, count = layout.METADATA_HEADER.unpack_from(table)
    if signature != b"metadata":
        raise VhdxError("the metadata can't be read", METADATA_UNREADABLE)
    places = (layout.METADATA_HEADER.size + number * layout.METADATA_ENTRY.size for number in range(count))
    entries = [layout.METADATA_ENTRY.unpack_from(table, place) for place in places]
    return {Item(item): get(fd, start + offset, length) for item, offset, length, *_ in entries}


def shape_of(items: dict[Item, bytes]) -> Shape:
    """Return what metadata says of the disk."""
    block_size, flags = struct.unpack("<II", items[Item.PARAMETERS])
    (size,) = struct.unpack("<Q", items[Item.SIZE])
    logical, physical = (struct.unpack("<I", items[each])[0] for each in (Item.LOGICAL_SECTOR, Item.PHYSICAL_SECTOR))
    return Shape(size, block_size, logical, physical, fixed=bool(flags & 1), has_parent=bool(flags & 2))
