"""What a block map leaves open: the ranges that were left out when it was made, in a file beside it.

A map without this file leaves everything open: it may have been made by an earlier program, or the file was lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from bootpoint_common.durable import sync_folder
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN


def keep(map_path: Path, left_out: Sequence[Extent]) -> None:
    """Write, for certain, what a map leaves open; before the map is called complete."""
    file = _beside(map_path)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump([[extent.offset, extent.length] for extent in left_out], stream)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(file.parent)


def kept(map_path: Path, size_bytes: int) -> tuple[Extent, ...]:
    """Return what a map leaves open: whole grains, ascending, without overlap.

    Args:
        map_path: The block map.
        size_bytes: Size of its disk.
    """
    try:
        extents = tuple(Extent(offset, length) for offset, length in json.loads(_beside(map_path).read_text()))
        end = 0
        for extent in extents:
            if extent.offset < end or extent.length <= 0 or extent.offset % GRAIN or extent.length % GRAIN:
                raise ValueError("they aren't whole grains in order")
            end = extent.end
    except (OSError, ValueError, TypeError):
        return (Extent(0, size_bytes),)
    return extents


def _beside(map_path: Path) -> Path:
    return map_path.with_name(f"{map_path.name.removesuffix('.map')}.left")
