"""A random history of a machine's disks: runs, and between them writes, discards, zeroing and growth."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from bootpoint_common.units import SECTOR, MiB
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.standby import POOL, Protected, add_kvm_host, size_of

#: Sizes that disks begin with; a disk's end needs not be the end of a grain.
SMALLEST, LARGEST = 16 * MiB, 40 * MiB

#: Bytes that a disk may grow by at a time.
GROWTH = 8 * MiB

#: Bytes of one write, discard or zeroing at the most.
PIECE = 512 * 1024

#: Sequences that go on beside each other: a run waits for the broker's and the host's answers most of the time.
AT_A_TIME = 5


@dataclass(frozen=True, slots=True)
class Ground:
    """What sequences share.

    Attributes:
        fleet: An installation with a worker.
        host_id: Its KVM host.
        storage: Where the replicas go.
        directory: Where the disks and their copies go.
    """

    fleet: Fleet
    host_id: UUID
    storage: Path
    directory: Path


@dataclass
class Disk:
    """One disk: a raw file, or a loop device over one.

    Attributes:
        path: What the agent reads and the machine writes.
        backing: The file, where ``path`` is a loop device.
        rng: Decides what happens to it.
    """

    path: Path
    rng: Random
    backing: Path | None = None
    done: list[str] = field(default_factory=list)

    def change(self) -> None:
        """Do some of what a machine does to a disk."""
        for _ in range(self.rng.randint(1, 10)):
            what = self.rng.choices((self.write, self.discard, self.zero, self.grow), (8, 3, 3, 1))[0]
            what()
            self.done.append(what.__name__)
        descriptor = os.open(self.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def write(self) -> None:
        """Write random bytes, or a few that compress well, at any byte."""
        offset, length = self._range(1)
        data = self.rng.randbytes(length) if self.rng.random() < 0.7 else self.rng.randbytes(16) * (length // 16)
        with self.path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    def discard(self) -> None:
        """Give a range back to what is beneath: it reads as zero then."""
        self._fallocate("--punch-hole")

    def zero(self) -> None:
        """Make a range zero: by writing zeros, or in the file system's way."""
        if self.rng.random() < 0.5:
            self._fallocate("--zero-range")
            return
        offset, length = self._range(1)
        with self.path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(bytes(length))

    def grow(self) -> None:
        """Make the disk larger, by any number of sectors."""
        larger = size_of(self.path) + self.rng.randint(1, GROWTH // SECTOR) * SECTOR
        os.truncate(self.backing or self.path, larger)
        if self.backing is not None:
            subprocess.run(["losetup", "--set-capacity", str(self.path)], check=True)
        if self.rng.random() < 0.5:
            with self.path.open("r+b") as stream:
                stream.seek(larger - SECTOR)
                stream.write(self.rng.randbytes(SECTOR))

    def _fallocate(self, how: str) -> None:
        offset, length = self._range(4096)
        if length:
            place = ["--offset", str(offset), "--length", str(length), str(self.path)]
            subprocess.run(["fallocate", how, "--keep-size", *place], check=True)

    def _range(self, align: int) -> tuple[int, int]:
        size = size_of(self.path)
        offset = self.rng.randrange(size) // align * align
        return offset, min(self.rng.randint(1, PIECE), size - offset) // align * align


def play(ground: Ground, number: int, seed: int, most_runs: int) -> list[str]:
    """Play one sequence, and compare every point at its end.

    Args:
        ground: Where.
        number: Which of several; every third is a block device, every second has two disks.
        seed: Makes it the same whenever it is given.
        most_runs: Runs at the most; three at the least.

    Returns:
        What was done to the disks.
    """
    rng = Random(f"{seed} {number}")
    name = f"seq-{number}"
    directory = ground.directory / name
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        slots = ("system", "data") if number % 2 else ("system",)
        # Of two disks the first one stays as it is in some sequences: its increments are empty.
        still = rng.random() < 0.4 if len(slots) == 2 else False
        disks = {}
        for slot in slots:
            disk = Disk(directory / f"{slot}.raw", rng)
            with disk.path.open("wb") as stream:
                stream.truncate(rng.randint(SMALLEST // SECTOR, LARGEST // SECTOR) * SECTOR)
            disks[slot] = disk
            disk.change()
            if number % 3 == 1:
                disk.backing, disk.path = disk.path, stack.enter_context(_loop(disk.path))
        paths = {slot: disk.path for slot, disk in disks.items()}
        protected = Protected(ground.fleet, name, paths, ground.host_id, ground.storage, directory / "copies")
        stack.callback(protected.remove)
        runs = rng.randint(3, most_runs)
        for _ in range(runs):
            protected.protect()
            for slot, disk in disks.items():
                if not (still and slot == "system"):
                    disk.change()
        assert protected.check() == runs * len(slots)
        return [what for disk in disks.values() for what in disk.done]


def play_all(ground: Ground, count: int, seed: int, *, most_runs: int = 3) -> None:
    """Play sequences, several at a time; says which ones fail."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        playing = {number: pool.submit(play, ground, number, seed, most_runs) for number in range(count)}
    failed = {number: error for number, one in playing.items() if (error := one.exception()) is not None}
    if failed:
        text = "; ".join(f"sequence {number}: {type(error).__name__}: {error}" for number, error in failed.items())
        raise AssertionError(f"seed {seed}: {text}") from next(iter(failed.values()))
    done = {what for one in playing.values() for what in one.result()}
    assert done == {"write", "discard", "zero", "grow"}


@contextlib.contextmanager
def _loop(file: Path) -> Iterator[Path]:
    attached = ["losetup", "--find", "--show", "--sector-size", "512", str(file)]
    device = subprocess.run(attached, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def ground(database: str, libvirt_host: LibvirtHost, storage_directory: Path, tmp_path: Path) -> Iterator[Ground]:
    """An installation of the test's own."""
    need("root", "loop", "libnbd", "qemu-img", "qemu-nbd")
    directory = tmp_path / "disks"
    directory.mkdir()
    with fleet(database, tmp_path) as installation:
        installation.add_worker("w1", pools=(POOL,), slices=6)
        yield Ground(installation, add_kvm_host(installation, libvirt_host), storage_directory, directory)
