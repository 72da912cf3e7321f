"""The region table: where metadata and BAT of a VHDX lie ([MS-VHDX] 2.2.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from bootpoint_common.units import KiB, MiB
from bootpoint_worker.vhdx.fault import malformed, read_exactly
from bootpoint_worker.vhdx.file import RandomAccess
from bootpoint_worker.vhdx.header import Header, is_sealed

#: Where the table and its copy lie, in bytes.
TABLE_OFFSETS = (192 * KiB, 256 * KiB)

#: Bytes of a table, all of which its checksum covers.
TABLE_BYTES = 64 * KiB

#: First bytes of a table.
SIGNATURE = b"regi"

#: Most entries of a table.
MOST_ENTRIES = 2047

#: The region with the array of the blocks' places.
BAT = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")

#: The region with the disk's properties.
METADATA = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")

#: Signature, checksum, number of entries, reserved.
_HEADER = struct.Struct("<4sIII")

#: Id, offset in bytes, length in bytes, whether a reader has to know it.
_ENTRY = struct.Struct("<16sQII")


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a file that holds no blocks.

    Attributes:
        offset: Where it begins, in bytes; a multiple of 1 MiB.
        length: Its bytes; a multiple of 1 MiB.
    """

    offset: int
    length: int

    @property
    def end(self) -> int:
        """Where it ends, in bytes."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Regions:
    """Where everything lies that is no block.

    Attributes:
        bat: The blocks' places.
        metadata: The disk's properties.
        reserved: These two, the headers, the log, and regions that are not known here; in their order.
    """

    bat: Region
    metadata: Region
    reserved: tuple[Region, ...]

    def overlapped(self, offset: int, length: int) -> bool:
        """Tell whether a stretch takes bytes of any of them."""
        return any(region.offset < offset + length and offset < region.end for region in self.reserved)


def read_regions(file: RandomAccess, header: Header) -> Regions:
    """Read the table, or its copy when it is damaged.

    Raises:
        BootpointError: ``target_check_failed``: both are damaged, a region is missing, twice there, not known though it
            has to be, outside the file, or overlaps another.
    """
    tables = (read_exactly(file, offset, TABLE_BYTES, "region tables") for offset in TABLE_OFFSETS)
    table = next((raw for raw in tables if is_sealed(raw, SIGNATURE)), None)
    if table is None:
        raise malformed(file.name, "its region table and the copy of it are damaged")
    named = _entries(file.name, table)
    missing = [name for key, name in ((BAT, "BAT"), (METADATA, "metadata")) if key not in named]
    if missing:
        raise malformed(file.name, f"it has no region for {' and '.join(missing)}")
    log = [Region(header.log_offset, header.log_bytes)] if header.log_bytes else []
    reserved = sorted([Region(0, MiB), *log, *named.values()], key=lambda region: region.offset)
    _check_places(file, reserved)
    return Regions(bat=named[BAT], metadata=named[METADATA], reserved=tuple(reserved))


def _entries(name: str, table: bytes) -> dict[UUID, Region]:
    _, _, count, _ = _HEADER.unpack_from(table)
    if count > MOST_ENTRIES:
        raise malformed(name, f"its region table has {count} entries, and {MOST_ENTRIES} are the most")
    found: dict[UUID, Region] = {}
    for number in range(count):
        raw, offset, length, required = _ENTRY.unpack_from(table, _HEADER.size + number * _ENTRY.size)
        key = UUID(bytes_le=raw)
        if key in found:
            raise malformed(name, f"its region {key} is there twice")
        if required & 1 and key not in (BAT, METADATA):
            raise malformed(name, f"its region {key} has to be known, and isn't")
        found[key] = Region(offset, length)
    return found


def _check_places(file: RandomAccess, reserved: list[Region]) -> None:
    size = file.size()
    for region in reserved:
        if region.offset % MiB or region.length % MiB or not region.length or region.end > size:
            raise malformed(
                file.name, f"a region of {region.length} bytes at {region.offset} is impossible in {size} bytes"
            )
    for before, after in pairwise(reserved):
        if before.end > after.offset:
            raise malformed(file.name, f"its regions at {before.offset} and {after.offset} overlap")
