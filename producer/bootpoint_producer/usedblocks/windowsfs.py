"""The boot sectors of NTFS, FAT and exFAT, as far as a map of used blocks depends on them.

Sources: Microsoft's FAT specification (fatgen103) and exFAT specification, section 3; for NTFS the documentation of
the linux-ntfs project, files $MFT and $LogFile.
"""

from __future__ import annotations

import struct

from bootpoint_producer.usedblocks.facts import DoubtError, Facts, Read, demand

_NO_SUPERBLOCK = "there is no superblock where it should be"
_DIRTY = "it was not unmounted cleanly"
#: Number of $LogFile in the master file table; its record says where it lies.
_LOG_FILE = 2
_DATA, _END = 0x80, 0xFFFFFFFF
#: Restart area, flags: the volume was unmounted. Clients in use: none.
_VOLUME_IS_CLEAN, _NO_CLIENT = 2, 0xFFFF
#: What the log file is filled with where nothing is logged, and how much of it is looked at.
_UNUSED, _LOOK = 0xFF, 65536


def fat(read: Read) -> Facts:
    """Look at FAT12, FAT16 or FAT32.

    Raises:
        DoubtError: Its map may not be believed.
    """
    boot = read(0, 512)
    sector, per_cluster, reserved, tables, root, total16, _, per_fat16 = struct.unpack_from("<HBHBHHBH", boot, 11)
    total32, per_fat32 = struct.unpack_from("<2I", boot, 32)
    sectors, per_fat = total16 or total32, per_fat16 or per_fat32
    demand(boot[510:512] == b"\x55\xaa" and sector in (512, 1024, 2048, 4096) and per_cluster, _NO_SUPERBLOCK)
    demand(reserved and tables and per_fat, _NO_SUPERBLOCK)
    data = reserved + tables * per_fat + -(-root * 32 // sector)
    demand(sectors > data, _NO_SUPERBLOCK)
    clusters = (sectors - data) // per_cluster
    # Linux sets a bit of the boot sector while it is mounted, Windows clears one of the second entry.
    demand(not boot[65 if per_fat16 == 0 else 37] & 1, _DIRTY)
    if clusters >= 65525:
        (entry,) = struct.unpack("<I", read(reserved * sector + 4, 4))
        demand(entry & 0x08000000, _DIRTY)
    elif clusters >= 4085:
        (entry,) = struct.unpack("<H", read(reserved * sector + 2, 2))
        demand(entry & 0x8000, _DIRTY)
    return Facts(sectors * sector)


def exfat(read: Read) -> Facts:
    """Look at exFAT.

    Raises:
        DoubtError: Its map may not be believed.
    """
    boot = read(0, 512)
    (sectors,) = struct.unpack_from("<Q", boot, 72)
    flags, shift, _, tables = struct.unpack_from("<HBBB", boot, 106)
    demand(boot[3:11] == b"EXFAT   " and 9 <= shift <= 12, _NO_SUPERBLOCK)
    demand(tables == 1, "it has two tables")
    demand(not flags & 2, _DIRTY)
    return Facts(sectors << shift)


def ntfs(read: Read) -> Facts:
    """Look at NTFS; its map is believed only if nothing in $LogFile waits to be done.

    Raises:
        DoubtError: Its map may not be believed.
    """
    boot = read(0, 512)
    sector, per_cluster = struct.unpack_from("<HB", boot, 11)
    sectors, table = struct.unpack_from("<2Q", boot, 40)
    (record,) = struct.unpack_from("<b", boot, 64)
    demand(boot[3:11] == b"NTFS    " and sector in (512, 1024, 2048, 4096) and per_cluster, _NO_SUPERBLOCK)
    cluster = sector * (per_cluster if per_cluster <= 128 else 1 << (256 - per_cluster))
    size = record * cluster if record > 0 else 1 << -record
    demand(512 <= size <= 65536 and (table * cluster) < sectors * sector, _NO_SUPERBLOCK)
    try:
        start = _log_file(read(table * cluster + _LOG_FILE * size, size)) * cluster
        demand(start < sectors * sector, "its log was not found")
        _settled(read(start, _LOOK))
    except (struct.error, IndexError) as failure:
        raise DoubtError("its log makes no sense") from failure
    return Facts(sectors * sector)


def _log_file(record: bytes) -> int:
    """Return the first cluster of $LogFile, from its record."""
    demand(record[:4] == b"FILE", "its log was not found")
    (at,) = struct.unpack_from("<H", record, 20)
    while (kind := struct.unpack_from("<I", record, at)[0]) != _END:
        (length,) = struct.unpack_from("<I", record, at + 4)
        if kind == _DATA and record[at + 8]:
            runs = at + struct.unpack_from("<H", record, at + 32)[0]
            lengths, offsets = record[runs] & 15, record[runs] >> 4
            demand(lengths and offsets, "its log was not found")
            return int.from_bytes(record[runs + 1 + lengths : runs + 1 + lengths + offsets], "little", signed=True)
        demand(length, "its log was not found")
        at += length
    raise DoubtError("its log was not found")


def _settled(log: bytes) -> None:
    """Raise where something is logged that wasn't done yet; there are two restart pages, and the newer one counts."""
    if log == bytes([_UNUSED]) * len(log):
        return
    newest: tuple[int, bool] | None = None
    (page,) = struct.unpack_from("<I", log, 16)
    for start in (0, page):
        if log[start : start + 4] != b"RSTR":
            continue
        area = start + struct.unpack_from("<H", log, start + 24)[0]
        number, _, _, client, flags = struct.unpack_from("<Q4H", log, area)
        clean = bool(flags & _VOLUME_IS_CLEAN) or client == _NO_CLIENT
        newest = max(newest or (number, clean), (number, clean))
    demand(newest is not None, "its log makes no sense")
    demand(newest and newest[1], "its log was not replayed: it was mounted, or lost power")
