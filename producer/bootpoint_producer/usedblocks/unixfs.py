"""The superblocks of ext2, ext3, ext4, XFS and Btrfs, as far as a map of used blocks depends on them.

Sources: the kernel's Documentation/filesystems/ext4/super.rst; the XFS Algorithms & Data Structures document,
section "Superblocks"; the Btrfs on-disk format, section "Superblock".
"""

from __future__ import annotations

import struct

from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, KiB, MiB, TiB
from bootpoint_producer.usedblocks.facts import Facts, Read, demand

#: INCOMPAT: FILETYPE EXTENTS 64BIT FLEX_BG EA_INODE CSUM_SEED LARGEDIR INLINE_DATA ENCRYPT CASEFOLD. Not in it: what
#: changes where bitmaps are or what a bit means (META_BG, and BIGALLOC below), and whatever is invented later.
_EXT_INCOMPAT = 0x2 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
_EXT_RECOVER = 0x4
#: RO_COMPAT: SPARSE_SUPER LARGE_FILE BTREE_DIR HUGE_FILE GDT_CSUM DIR_NLINK EXTRA_ISIZE QUOTA METADATA_CSUM PROJECT
#: VERITY ORPHAN_PRESENT.
_EXT_RO_COMPAT = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x400 | 0x2000 | 0x8000 | 0x10000
_EXT_VALID, _EXT_ERROR = 1, 2

#: FTYPE SPINODES META_UUID BIGTIME NREXT64 EXCHRANGE PARENT; not NEEDSREPAIR, not what adds another device.
_XFS_INCOMPAT = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
#: FINOBT RMAPBT REFLINK INOBTCNT
_XFS_RO_COMPAT = 0x1 | 0x2 | 0x4 | 0x8

#: MIXED_BACKREF DEFAULT_SUBVOL MIXED_GROUPS COMPRESS_LZO COMPRESS_ZSTD BIG_METADATA EXTENDED_IREF SKINNY_METADATA
#: NO_HOLES METADATA_UUID; not RAID, not ZONED, not another extent tree.
_BTRFS_INCOMPAT = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400
#: FREE_SPACE_TREE, FREE_SPACE_TREE_VALID, VERITY
_BTRFS_RO_COMPAT = 0x1 | 0x2 | 0x4
_BTRFS_WRITTEN = 1
#: Where Btrfs has its superblock, and its two copies.
_BTRFS_SUPERBLOCKS = (64 * KiB, 64 * MiB, TiB // 4)


def ext(read: Read) -> Facts:
    """Look at ext2, ext3 or ext4.

    Raises:
        DoubtError: Its map may not be believed.
    """
    sb = read(1024, 1024)
    _inodes, blocks, _reserved, free = struct.unpack_from("<4I", sb)
    (log_block,) = struct.unpack_from("<I", sb, 0x18)
    magic, state = struct.unpack_from("<2H", sb, 0x38)
    (revision,) = struct.unpack_from("<I", sb, 0x4C)
    incompat, ro_compat = struct.unpack_from("<2I", sb, 0x60)  # compatible features change nothing of what is free
    demand(magic == 0xEF53, "there is no superblock where it should be")
    demand(log_block <= 6 and revision == 1, "its superblock is of a kind that isn't known here")
    demand(not incompat & _EXT_RECOVER, "its journal was not replayed: it was mounted, or lost power")
    demand(state & _EXT_VALID and not state & _EXT_ERROR, "it was not unmounted cleanly, or has errors")
    strange = incompat & ~_EXT_INCOMPAT or ro_compat & ~_EXT_RO_COMPAT
    demand(not strange, f"it has features that aren't known here ({strange:#x})")
    if incompat & 0x80:
        high, _, free_high = struct.unpack_from("<3I", sb, 0x150)
        blocks, free = blocks | high << 32, free | free_high << 32
    block = 1024 << log_block
    return Facts(blocks * block, free_bytes=free * block)


def xfs(read: Read) -> Facts:
    """Look at XFS; whether its log is settled, `xfslog.settled` finds out.

    Raises:
        DoubtError: Its map may not be believed.
    """
    sb = read(0, 512)
    magic, block, blocks, realtime = struct.unpack_from(">4sIQQ", sb)
    (log_start,) = struct.unpack_from(">Q", sb, 48)
    (version,) = struct.unpack_from(">H", sb, 100)
    ro_compat, incompat = struct.unpack_from(">2I", sb, 212)
    demand(magic == b"XFSB", "there is no superblock where it should be")
    demand(512 <= block <= GRAIN and version & 0xF in (4, 5), "its superblock is of a kind that isn't known here")
    demand(sb[126] == 0, "it was never made to the end")
    demand(realtime == 0, "it has a part on a realtime device")
    demand(log_start != 0, "its log is on another device")
    strange = 0 if version & 0xF == 4 else incompat & ~_XFS_INCOMPAT or ro_compat & ~_XFS_RO_COMPAT
    demand(not strange, f"it has features that aren't known here ({strange:#x})")
    return Facts(blocks * block, logged=True)  # its counter of free blocks is without what it holds in reserve


def btrfs(read: Read) -> Facts:
    """Look at Btrfs.

    Raises:
        DoubtError: Its map may not be believed.
    """
    sb = read(_BTRFS_SUPERBLOCKS[0], 4096)
    at, flags, magic = struct.unpack_from("<QQ8s", sb, 0x30)
    (log_root,) = struct.unpack_from("<Q", sb, 0x60)
    total, used, _, devices = struct.unpack_from("<4Q", sb, 0x70)
    _, ro_compat, incompat = struct.unpack_from("<3Q", sb, 0xAC)
    (own,) = struct.unpack_from("<Q", sb, 0xC9 + 8)
    demand(magic == b"_BHRfS_M" and at == _BTRFS_SUPERBLOCKS[0], "there is no superblock where it should be")
    demand(devices == 1 and own == total, "it lies on several devices")
    demand(flags == _BTRFS_WRITTEN, f"its superblock has flags that aren't known here ({flags:#x})")
    strange = incompat & ~_BTRFS_INCOMPAT or ro_compat & ~_BTRFS_RO_COMPAT
    demand(not strange, f"it has features that aren't known here ({strange:#x})")
    demand(log_root == 0, "its log was not replayed: it was mounted, or lost power")
    copies = tuple(Extent(start, GRAIN) for start in _BTRFS_SUPERBLOCKS[1:])
    return Facts(total, free_bytes=total - used, always_used=copies)
