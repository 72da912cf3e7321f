"""Partition tables, boot loaders and kinds of file systems, read from a disk's bytes.

Formats: the MBR, and "GUID Partition Table" of the UEFI specification (section 5.3). Superblocks: ext2 to ext4 (Linux,
fs/ext4/ext4.h), XFS (xfs_dsb), btrfs (at 64 KiB), LVM2's label, LUKS, md, swap, NTFS and FAT boot sectors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.units import KiB

#: Reads bytes: offset, length. Shorter at the disk's end.
Read = Callable[[int, int], bytes]

#: Logical sectors that partition tables count in; disks of 4 KiB sectors are tried second.
SECTORS = (512, 4096)

#: Most partitions that are looked at.
MOST_PARTITIONS = 128

#: GPT partition types (UEFI specification table 5.7, and GRUB's).
ESP = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")
MICROSOFT_RESERVED = UUID("e3c9e316-0b5c-4db8-817d-f92df00215ae")

#: MBR types of extended partitions.
_EXTENDED = (0x05, 0x0F, 0x85)

#: File systems that the light route mounts. Not btrfs: a copy of a mounted one confuses the host's kernel, which knows
#: them by their id.
MOUNTED = ("ext4", "xfs")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition.

    Attributes:
        number: As Linux counts.
        offset: Its first byte.
        size: Its bytes.
        kind: What is on it: ``ext4`` (or 2, 3), ``xfs``, ``btrfs``, ``vfat``, ``ntfs``, ``lvm``, ``luks``, ``md``,
            ``swap``; empty for anything else.
        uuid: Of the file system, as Linux writes it.
        label: Of the file system.
        esp: Whether it is an EFI system partition.
        part_uuid: The partition's own id, as in ``PARTUUID=``.
    """

    number: int
    offset: int
    size: int
    kind: str = ""
    uuid: str = ""
    label: str = ""
    esp: bool = False
    part_uuid: str = ""


@dataclass(frozen=True, slots=True)
class DiskLayout:
    """What a disk's beginning says.

    Attributes:
        slot: Which disk.
        table: ``gpt``, ``mbr``, or empty.
        partitions: In order.
        boot_code: Whether its first sector has code of a boot loader.
        bios_boot: Whether it has a partition for GRUB's core image.
        windows: Whether it has what Windows puts on a disk that it boots from.
    """

    slot: str
    table: str = ""
    partitions: tuple[Partition, ...] = ()
    boot_code: bool = False
    bios_boot: bool = False
    windows: bool = False

    @property
    def esp(self) -> Partition | None:
        """Its EFI system partition."""
        return next((part for part in self.partitions if part.esp), None)

    @property
    def firmware(self) -> str | None:
        """``bios`` or ``uefi``; None when both can boot it, or nothing."""
        by_bios = self.boot_code and (self.table == "mbr" or self.bios_boot)
        by_uefi = self.esp is not None
        if by_bios == by_uefi:
            return None
        return "uefi" if by_uefi else "bios"

    @property
    def boots(self) -> bool:
        """Whether anything on it can be booted from."""
        return self.esp is not None or (self.boot_code and self.table != "")


def read_layout(slot: str, read: Read, size: int) -> DiskLayout:
    """Read a disk's partition table and what lies on its partitions.

    Args:
        slot: Which disk.
        read: Reads from it.
        size: Its bytes.
    """
    first = read(0, min(size, 512))
    if len(first) < 512 or first[510:] != b"\x55\xaa":
        return DiskLayout(slot)
    boot_code = any(first[:440]) and first[:1] != b"\0"
    kinds = [first[446 + 16 * index + 4] for index in range(4)]
    if 0xEE in kinds:
        return _gpt(slot, read, size, boot_code=boot_code)
    found = [
        _partition(read, number, 512 * start, 512 * length, esp=kind == 0xEF)
        for number, kind, start, length in _mbr(read, first)
        if 0 < 512 * start < size
    ]
    windows = any(part.kind == "ntfs" and _bootmgr(read, part) for part in found)
    return DiskLayout(slot, "mbr" if found else "", tuple(found), boot_code and bool(found), windows=windows)


def _mbr(read: Read, first: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, type, first sector and sectors of primary, then logical partitions."""
    extended = None
    for number in range(1, 5):
        kind, start, length = _entry(first, number - 1)
        if kind in _EXTENDED and extended is None:
            extended = start
        elif kind and length:
            yield number, kind, start, length
    if extended is None:
        return
    at, number = extended, 5
    while number < MOST_PARTITIONS:
        sector = read(512 * at, 512)
        if len(sector) < 512 or sector[510:] != b"\x55\xaa":
            return
        kind, start, length = _entry(sector, 0)
        if kind and length:
            yield number, kind, at + start, length
        number += 1
        link, start, _length = _entry(sector, 1)
        # A chain that doesn't move on never ends.
        if link not in _EXTENDED or extended + start <= at:
            return
        at = extended + start


def _entry(sector: bytes, index: int) -> tuple[int, int, int]:
    entry = sector[446 + 16 * index : 462 + 16 * index]
    start, length = struct.unpack("<II", entry[8:])
    return entry[4], start, length


def _gpt(slot: str, read: Read, size: int, *, boot_code: bool) -> DiskLayout:
    for sector in SECTORS:
        header = read(sector, 92)
        if header[:8] == b"EFI PART":
            break
    else:
        return DiskLayout(slot)
    table, count, length = struct.unpack("<QII", header[72:88])
    if not 128 <= length <= KiB:
        return DiskLayout(slot)
    entries = read(table * sector, min(count, MOST_PARTITIONS) * length)
    found, kinds = [], []
    for number in range(len(entries) // length):
        entry = entries[number * length : (number + 1) * length]
        kind, own = UUID(bytes_le=entry[:16]), UUID(bytes_le=entry[16:32])
        start, last = struct.unpack("<QQ", entry[32:48])
        if not kind.int or not 0 < start * sector < size or last < start:
            continue
        kinds.append(kind)
        bytes_ = (last - start + 1) * sector
        found.append(_partition(read, number + 1, start * sector, bytes_, esp=kind == ESP, part_uuid=str(own)))
    windows = MICROSOFT_RESERVED in kinds and any(part.kind == "ntfs" for part in found)
    return DiskLayout(slot, "gpt" if found else "", tuple(found), boot_code, BIOS_BOOT in kinds, windows)


def _bootmgr(read: Read, part: Partition) -> bool:
    return b"BOOTMGR" in read(part.offset, 512) or b"NTLDR" in read(part.offset, 512)


def _partition(read: Read, number: int, offset: int, size: int, *, esp: bool, part_uuid: str = "") -> Partition:
    kind, uuid, label = _file_system(lambda at, length: read(offset + at, length))
    return Partition(number, offset, size, kind, uuid, label, esp, part_uuid)


#: What is known by bytes at a place: kind, offset, bytes.
_SIGNATURES = (
    ("luks", 0, b"LUKS\xba\xbe"),
    ("lvm", 0, b"LABELONE"),
    ("lvm", 512, b"LABELONE"),
    ("lvm", 1024, b"LABELONE"),
    ("lvm", 1536, b"LABELONE"),
    ("xfs", 0, b"XFSB"),
    ("ext4", 1024 + 56, b"\x53\xef"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("md", 4096, b"\xfc\x4e\x2b\xa9"),
    ("md", 0, b"\xfc\x4e\x2b\xa9"),
    ("ntfs", 3, b"NTFS    "),
    ("vfat32", 82, b"FAT32"),
    ("vfat", 54, b"FAT"),
    ("btrfs", 64 * KiB + 64, b"_BHRfS_M"),
)


def _file_system(read: Read) -> tuple[str, str, str]:
    """Return kind, id and label of what lies there; empty for the unknown."""
    head = read(0, 68 * KiB).ljust(68 * KiB, b"\0")
    kind = next((kind for kind, at, wanted in _SIGNATURES if head[at : at + len(wanted)] == wanted), "")
    match kind:
        case "xfs":
            found = str(UUID(bytes=head[32:48])), _text(head[108:120])
        # One whose journal lies on another device is left alone: the kernel would look for that among the host's.
        case "ext4" if not any(head[1024 + 228 : 1024 + 232]):
            found = str(UUID(bytes=head[1024 + 104 : 1024 + 120])), _text(head[1024 + 120 : 1024 + 136])
        case "swap":
            found = str(UUID(bytes=head[1036:1052])), _text(head[1052:1068])
        case "ntfs":
            found = head[72:80][::-1].hex().upper(), ""
        case "vfat32":
            kind, found = "vfat", (_fat_id(head[67:71]), _text(head[71:82]))
        case "vfat":
            found = _fat_id(head[39:43]), _text(head[43:54])
        case "btrfs":
            at = 64 * KiB
            found = str(UUID(bytes=head[at + 32 : at + 48])), _text(head[at + 299 : at + 555])
        case _:
            kind, found = "" if kind == "ext4" else kind, ("", "")
    return kind, *found


def _fat_id(raw: bytes) -> str:
    return f"{raw[3]:02X}{raw[2]:02X}-{raw[1]:02X}{raw[0]:02X}"


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
