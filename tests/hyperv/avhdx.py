"""Hyper-V's disk files as Hyper-V makes them: dynamic, fixed and differencing VHDX; read, written and merged.

Written from [MS-VHDX] by another hand than the worker's reader and updater, and with another order of writes: a file
here is never read while it is written, and nothing has to survive a crash. `tests.unit.hyperv` compares with qemu-img,
dissect.hypervisor and libvhdi.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from bootpoint_common.units import MiB
from tests.hyperv import layout
from tests.hyperv.layout import Shape, State
from tests.hyperv.opened import Finder, Vhdx, beside, locator_of, put

__all__ = ["Finder", "Vhdx", "beside", "create", "create_child", "create_dynamic", "create_fixed", "merge"]

#: Block size of a dynamic disk that nobody named one for, in bytes: New-VHD's reference.
DYNAMIC_BLOCK = 32 * MiB

#: Likewise of a differencing disk: what Checkpoint-VM makes.
LEAF_BLOCK = 2 * MiB


def create(path: Path, shape: Shape, locator: dict[str, str] | None = None, disk_id: bytes | None = None) -> None:
    """Make a file: all blocks of a fixed one are there at once, as zeros.

    Raises:
        FileExistsError: There is one.
        OSError: There is no room; nothing is left then.
    """
    try:
        _create(path, shape, locator or {}, disk_id or uuid.uuid4().bytes_le)
    except FileExistsError:
        raise
    except OSError:
        path.unlink()
        raise


def _create(path: Path, shape: Shape, locator: dict[str, str], disk_id: bytes) -> None:
    end = layout.BAT_OFFSET + shape.bat_bytes
    blocks = shape.blocks if shape.fixed else 0
    with path.open("xb") as file:
        file.write(layout.FILE_SIGNATURE + "Microsoft Windows 10.0.20348.0".encode("utf-16-le"))
        ids = uuid.uuid4().bytes_le, uuid.uuid4().bytes_le
        for sequence, offset in enumerate(layout.HEADERS):
            put(file.fileno(), offset, layout.header(sequence, *ids))
        for offset in layout.REGION_TABLES:
            put(file.fileno(), offset, layout.region_table(shape))
        put(file.fileno(), layout.METADATA_OFFSET, layout.metadata(shape, disk_id, locator))
        for block in range(blocks):
            entry = end + block * shape.block_size | State.FULL
            put(file.fileno(), layout.BAT_OFFSET + 8 * shape.payload_entry(block), struct.pack("<Q", entry))
        file.truncate(end + blocks * shape.block_size)


def create_dynamic(path: Path, size: int, block_size: int = DYNAMIC_BLOCK, sector_size: int = 512) -> None:
    """Make an empty dynamic disk."""
    create(path, Shape(size, block_size, sector_size))


def create_fixed(path: Path, size: int, block_size: int = DYNAMIC_BLOCK, sector_size: int = 512) -> None:
    """Make a disk whose blocks are all there."""
    create(path, Shape(size, block_size, sector_size, fixed=True))


def create_child(path: Path, parent: Path, *, windows_path: str | None = None, block_size: int = LEAF_BLOCK) -> None:
    """Make an empty differencing disk above another, with the disk's identity.

    Args:
        path: Of the new file.
        parent: What it stands on.
        windows_path: The parent's path as the host names it.
        block_size: Of the new file; the parent may have another.
    """
    with Vhdx(parent) as below:
        shape = replace(below.shape, block_size=block_size, fixed=False, has_parent=True)
        create(path, shape, locator_of(below, path, windows_path), below.disk_id)


def merge(
    child: Path,
    parent: Path,
    step: Callable[[], None] = lambda: None,
    find: Finder = beside,
    *,
    windows_path: str | None = None,
    lock: AbstractContextManager[object] | None = None,
) -> None:
    """Write into a file what one that stands on it holds; the upper one can be deleted then.

    The upper file shows the same all the time, for what is written below is what it hides: it is told of the lower
    one's new identity before anything else.

    Args:
        child: The upper file.
        parent: The lower.
        step: Called before each piece; what it raises ends the merge.
        find: Finds the parents.
        windows_path: The parent's path as the host names it.
        lock: Held while what readers look at first is written.
    """
    step()
    with Vhdx(child, writable=True, find=find) as above, Vhdx(parent, writable=True, find=find) as below:
        with lock or nullcontext():
            below.renew()
            above.set_parent(parent, windows_path)
        for offset, data in above.content():
            step()
            below.write(offset, data)
