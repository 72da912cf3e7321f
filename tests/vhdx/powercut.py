"""An increment that is cut off at every write: what two readers may see then, and after the recovery."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import GiB, MiB
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.file import LocalFile
from bootpoint_worker.vhdx.writer import VhdxWriter
from tests.hyperv import avhdx
from tests.vhdx import disk
from tests.vhdx.judge import Dissect, Ours, StandIn, agreed
from tests.vhdx.record import Recorder, moments, replay

#: Size of the disk: two chunks of a bitmap.
SIZE = 4 * GiB + 5 * MiB

#: Where the base holds something everywhere, and increments write (offset, length): several blocks, of both chunks.
#: There a sector that is seen before it was written is neither old nor new.
WINDOWS = ((0, 8 * MiB), (4 * GiB - 3 * MiB, 8 * MiB))

#: Lengths of what is written there, in units: within a block, and across blocks of 1 and 2 MiB.
LENGTHS = (1, 2, 3, 40)

Changes = Sequence[tuple[int, bytes, bool]]


@dataclass(frozen=True, slots=True)
class Flushed:
    """A part of an increment that was flushed.

    Attributes:
        acts: After how many acts on the file.
        content: What the disk has to show from then on, where no later part has written.
        written: What the parts behind it write.
    """

    acts: int
    content: disk.Content
    written: Changes

    def allowed(self, unit: int, length: int) -> list[bytes]:
        """Return what a unit may be made of, sector by sector."""
        later = [
            data[unit * disk.UNIT - offset :][:length]
            for offset, data, _ in self.written
            if offset <= unit * disk.UNIT < offset + len(data)
        ]
        return [self.content.units.get(unit, bytes(length)), *later]

    def shown(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return what has to be read of ranges, each within a unit, where no later part has written."""
        return [self.content.units.get(at // disk.UNIT, bytes(length)) for at, length in ranges]


def cut_everywhere(place: Path, rng: random.Random, *, block: int, flushes: int, variants: int) -> int:
    """Write an increment, and look at every moment at which the power may go; returns how many were looked at.

    Args:
        place: A directory.
        rng: The dice.
        block: Bytes of a block of the leaf.
        flushes: In how many parts the increment is written, each flushed.
        variants: How many ways of what isn't durable are looked at, at each moment.
    """
    base = disk.by_qemu(place / "base.vhdx", SIZE)
    content = disk.Content(SIZE)
    with closing(disk.writer([base])) as writer:
        disk.apply(writer, [(start, rng.randbytes(length), False) for start, length in WINDOWS], content)
    paths = disk.child([base], "leaf", block)
    clean = place / "clean"
    clean.write_bytes(paths[0].read_bytes())
    parts = [_changes(rng) for _ in range(flushes)]
    ranges = _ranges(parts)
    recorder = Recorder(paths[0])
    stages = _write(recorder, paths, parts, content)
    seen = 0
    for number, reached in moments(recorder.acts, rng, variants):
        replay(clean, reached, paths[0])
        _look(paths, next(stage for stage in reversed(stages) if stage.acts <= number), ranges)
        seen += 1
    assert agreed(paths, ranges) == stages[-1].shown(ranges), "the whole increment is the new point"
    _recover(paths, block)
    assert agreed(paths, ranges) == stages[0].shown(ranges), "the recovery brings the old point"
    return seen


def _changes(rng: random.Random) -> Changes:
    """Return a part of an increment: in every window something, and some of it zeros."""
    changes = []
    for start, room in WINDOWS * 2:
        length = rng.choice(LENGTHS) * disk.UNIT
        offset = start + rng.randrange((room - length) // disk.UNIT) * disk.UNIT
        zero = rng.random() < 0.2
        changes.append((offset, bytes(length) if zero else rng.randbytes(length), zero))
    return changes


def _ranges(parts: Sequence[Changes]) -> list[tuple[int, int]]:
    """Return what the parts write, and a unit before and behind it."""
    touched = disk.Content(SIZE)
    for part in parts:
        for offset, data, _ in part:
            touched.put(offset, data)
    return touched.ranges()


def _write(recorder: Recorder, paths: Sequence[Path], parts: Sequence[Changes], content: disk.Content) -> list[Flushed]:
    """Write the parts; returns what has to be seen after none, one, … and all of them."""
    stages = [Flushed(0, content.copy(), [change for part in parts for change in part])]
    with closing(VhdxWriter(Chain([recorder, *(LocalFile(path) for path in paths[1:])]))) as writer:
        for number, part in enumerate(parts):
            disk.apply(writer, part, content)
            behind = [change for later in parts[number + 1 :] for change in later]
            stages.append(Flushed(len(recorder.acts), content.copy(), behind))
    return stages


def _look(paths: list[Path], stage: Flushed, ranges: Sequence[tuple[int, int]]) -> None:
    """Every sector is as it has to be, or as a part under way makes it, and no reader stumbles.

    libvhdi looks at the bits of a block that has no place yet, which mean nothing ([MS-VHDX] 2.5.1.1): it judges what
    is whole and what is recovered.
    """
    for (offset, length), shown in zip(ranges, agreed(paths, ranges, (Dissect, StandIn, Ours)), strict=True):
        allowed = stage.allowed(offset // disk.UNIT, length)
        for at in range(0, length, 512) if shown not in allowed else ():
            known = any(shown[at : at + 512] == one[at : at + 512] for one in allowed)
            assert known, f"after {stage.acts} acts and some the sector at {offset + at} is neither old nor new"


def _recover(paths: list[Path], block: int) -> None:
    """Do as the host does when it restores the newest checkpoint: the torn leaf goes, an empty one comes."""
    paths[0].unlink()
    avhdx.create_child(paths[0], paths[1], block_size=block)
