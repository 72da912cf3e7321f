"""Mutated VHDX files: a chain in memory, changed by dice where its structures are."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import KiB, MiB
from bootpoint_worker.vhdx.header import sealed

#: What lies where in front of the blocks, and how many bytes of it are looked at: offset, length, whether it has a
#: checksum. Metadata and BAT are where the stand-in puts them.
STRUCTURES = (
    (0, 64, False),
    (64 * KiB, 4 * KiB, True),
    (128 * KiB, 4 * KiB, True),
    (192 * KiB, 64 * KiB, True),
    (256 * KiB, 64 * KiB, True),
    (2 * MiB, 512, False),
    (2 * MiB + 64 * KiB, 512, False),
    (3 * MiB, 128, False),
    (3 * MiB + 2048 * 8, 8, False),
)

#: Values that programs forget.
EDGES = (0, 1, 2, 5, 7, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)


class Written(Exception):  # noqa: N818 - what must not be
    """A reader has written."""


@dataclass
class Mutant:
    """A file in memory that can't be written; see `RandomAccess`.

    Attributes:
        name: For messages.
        raw: Its bytes; a mutant has its own.
    """

    name: str
    raw: bytearray

    def size(self) -> int:
        return len(self.raw)

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0, "a reader has asked for what is before the file"
        assert length >= 0, "a reader has asked for less than nothing"
        return bytes(memoryview(self.raw)[offset : offset + length])

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        return (self.read_at(offset, length) for offset, length in ranges)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        raise Written(f"{len(data)} bytes at {offset}")

    def resize(self, size: int) -> None:
        raise Written(f"resized to {size}")

    def flush(self) -> None:
        raise Written("flushed")

    def close(self) -> None:
        """There is nothing to close."""


def loaded(paths: Sequence[Path]) -> list[Mutant]:
    """Read a chain into memory."""
    return [Mutant(path.name, bytearray(path.read_bytes())) for path in paths]


class Mutator:
    """Changes files one by one, and takes the changes back.

    Args:
        chain: The files.
        rng: The dice.
    """

    def __init__(self, chain: Sequence[Mutant], rng: random.Random) -> None:
        self._chain = chain
        self._rng = rng
        self._undo: list[tuple[bytearray, int, bytes]] = []

    def mutate(self) -> None:
        """Change one to four places of the chain, most of them so that the checksums are right."""
        for _ in range(self._rng.choice((1, 1, 1, 2, 3, 4))):
            raw = self._rng.choice(self._chain).raw
            offset, length, has_checksum = self._rng.choice(STRUCTURES)
            self._keep(raw, offset, length)
            self._change(raw, offset, length)
            if has_checksum and self._rng.random() < 0.9:
                raw[offset : offset + length] = sealed(bytes(raw[offset : offset + length]))
        if self._rng.random() < 0.03:
            raw = self._rng.choice(self._chain).raw
            at = self._rng.randrange(len(raw))
            self._undo.append((raw, at, bytes(raw[at:])))
            del raw[at:]

    def restore(self) -> None:
        """Take everything back."""
        while self._undo:
            raw, offset, data = self._undo.pop()
            raw[offset : offset + len(data)] = data

    def _keep(self, raw: bytearray, offset: int, length: int) -> None:
        self._undo.append((raw, offset, bytes(raw[offset : offset + length])))

    def _change(self, raw: bytearray, offset: int, length: int) -> None:
        # Most of what a structure says stands at its beginning.
        at = offset + self._rng.randrange(min(length, self._rng.choice((32, 96, 512))))
        size = self._rng.choice((1, 2, 4, 8))
        how = self._rng.randrange(3)
        if how == 0:
            raw[at] ^= 1 << self._rng.randrange(8)
        elif how == 1:
            value = self._rng.choice(EDGES) & ((1 << 8 * size) - 1)
            raw[at : at + size] = value.to_bytes(size, "little")
        else:
            raw[at : at + size] = self._rng.randbytes(size)
