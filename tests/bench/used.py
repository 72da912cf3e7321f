"""What a first copy sends of a disk with many stale blocks, and how fast unchanged data is scanned."""

from __future__ import annotations

import hashlib
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.units import MiB
from bootpoint_producer.chunk import Counters
from bootpoint_producer.scan import scan
from bootpoint_producer.sources import open_source
from bootpoint_producer.trackers.hash import HashTracker
from tests.bench import case, peer
from tests.bench.rig import AGENT, Measured, Rig

#: Sizes of the files that a disk's data is made of, the largest.
_LARGEST = 24 * MiB


@dataclass(frozen=True, slots=True)
class FirstCopy:
    """A first copy of a disk with files and stale free blocks.

    Attributes:
        wire_bytes: Encrypted bytes in its stream.
        files: Files that are the same through the replica.
        seconds: How long the run took.
    """

    wire_bytes: int
    files: int
    seconds: float


def first_copy(rig: Rig, path: Path, *, size: int, data: int, stale: int, rng: random.Random) -> FirstCopy:
    """Copy an ext4, and read its files through the replica; its file system must be clean there.

    Args:
        rig: The fleet.
        path: Where the disk is made.
        size: Bytes of the disk.
        data: Bytes of its files, all random.
        stale: Bytes of free blocks that a deleted file left, all random.
        rng: Randomness.
    """
    digests = _build(path, size, data, stale, rng)
    job = rig.fleet.add_job("used", AGENT, {"system": path})
    measured, run = rig.copy(job)
    wire = rig.totals(run)["wire_bytes"]
    (image,) = rig.fleet.disk_files(run.uid).values()
    shown = path.with_name("shown.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(shown)], check=True)
    rig.forget(run)
    path.unlink()
    subprocess.run(["e2fsck", "-f", "-n", str(shown)], check=True, capture_output=True)
    with _mounted(shown, "ro") as folder:
        assert _digests(folder) == digests, "the replica's files aren't the source's"
    shown.unlink()
    return FirstCopy(wire, len(digests), measured.seconds)


def hash_scan(path: Path, size: int, rounds: int, rng: random.Random) -> case.Rounds:
    """Scan a warm file that didn't change, and hash it by b3sum, in turns, after one round that doesn't count."""
    with path.open("wb") as file:
        for _ in range(size // MiB):
            file.write(rng.randbytes(MiB))
    base_path = path.with_suffix(".base")
    source = open_source(path)
    results = case.Rounds()
    with BlockMap.create(base_path, size) as base:
        for _ in scan(source, HashTracker(), base):
            pass
        base.sync()
        for number in range(-1, rounds):
            makers = {"bootpoint": lambda: _scan(path, base), "b3sum": lambda: peer.b3sum(path)}
            (results if number >= 0 else case.Rounds()).interleave(makers, number)
    source.close()
    base_path.unlink()
    path.unlink()
    return results


def _scan(path: Path, base: BlockMap) -> Measured:
    """Scan as an agent does without a tracker; nothing may be found."""
    source = open_source(path)
    counters = Counters()
    began, cpu = time.monotonic(), time.process_time()
    with base.copy_to(path.with_suffix(".map")) as candidate:
        assert not list(scan(source, HashTracker(), candidate, base=base, counters=counters))
    measured = Measured(time.monotonic() - began, time.process_time() - cpu)
    source.close()
    path.with_suffix(".map").unlink()
    assert counters.scanned_bytes == base.size_bytes
    return measured


def _build(path: Path, size: int, data: int, stale: int, rng: random.Random) -> dict[str, str]:
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", str(path)], check=True)
    with _mounted(path) as folder:
        with (folder / "stale").open("wb") as file:
            for _ in range(stale // MiB):
                file.write(rng.randbytes(MiB))
        written = 0
        while written < data:
            length = min(rng.choice((4096, 90_000, MiB, _LARGEST)), data - written)
            (folder / f"f{written}").write_bytes(rng.randbytes(length))
            written += length
        (folder / "stale").unlink()
        return _digests(folder)


@contextmanager
def _mounted(image: Path, options: str = "rw") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-o", f"loop,{options}", str(image), folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("f*")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
