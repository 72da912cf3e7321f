"""Disks to copy: one of real content, and one that is huge and nearly empty."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import zstandard

from bootpoint_common.units import GRAIN, MiB

#: Share of the wire that the content is mixed for: zstd level 1 makes 2.4 times less of it.
RATIO = 2.4

#: Stretches of data that a disk's content is laid out in, with holes between them.
STRETCHES = 15


class Disk:
    """A sparse raw file whose data stretches are known.

    Args:
        path: The file.
        size_bytes: Virtual size.
        data_bytes: Bytes that are data.
    """

    def __init__(self, path: Path, *, size_bytes: int, data_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.data_bytes = data_bytes // (STRETCHES * MiB) * (STRETCHES * MiB)

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """Offset and length of each stretch of data."""
        length = self.data_bytes // STRETCHES
        step = self.size_bytes // STRETCHES // MiB * MiB
        return [(index * step, length) for index in range(STRETCHES)]

    def build(self) -> float:
        """Write the content, and return what zstd at level 1 makes of it: raw / packed, by the MiB."""
        packer = zstandard.ZstdCompressor(level=1)
        blocks = _blocks()
        raw = packed = 0
        with self.path.open("wb") as file:
            file.truncate(self.size_bytes)
            for offset, length in self.stretches:
                file.seek(offset)
                for _ in range(length // MiB):
                    # Files of the system, and as much that doesn't shrink as brings the whole to RATIO.
                    block = random.randbytes(MiB) if raw > RATIO * packed > 0 else next(blocks)
                    raw, packed = raw + MiB, packed + min(MiB, len(packer.compress(block)))
                    file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return raw / packed

    def change(self, share: float, rng: random.Random) -> int:
        """Write random bytes into a share of the grains that hold data, spread at random; return how many bytes."""
        grains = [offset // GRAIN + index for offset, length in self.stretches for index in range(length // GRAIN)]
        chosen = rng.sample(grains, int(len(grains) * share))
        scatter(self.path, chosen, rng)
        return len(chosen) * GRAIN

    def warm(self) -> None:
        """Read all data once, so that it comes from the page cache from here on."""
        with self.path.open("rb", buffering=0) as file:
            for offset, length in self.stretches:
                file.seek(offset)
                for _ in range(length // MiB):
                    file.read(MiB)


def scatter(path: Path, grains: list[int], rng: random.Random) -> None:
    """Write random bytes into these grains of a file."""
    with path.open("r+b", buffering=0) as file:
        for grain in sorted(grains):
            file.seek(grain * GRAIN)
            file.write(rng.randbytes(GRAIN))


def _blocks() -> Iterator[bytes]:
    """Yield the content of the system's files as blocks of 1 MiB, again and again; every second one is text."""
    usr = sorted(Path("/usr").rglob("*"))
    text = [path for path in usr if path.suffix in {".py", ".txt", ".h", ".pl", ".pm", ".xml", ".mo", ".html"}]
    return (block for turn in zip(_content(usr), _content(text), strict=False) for block in turn)


def _content(paths: list[Path]) -> Iterator[bytes]:
    held = bytearray()
    for path in itertools.cycle(paths):
        if path.is_symlink() or not path.is_file():
            continue
        held += path.read_bytes()
        while len(held) >= MiB:
            yield bytes(held[:MiB])
            del held[:MiB]
