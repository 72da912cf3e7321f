"""What is measured of boot points once there are many: merging one, committing above 22, and reading through them."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bootpoint_common.identity import new_id
from bootpoint_common.units import MiB
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.kvm import KvmTarget
from bootpoint_worker.targets.layer import CommitPoint, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Replica, ReplicaDisk
from tests.bench.rig import AGENT, Rig
from tests.bench.source import scatter

#: Most points of a replica on a KVM host.
DEPTH = 22

#: Size of a disk, and of one write to it: a full system's, in small.
SIZE, PIECE = 1024 * MiB, 256 * 1024

#: Bytes that the point writes whose merge is measured, and each of those that are only to be read through.
DELTA, THIN = 512 * MiB, 32 * MiB

#: Size of the disk whose commits are measured: what it takes does not depend on it.
SMALL = 64 * MiB


@dataclass
class Chain:
    """A replica of one disk on the host of this machine, without a fleet around it."""

    target: KvmTarget
    replica: Replica
    rng: random.Random
    points: list[JournalPoint]

    def add(self, written: int) -> JournalPoint:
        """Make a point that writes so much, in pieces at random places that don't overlap."""
        head = self.points[-1] if self.points else None
        disk = self.replica.disks[0]
        opening = OpenPoint(new_id(), head.point_id if head else None, 1, (OpenDisk(disk.slot, new_id(), SIZE),))
        (layer,) = self.target.open(self.replica, opening)
        with closing(self.target.open_writer(self.replica, layer, 1)) as writer:
            for place in sorted(self.rng.sample(range(SIZE // PIECE), written // PIECE)):
                writer.write(place * PIECE, self.rng.randbytes(PIECE))
            writer.flush()
        number = len(self.points) + 1
        instant = datetime(2026, 12, 3, tzinfo=UTC) + timedelta(minutes=number)
        point = CommitPoint(
            point_id=layer.point_id,
            name=f"V{instant:%Y%m%d_%H%M%S}",
            sequence=number,
            instant=instant,
            kind="increment" if head else "full",
            consistency="fs",
            epoch=1,
            layers=(layer,),
            roots={disk.slot: "0" * 64},
        )
        self.points.append(self.target.commit(self.replica, point))
        return self.points[-1]

    def file(self, point: JournalPoint) -> Path:
        """Return the file of a point's disk."""
        return Path(self.replica.storage) / self.replica.vm_name / point.disks[0].identity


@contextmanager
def chain(made: Rig, storage: Path, rng: random.Random) -> Iterator[Chain]:
    """Make a replica without points, and remove it with all that it got."""
    settings = {"virt_type": "qemu", "libvirt_socket": str(made.fleet.libvirt.socket)}
    access = HostAccess(name="bench", kind="kvm", address="local", port=0, user="root", settings=settings)
    name = f"bench-{new_id().hex[-12:]}"
    disk = ReplicaDisk("system", SIZE, f"{name}-system")
    replica = Replica(new_id(), "bench", name, str(storage), "", 1, 64 * MiB, "bios", (disk,))
    with closing(KvmTarget(access=access)) as target:
        target.create(replica)
        try:
            yield Chain(target, replica, rng, [])
        finally:
            target.remove(replica)


@dataclass(frozen=True, slots=True)
class Merge:
    """Merging a point against a plain copy of as many bytes, round by round."""

    ratios: list[float]
    ours: float
    copy: float


def merge(made: Rig, storage: Path, rounds: int, rng: random.Random) -> Merge:
    """Merge the middle one of three points, and copy its successor's file, in turns, on a real file system."""
    ours, theirs = [], []
    for number in range(-1, rounds):
        with chain(made, storage, rng) as made_chain:
            made_chain.add(THIN)
            middle, last = made_chain.add(DELTA), made_chain.add(DELTA)
            kept = storage / "kept"  # elsewhere, for whatever lies beside the points and stands on one keeps it
            kept.hardlink_to(made_chain.file(last))

            def merged(of: Chain = made_chain, point: JournalPoint = middle) -> None:
                of.target.consolidate(of.replica, point.point_id)

            works = {"merge": merged, "copy": lambda kept=kept: _copy(kept)}
            seconds = {}
            for name in ("merge", "copy") if number % 2 else ("copy", "merge"):
                os.sync()  # what was written before is not this one's to wait for
                began = time.monotonic()
                works[name]()
                seconds[name] = time.monotonic() - began
            kept.unlink()
        print(f"  merge {seconds['merge']:.2f} s   cp and sync {seconds['copy']:.2f} s", flush=True)
        if number >= 0:
            ours.append(seconds["merge"])
            theirs.append(seconds["copy"])
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Merge(ratios, statistics.median(ours), statistics.median(theirs))


def _copy(file: Path) -> None:
    """Copy a file beside itself, and wait until it is durable."""
    copy = file.with_name("copy")
    subprocess.run(["cp", "--sparse=never", "--reflink=never", file, copy], check=True)
    subprocess.run(["sync", copy], check=True)
    copy.unlink()


@dataclass(frozen=True, slots=True)
class Reading:
    """Reading the newest of 22 points from start to end, as many times as fast as a flat image of the same bytes."""

    ratios: list[float]
    deep: float
    flat: float


def reading(made: Rig, storage: Path, rounds: int, rng: random.Random) -> Reading:
    """Read the head of a chain of 22 points, and a flat copy of it, in turns, both from the page cache."""
    with chain(made, storage, rng) as made_chain:
        made_chain.add(SIZE)
        for _ in range(DEPTH - 1):
            made_chain.add(THIN)
        deep, flat = made_chain.file(made_chain.points[-1]), storage / "flat.qcow2"
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", deep, flat], check=True)
        try:
            seconds: dict[Path, list[float]] = {deep: [], flat: []}
            for number in range(-1, rounds):
                for file in (deep, flat) if number % 2 else (flat, deep):
                    found = _read(file)
                    if number >= 0:
                        seconds[file].append(found)
        finally:
            flat.unlink()
    ratios = [b / a for a, b in zip(seconds[deep], seconds[flat], strict=True)]
    return Reading(ratios, statistics.median(seconds[deep]), statistics.median(seconds[flat]))


def _read(file: Path) -> float:
    """Read an image from its start to its end in requests of 64 KiB, four at a time."""
    began = time.monotonic()
    words = ["qemu-img", "bench", "-f", "qcow2", "-t", "writeback", "-s", "65536", "-d", "4"]
    subprocess.run([*words, "-c", str(SIZE // 65536), file], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def committing(made: Rig, path: Path, rounds: int, rng: random.Random) -> list[float]:
    """Make as many points as a replica can have, and some more: seconds from the last seal to committed at that depth.

    The sessions of the workers are kept from run to run, as always; at the limit a point goes before each run.
    """
    with path.open("wb") as file:
        file.truncate(SMALL)
    scatter(path, list(range(0, SMALL // 65536, 4)), rng)
    job = made.fleet.add_job("deep", AGENT, {"system": path})
    found = []
    for number in range(DEPTH + rounds):
        scatter(path, rng.sample(range(SMALL // 65536), 8), rng)
        measured, _run = made.copy(job)
        if number >= DEPTH - 1:
            found.append(measured.phases["commit"])
    path.unlink()
    return found
