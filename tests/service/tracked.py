"""A loop device whose writes are followed, and the truth about them: a digest of every grain, before and after."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.trackers.ebpf.program import Program
from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
from bootpoint_producer.trackers.grains import Grains


@contextmanager
def bpf_mount(directory: Path) -> Iterator[Path]:
    """Mount a BPF file system of the test's own; yields the folder for pins in it."""
    point = directory / "bpffs"
    point.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", point], check=True)
    try:
        yield point / "bootpoint"
    finally:
        subprocess.run(["umount", point], check=True)


@dataclass
class TrackedDisk:
    """A block device with a provider that follows it.

    Attributes:
        device: The device.
        pins: Where the provider's objects are pinned.
        provider: A provider; another one may follow it, as after a restart.
    """

    device: Path
    pins: Path
    provider: EbpfProvider = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Go on with a new provider, as an agent does that was killed."""
        self.provider = EbpfProvider(Program(self.pins))

    def cut(self) -> Grains:
        """Close a generation, and return all that was closed and not yet taken."""
        self.provider.arm(self.device)
        return self.take(self.provider.instant(self.device))

    def take(self, sequence: int) -> Grains:
        """Return what was closed up to a generation, and let it go."""
        found: Grains | None = None
        for generation in self.provider.collect(self.device):
            assert not generation.overflow
            found = generation.grains if found is None else found.union(generation.grains)
        self.provider.let_go(self.device, sequence)
        assert found is not None
        return found

    def digests(self) -> list[bytes]:
        """Return the digest of each grain, read past every cache."""
        return digests(self.device)


def digests(device: Path) -> list[bytes]:
    """Return the digest of each grain of a device or file, read past the page cache."""
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    found = []
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        with mmap.mmap(-1, MiB) as buffer:
            for offset in range(0, size, MiB):
                length = os.preadv(descriptor, [buffer], offset)
                found += [
                    blake3(buffer[start : min(start + GRAIN, length)]).digest() for start in range(0, length, GRAIN)
                ]
    finally:
        os.close(descriptor)
    return found


def numbers(grains: Grains) -> set[int]:
    """Return the numbers of a set's grains of 64 KiB."""
    factor = grains.grain_bytes // GRAIN
    return {index * factor + part for index, cell in enumerate(grains.cells) if cell for part in range(factor)}


def differing(before: list[bytes], after: list[bytes]) -> set[int]:
    """Return the numbers of the grains that differ."""
    return {index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]}
