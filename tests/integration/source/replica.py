"""What a replica of a disk's used blocks is worth: every file, a clean file system, and no stale block sent."""

from __future__ import annotations

import os
import random
from pathlib import Path

from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.snapshots import Still
from bootpoint_producer.usedblocks import UsedBlocks
from tests.integration.source.loop import run
from tests.integration.source.partition import SWAP_SIZE, SWAP_START, PartitionedDisk, digests, opened
from tests.service.feeding import FedReplica

SKIP = ("swap", "hibernation")


def used_blocks(path: Path) -> UsedBlocks:
    """Return what leaves out the free blocks of a disk that is held still."""
    return UsedBlocks(slot="system", path=str(path), still=[Still(0, None, str(path))], skip=SKIP, quiet=lambda: False)


def require_every_file(fs: str, folder: Path, rng: random.Random) -> None:
    """Copy a disk with a file system, change it, and copy it again."""
    disk = PartitionedDisk(fs, folder / "disk.raw")
    disk.build()
    disk.fill_and_free()
    disk.change(rng)
    fed = FedReplica(disk.image, folder / "replica.raw")
    # 150 MiB, of which up to 65 are used, 24 of swap, and 26 that hold nothing that is known: those travel.
    first = fed.run(used_blocks(disk.image))
    assert len(first.sent) * GRAIN < 110 * MiB
    assert len(first.skipped) * GRAIN > 85 * MiB
    _require_equal(disk, fed)
    assert "swapped" in _swap(fed.replica)
    assert _swap(fed.replica) == _swap(disk.image)
    # A file that came and went between two runs is in nobody's replica.
    with opened(fs, disk.image) as files:
        (files / "f9000").write_bytes(os.urandom(20 * MiB))
    with opened(fs, disk.image) as files:
        (files / "f9000").unlink()
    assert len(fed.run(used_blocks(disk.image)).sent) * GRAIN < 12 * MiB
    disk.change(rng)
    fed.run(used_blocks(disk.image))
    _require_equal(disk, fed)


def _require_equal(disk: PartitionedDisk, fed: FedReplica) -> None:
    # One after the other: two file systems of one identity can't be mounted at once, or pass for each other.
    with opened(disk.fs, disk.image) as folder:
        files = digests(folder)
    assert len(files) >= 48
    with opened(disk.fs, fed.replica) as folder:
        assert digests(folder) == files
    disk.check(fed.replica)


def _swap(image: Path) -> str:
    return run("blkid", "-p", "-O", str(SWAP_START), "-S", str(SWAP_SIZE), "-o", "value", image)
