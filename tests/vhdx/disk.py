"""Disks of VHDX files: made by the stand-in's writer and by qemu-img, changed by ours, and what they have to show."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bootpoint_common.units import KiB, MiB
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.file import LocalFile
from bootpoint_worker.vhdx.writer import VhdxWriter
from tests.hyperv import avhdx
from tests.service.component import need

#: Bytes that the increments of these tests are made of: whole bytes of sector bitmaps of disks with sectors of 4 KiB.
#: dissect.hypervisor 3.21 shows wrong sectors of parents where a byte of a bitmap has bits of both kinds.
UNIT = 32 * KiB

#: Lengths of what is written, in units: within a block, and across blocks of 1 and 2 MiB.
LENGTHS = (1, 2, 3, 33, 100)


@dataclass
class Content:
    """What a disk has to show, by units that aren't zero.

    Attributes:
        size: The disk's bytes.
        units: The bytes of a unit, by its number.
    """

    size: int
    units: dict[int, bytes] = field(default_factory=dict)

    def put(self, offset: int, data: bytes) -> None:
        """Note bytes; they begin at a unit, and end at one or at the disk's end."""
        for start in range(0, len(data), UNIT):
            self.units[(offset + start) // UNIT] = data[start : start + UNIT]

    def ranges(self) -> list[tuple[int, int]]:
        """Return where something was put, and a unit before and behind it: (offset, length), in order."""
        near = {unit + step for unit in self.units for step in (-1, 0, 1)}
        inside = sorted(unit * UNIT for unit in near if 0 <= unit * UNIT < self.size)
        return [(at, min(UNIT, self.size - at)) for at in inside]

    def expected(self) -> list[bytes]:
        """Return what `ranges` has to show."""
        return [self.units.get(at // UNIT, bytes(length)) for at, length in self.ranges()]

    def copy(self) -> Content:
        """Return it as it is now."""
        return Content(self.size, dict(self.units))


def opened(paths: Sequence[Path]) -> Chain:
    """Open a chain, leaf first, to be read."""
    return Chain([LocalFile(path) for path in paths])


def writer(paths: Sequence[Path]) -> VhdxWriter:
    """Open a chain, leaf first, whose leaf is to be written."""
    return VhdxWriter(Chain([LocalFile(path, writable=path == paths[0]) for path in paths]))


def child(paths: Sequence[Path], name: str, block: int = 2 * MiB) -> list[Path]:
    """Make an empty leaf above a chain, as a checkpoint does; returns the new chain."""
    path = paths[0].with_name(f"{name}.avhdx")
    avhdx.create_child(path, paths[0], block_size=block)
    return [path, *paths]


def by_qemu(path: Path, size: int, subformat: str = "dynamic", block: int = 32 * MiB) -> Path:
    """Make a base with qemu-img."""
    need("qemu-img")
    # Without the last word the blocks of its fixed disks have no place either.
    options = f"subformat={subformat},block_size={block},block_state_zero=off"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", "-o", options, str(path), str(size)], check=True)
    return path


def increment(rng: random.Random, size: int, places: Sequence[int], number: int = 12) -> list[tuple[int, bytes, bool]]:
    """Return what an increment does: (offset, bytes, whether it is asked for as zeros).

    Args:
        rng: The dice.
        size: The disk's bytes.
        places: Offsets that it is near to, besides anywhere: borders of blocks and chunks.
        number: How many changes.
    """
    changes = []
    for _ in range(number):
        near = rng.choice([*places, 0, size, rng.randrange(size)]) + rng.randrange(-40, 40) * UNIT
        offset = max(0, min(near, size - 1)) // UNIT * UNIT
        length = min(rng.choice(LENGTHS) * UNIT, size - offset)
        zero = rng.random() < 0.2
        changes.append((offset, bytes(length) if zero else rng.randbytes(length), zero))
    return changes


def apply(target: VhdxWriter, changes: Sequence[tuple[int, bytes, bool]], content: Content | None = None) -> None:
    """Write an increment, and flush it; what it makes of a disk is noted."""
    for offset, data, zero in changes:
        if zero:
            target.zero(offset, len(data))
        else:
            target.write(offset, data)
        if content is not None:
            content.put(offset, data)
    target.flush()
