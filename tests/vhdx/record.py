"""A file that remembers what is done to it, so that every moment at which the power may go can be made again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootpoint_worker.vhdx.file import LocalFile

#: Bytes of which a disk writes all or none.
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that were written."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """A length that was set."""

    size: int


@dataclass(frozen=True, slots=True)
class Flush:
    """All before is durable."""


Act = Write | Resize | Flush


class Recorder(LocalFile):
    """A local file; see `LocalFile`.

    Attributes:
        acts: What was done, in order.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, writable=True)
        self.acts: list[Act] = []

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        super().write_at(offset, data)
        self.acts.append(Write(offset, bytes(data)))

    def resize(self, size: int) -> None:
        super().resize(size)
        self.acts.append(Resize(size))

    def flush(self) -> None:
        super().flush()
        self.acts.append(Flush())


def moments(acts: Sequence[Act], rng: random.Random, variants: int) -> Iterator[tuple[int, list[Act]]]:
    """Yield each moment at which the power may go: how many acts there were, and what has reached the disk.

    What is before the last flush is there. Of what came after it all may be there, with the last write cut off between
    two sectors; or any part of it, in no order, which ``variants`` throws of the dice show.
    """
    for number in range(len(acts) + 1):
        flushed = max((at + 1 for at in range(number) if isinstance(acts[at], Flush)), default=0)
        durable, loose = list(acts[:flushed]), list(acts[flushed:number])
        yield number, durable + loose
        for _ in range(variants if loose else 0):
            kept = [act for act in loose if rng.random() < 0.6]
            yield number, durable + [_torn(act, rng) for act in kept]
        if loose and isinstance(loose[-1], Write):
            yield number, durable + loose[:-1] + [_torn(loose[-1], rng)]


def replay(before: Path, acts: Sequence[Act], into: Path) -> None:
    """Make the file that a power cut leaves: what it was before, and some acts."""
    shutil.copyfile(before, into)
    with into.open("r+b") as file:
        for act in acts:
            if isinstance(act, Write):
                file.seek(act.offset)
                file.write(act.data)
            elif isinstance(act, Resize):
                file.truncate(act.size)


def _torn(act: Act, rng: random.Random) -> Act:
    """Cut a write off between two sectors, one time in two."""
    if not isinstance(act, Write) or rng.random() < 0.5:
        return act
    edges = range(-act.offset % SECTOR, len(act.data), SECTOR)
    return Write(act.offset, act.data[: rng.choice(edges)]) if edges else act
