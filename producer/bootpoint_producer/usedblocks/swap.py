"""Swap areas, and the images of memory in them. The header stays: it makes the replica's area one that can be used.

Source: mkswap's header, union swap_header of linux/swap.h.
"""

from __future__ import annotations

import struct

from bootpoint_common.units import KiB
from bootpoint_producer.usedblocks.facts import DoubtError, Read

#: The header is one page; its signature ends with it, and tells how large pages are.
_PAGES = (4 * KiB, 8 * KiB, 16 * KiB, 32 * KiB, 64 * KiB)
_SIGNATURES = {"swap": b"SWAPSPACE2", "swsuspend": b"S1SUSPEND\x00"}


def area(read: Read, kind: str) -> tuple[int, int]:
    """Return (first byte, end) of what an area holds besides its header.

    Args:
        read: Reads from the area.
        kind: As blkid calls it: ``swap``, or ``swsuspend`` where an image of memory lies in it.

    Raises:
        DoubtError: It isn't what it should be.
    """
    header = read(0, _PAGES[-1])
    page = next((size for size in _PAGES if header[size - 10 : size] == _SIGNATURES[kind]), None)
    version, last = struct.unpack_from("<2I", header, 1024)
    if page is None or version != 1:
        raise DoubtError("there is no header where it should be")
    return page, (last + 1) * page
