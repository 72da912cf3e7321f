"""Where the parts of a VHDX file lie, and how they are written: for `avhdx`, which writes whole files.

Source of every number: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format"; a comment names the section.
"""

from __future__ import annotations

import enum
import functools
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from bootpoint_common.units import KiB, MiB

#: What the file type identifier begins with (2.2.1).
FILE_SIGNATURE = b"vhdxfile"

#: Where the two headers lie, and how many bytes of each its checksum covers (2.2.2).
HEADERS, HEADER_BYTES = (64 * KiB, 128 * KiB), 4 * KiB

#: Where the two copies of the region table lie, and their length (2.2.3).
REGION_TABLES, REGION_BYTES = (192 * KiB, 256 * KiB), 64 * KiB

#: Signature, checksum, sequence number, three GUIDs, log version, version, log length, log offset (2.2.2).
HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")

#: Signature, checksum, number of entries; then of each: GUID, offset, length, required (2.2.3.1, 2.2.3.2).
REGION_HEADER, REGION_ENTRY = struct.Struct("<4sIII"), struct.Struct("<16sQII")

#: Signature, reserved, number of entries; then of each: GUID, offset, length, flags, reserved (2.6.1).
METADATA_HEADER, METADATA_ENTRY = struct.Struct("<8sHH20x"), struct.Struct("<16sIIII")

#: Type, reserved, number of pairs; then of each: offset and length of key and of value (2.6.2.6).
LOCATOR_HEADER, LOCATOR_ENTRY = struct.Struct("<16sHH"), struct.Struct("<IIHH")

#: Where the items lie in the metadata region: behind the table (2.6.1.1).
ITEMS_OFFSET = 64 * KiB

#: Where we put log, metadata region and BAT: each begins at a whole MiB behind the header section (2.1).
LOG_OFFSET, METADATA_OFFSET, BAT_OFFSET = MiB, 2 * MiB, 3 * MiB

#: Length of log and of metadata region: the least there is.
LOG_BYTES = METADATA_BYTES = MiB

#: Sectors that one sector bitmap block describes (2.4): its MiB has that many bits.
CHUNK_SECTORS = 8 * MiB

#: Bits of a BAT entry that are its state; the offset, a whole number of MiB, is in those from 20 on (2.5.1).
STATE_MASK, OFFSET_MASK = 7, ~(MiB - 1) & (2**64 - 1)


def guid(text: str) -> bytes:
    """Return a GUID as the format stores it."""
    return uuid.UUID(text).bytes_le


#: Regions (2.2.3.2).
BAT_REGION, METADATA_REGION = guid("2DC27766-F623-4200-9D64-115E9BFD4A08"), guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")

#: Type of a parent locator that names a VHDX (2.6.2.6.1).
VHDX_LOCATOR = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913")

#: Bits of a metadata entry (2.6.1.2): it describes the virtual disk; it must be understood.
OF_DISK, REQUIRED = 2, 4


class Item(enum.Enum):
    """Known items of metadata (2.6.2)."""

    PARAMETERS = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")  # block size; bit 0 fixed, bit 1 has a parent
    SIZE = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")  # of the virtual disk, in bytes
    DISK_ID = guid("BECA12AB-B2E6-4523-93EF-C309E000C746")  # what the SCSI page 83 is made of
    LOGICAL_SECTOR = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")  # in bytes
    PHYSICAL_SECTOR = guid("CDA348C7-445D-4471-9CC9-E9885251C556")  # in bytes
    PARENT = guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")  # the parent locator


class State(enum.IntEnum):
    """States of a payload block (2.5.1.1); a sector bitmap block knows the first and FULL only (2.5.1.2)."""

    NOT_PRESENT = 0  # reads as the parent, or as zeros
    UNDEFINED = 1  # reads as anything
    ZERO = 2  # reads as zeros
    UNMAPPED = 3  # was trimmed
    FULL = 6  # all of it is in this file
    PARTIAL = 7  # the sectors that its bitmap marks are in this file, others as in the parent


@dataclass(frozen=True, slots=True)
class Shape:
    """What a virtual disk and its file are like.

    Attributes:
        size: Bytes of the disk.
        block_size: Bytes of a payload block.
        sector_size: Bytes of a logical sector: 512 or 4096.
        physical_sector_size: Likewise, of a physical one.
        fixed: Whether all blocks are there from the start.
        has_parent: Whether it is a differencing disk.
    """

    size: int
    block_size: int
    sector_size: int = 512
    physical_sector_size: int = 4096
    fixed: bool = False
    has_parent: bool = False

    @property
    def blocks(self) -> int:
        """How many payload blocks the disk has."""
        return -(-self.size // self.block_size)

    @property
    def chunk_ratio(self) -> int:
        """How many payload blocks one sector bitmap block describes (2.5)."""
        return CHUNK_SECTORS * self.sector_size // self.block_size

    @property
    def entries(self) -> int:
        """How many entries the BAT has (2.5): with a parent, whole chunks, so that the last one has a bitmap too."""
        if self.has_parent:
            return -(-self.blocks // self.chunk_ratio) * (self.chunk_ratio + 1)
        return self.blocks + (self.blocks - 1) // self.chunk_ratio

    @property
    def bat_bytes(self) -> int:
        """Length of the BAT region."""
        return -(-self.entries * 8 // MiB) * MiB

    def payload_entry(self, block: int) -> int:
        """Return the number of a block's BAT entry."""
        return block + block // self.chunk_ratio

    def bitmap_entry(self, block: int) -> int:
        """Return the number of the BAT entry of the bitmap that describes a block."""
        return block // self.chunk_ratio * (self.chunk_ratio + 1) + self.chunk_ratio


def _table() -> tuple[int, ...]:
    """Return CRC-32C's values of all bytes: the polynomial 1EDC6F41, reflected (RFC 3720, B.4)."""
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 - a register
        values.append(value)
    return tuple(values)


_CRC_TABLE = _table()


@functools.lru_cache(maxsize=64)
def crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def sealed(data: bytes) -> bytes:
    """Return a header or a region table with its checksum, which is counted with four zeros in its place."""
    return data[:4] + struct.pack("<I", crc32c(data[:4] + bytes(4) + data[8:])) + data[8:]


def is_sealed(data: bytes) -> bool:
    """Tell whether the checksum of a header or a region table is right."""
    return data == sealed(data)


def header(sequence: int, file_guid: bytes, data_guid: bytes, log_guid: bytes = bytes(16)) -> bytes:
    """Return one header."""
    fields = HEADER.pack(b"head", 0, sequence, file_guid, data_guid, log_guid, 0, 1, LOG_BYTES, LOG_OFFSET)
    return sealed(fields.ljust(HEADER_BYTES, b"\0"))


def region_table(shape: Shape) -> bytes:
    """Return the region table."""
    regions = [(BAT_REGION, BAT_OFFSET, shape.bat_bytes, 1), (METADATA_REGION, METADATA_OFFSET, METADATA_BYTES, 1)]
    table = REGION_HEADER.pack(b"regi", 0, len(regions), 0) + b"".join(REGION_ENTRY.pack(*each) for each in regions)
    return sealed(table.ljust(REGION_BYTES, b"\0"))


def metadata(shape: Shape, disk_id: bytes, locator: Mapping[str, str]) -> bytes:
    """Return the metadata region, without the zeros behind its last item."""
    items = [
        (Item.PARAMETERS, struct.pack("<II", shape.block_size, shape.fixed | shape.has_parent << 1), REQUIRED),
        (Item.SIZE, struct.pack("<Q", shape.size), OF_DISK | REQUIRED),
        (Item.DISK_ID, disk_id, OF_DISK | REQUIRED),
        (Item.LOGICAL_SECTOR, struct.pack("<I", shape.sector_size), OF_DISK | REQUIRED),
        (Item.PHYSICAL_SECTOR, struct.pack("<I", shape.physical_sector_size), OF_DISK | REQUIRED),
    ]
    if shape.has_parent:
        items.append((Item.PARENT, parent_locator(locator), REQUIRED))
    table, body = METADATA_HEADER.pack(b"metadata", 0, len(items)), b""
    for item, data, flags in items:
        table += METADATA_ENTRY.pack(item.value, ITEMS_OFFSET + len(body), len(data), flags, 0)
        body += data.ljust(-(-len(data) // 8) * 8, b"\0")
    return table.ljust(ITEMS_OFFSET, b"\0") + body


def parent_locator(pairs: Mapping[str, str]) -> bytes:
    """Return the item that says where the parent is."""
    texts = [text.encode("utf-16-le") for pair in pairs.items() for text in pair]
    start = LOCATOR_HEADER.size + LOCATOR_ENTRY.size * len(pairs)
    offsets = [start + sum(map(len, texts[:number])) for number in range(len(texts))]
    entries = (
        LOCATOR_ENTRY.pack(offsets[number], offsets[number + 1], len(texts[number]), len(texts[number + 1]))
        for number in range(0, len(texts), 2)
    )
    return LOCATOR_HEADER.pack(VHDX_LOCATOR, 0, len(pairs)) + b"".join(entries) + b"".join(texts)


def read_locator(data: bytes) -> dict[str, str]:
    """Return what a parent locator says."""
    _, _, count = LOCATOR_HEADER.unpack_from(data)
    pairs = {}
    for number in range(count):
        entry = LOCATOR_ENTRY.unpack_from(data, LOCATOR_HEADER.size + number * LOCATOR_ENTRY.size)
        places = zip(entry[:2], entry[2:], strict=True)
        key, value = (data[offset : offset + length].decode("utf-16-le") for offset, length in places)
        pairs[key] = value
    return pairs
