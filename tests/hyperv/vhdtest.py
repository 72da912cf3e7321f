"""What Test-VHD looks at: whether a virtual disk's file, and every one below it, is whole.

Source: [MS-VHDX], whose rules are stricter than what a reader needs; a comment names the section.
"""

from __future__ import annotations

from pathlib import Path

from bootpoint_common.units import MiB, TiB
from tests.hyperv import layout
from tests.hyperv.avhdx import Finder, Vhdx, beside
from tests.hyperv.front import BAT_CORRUPT, FORMAT_UNKNOWN, HEADER_CORRUPT, VhdxError
from tests.hyperv.layout import Shape, State

#: Largest virtual disk (2.6.2.2).
LARGEST = 64 * TiB


def check_chain(path: Path, find: Finder = beside) -> None:
    """Check a file and all below it.

    Raises:
        VhdxError: Something is wrong.
    """
    with Vhdx(path, find=find) as disk:
        above: Vhdx | None = disk
        while above is not None:
            _check_file(above)
            above = above.below


def _check_file(disk: Vhdx) -> None:
    name = disk.path.name
    if disk.header.valid < len(layout.HEADERS):
        raise VhdxError(f"{name}: a header is torn", HEADER_CORRUPT)
    if disk.header.log_guid != bytes(16):
        raise VhdxError(f"{name}: the log isn't empty, and is not replayed here", HEADER_CORRUPT)
    _check_shape(name, disk.shape)
    _check_bat(disk)


def _check_shape(name: str, shape: Shape) -> None:
    sizes = shape.sector_size in (512, 4096) and shape.physical_sector_size in (512, 4096)  # 2.6.2.4, 2.6.2.5
    block = MiB <= shape.block_size <= 256 * MiB and shape.block_size & shape.block_size - 1 == 0  # 2.6.2.1
    if not sizes or not block or not 0 < shape.size <= LARGEST or shape.size % shape.sector_size:
        raise VhdxError(f"{name}: the disk's size, or that of its blocks or sectors, can't be", FORMAT_UNKNOWN)


def _check_bat(disk: Vhdx) -> None:
    """Check that what the BAT names is in the file, and belongs to one entry only (2.5.1)."""
    shape, ratio, name = disk.shape, disk.shape.chunk_ratio + 1, disk.path.name
    end = disk.path.stat().st_size
    used = [(0, MiB), *disk.regions]
    bitmaps, partial = set(), set()
    for number, raw in enumerate(disk.bat()):
        if not raw:
            continue
        state, offset, is_bitmap = raw & layout.STATE_MASK, raw & layout.OFFSET_MASK, number % ratio == ratio - 1
        if state not in ((State.NOT_PRESENT, State.FULL) if is_bitmap else tuple(State)):
            raise VhdxError(f"{name}: entry {number} of the BAT has state {state}", BAT_CORRUPT)
        if state == State.PARTIAL and not shape.has_parent:
            raise VhdxError(f"{name}: a block of a disk without parent is partial", BAT_CORRUPT)
        if state not in (State.FULL, State.PARTIAL):
            continue
        if is_bitmap:
            bitmaps.add(number // ratio)
        elif state == State.PARTIAL:
            partial.add(number // ratio)
        used.append((offset, MiB if is_bitmap else shape.block_size))
    if partial - bitmaps:
        raise VhdxError(f"{name}: a block is partial, and its bitmap isn't there", BAT_CORRUPT)
    _check_places(name, sorted(used), end)


def _check_places(name: str, used: list[tuple[int, int]], end: int) -> None:
    behind = 0
    for offset, length in used:
        if offset < behind:
            raise VhdxError(f"{name}: two things lie at {offset:#x}", BAT_CORRUPT)
        behind = offset + length
    if behind > end:
        raise VhdxError(f"{name}: the file ends before what lies at {used[-1][0]:#x}", BAT_CORRUPT)
