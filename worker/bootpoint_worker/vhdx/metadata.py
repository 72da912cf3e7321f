"""The metadata of a VHDX: size, blocks, sectors, and which file is its parent ([MS-VHDX] 2.6)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.units import KiB, MiB, TiB
from bootpoint_worker.vhdx.fault import malformed, read_exactly
from bootpoint_worker.vhdx.file import RandomAccess
from bootpoint_worker.vhdx.locator import ParentLink, parse_locator
from bootpoint_worker.vhdx.region import Region

#: First bytes of the metadata table.
SIGNATURE = b"metadata"

#: Bytes of the table; items lie behind it.
TABLE_BYTES = 64 * KiB

#: Most entries of the table, and most bytes of an item.
MOST_ENTRIES, LONGEST_ITEM = 2047, MiB

#: Ids of the items (2.6.2).
FILE_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
DISK_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
DISK_ID = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
LOGICAL_SECTOR = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
PHYSICAL_SECTOR = UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
PARENT_LOCATOR = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")

_KNOWN = (FILE_PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR)

#: Flags of an entry: the item belongs to a user of the format; a reader has to know it.
_IS_USER, _IS_REQUIRED = 1, 4

#: Flags of the file parameters: blocks stay allocated (a fixed disk); the file has a parent.
_LEAVE_ALLOCATED, _HAS_PARENT = 1, 2

#: Smallest and largest block in bytes (2.6.2.1), and largest disk (2.6.2.2).
SMALLEST_BLOCK, LARGEST_BLOCK, LARGEST_DISK = MiB, 256 * MiB, 64 * TiB

#: Bytes that a sector may have.
SECTORS = (512, 4096)

#: Signature, reserved, number of entries.
_HEADER = struct.Struct("<8sHH20x")

#: Id, offset within the region, length, flags.
_ENTRY = struct.Struct("<16sIII4x")


class Kind(enum.StrEnum):
    """What a file holds of its disk."""

    FIXED = "fixed"
    """All of it, with every block in its place from the start."""
    DYNAMIC = "dynamic"
    """All of it; blocks come when they are written."""
    DIFFERENCING = "differencing"
    """What differs from its parent."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The properties of a disk.

    Attributes:
        kind: What the file holds of it.
        size_bytes: The disk's size.
        block_bytes: Bytes of a block.
        sector_bytes: Bytes of a logical sector, by which changes are marked.
        physical_sector_bytes: Bytes that the disk says it writes at once.
        disk_id: The same along a chain.
        parent: The file beneath; None for a file that stands alone.
    """

    kind: Kind
    size_bytes: int
    block_bytes: int
    sector_bytes: int
    physical_sector_bytes: int
    disk_id: UUID
    parent: ParentLink | None


def read_metadata(file: RandomAccess, region: Region) -> Metadata:
    """Read the metadata and check every value against the format's limits.

    Raises:
        BootpointError: ``target_check_failed``.
    """
    items = _items(file, region)
    missing = [str(key) for key in _KNOWN[:-1] if key not in items]
    if missing:
        raise malformed(file.name, f"its metadata lacks {', '.join(missing)}")
    block, flags = struct.unpack("<II", _sized(file, items[FILE_PARAMETERS], 8))
    (size,) = struct.unpack("<Q", _sized(file, items[DISK_SIZE], 8))
    (logical,) = struct.unpack("<I", _sized(file, items[LOGICAL_SECTOR], 4))
    (physical,) = struct.unpack("<I", _sized(file, items[PHYSICAL_SECTOR], 4))
    disk_id = UUID(bytes_le=_sized(file, items[DISK_ID], 16))
    _check(file.name, block, size, logical, physical)
    parent = None
    if flags & _HAS_PARENT:
        if PARENT_LOCATOR not in items:
            raise malformed(file.name, "it has a parent, and doesn't say which")
        parent = parse_locator(file.name, items[PARENT_LOCATOR])
    kind = Kind.DIFFERENCING if parent else Kind.FIXED if flags & _LEAVE_ALLOCATED else Kind.DYNAMIC
    return Metadata(kind, size, block, logical, physical, disk_id, parent)


def _items(file: RandomAccess, region: Region) -> dict[UUID, bytes]:
    """Return the items that are the format's own."""
    table = read_exactly(file, region.offset, TABLE_BYTES, "metadata")
    signature, _, count = _HEADER.unpack_from(table)
    if signature != SIGNATURE or count > MOST_ENTRIES:
        raise malformed(file.name, f"its metadata table is none: {signature!r} with {count} entries")
    found: dict[UUID, bytes] = {}
    for number in range(count):
        raw, offset, length, flags = _ENTRY.unpack_from(table, _HEADER.size + number * _ENTRY.size)
        key = UUID(bytes_le=raw)
        if flags & _IS_USER or key not in _KNOWN:
            if flags & _IS_REQUIRED:
                raise malformed(file.name, f"its metadata item {key} has to be known, and isn't")
            continue
        if key in found:
            raise malformed(file.name, f"its metadata item {key} is there twice")
        if length > LONGEST_ITEM or offset < TABLE_BYTES or offset + length > region.length:
            raise malformed(file.name, f"its metadata item {key} of {length} bytes at {offset} lies outside")
        found[key] = read_exactly(file, region.offset + offset, length, "metadata")
    return found


def _sized(file: RandomAccess, item: bytes, length: int) -> bytes:
    if len(item) != length:
        raise malformed(file.name, f"a metadata item has {len(item)} bytes, not {length}")
    return item


def _check(name: str, block: int, size: int, logical: int, physical: int) -> None:
    if not SMALLEST_BLOCK <= block <= LARGEST_BLOCK or block & (block - 1):
        raise malformed(name, f"its blocks have {block} bytes: not a power of two from 1 to 256 MiB")
    if logical not in SECTORS or physical not in SECTORS:
        raise malformed(name, f"its sectors have {logical} and {physical} bytes: neither 512 nor 4096")
    if not 0 < size <= LARGEST_DISK or size % logical:
        raise malformed(name, f"its disk has {size} bytes: not whole sectors up to 64 TiB")
