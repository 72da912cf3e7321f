"""Random work on a loop device, of all kinds that reach a disk: files, memory maps, discards, new file systems, tables.

Everything is bounded: some tens of MiB and a second or two for each piece of work.
"""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from bootpoint_common.units import GRAIN, KiB, MiB
from tests.service.process import wait_for
from tests.service.tracked import TrackedDisk, bpf_mount, differing, numbers

_log = logging.getLogger(__name__)

#: Size of the device: what mkfs.xfs asks for at least, and a little.
SIZE = 320 * MiB

#: Something that is done to a device.
Work = Callable[[Path, Random], None]


def call(*command: str | Path, given: str | None = None) -> None:
    done = subprocess.run([str(part) for part in command], input=given, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def settle(device: Path) -> None:
    """Write out what is cached of a device, and drop it."""
    call("blockdev", "--flushbufs", device)


def _fio(target: Path, rng: Random, *options: str) -> None:
    seed = f"--randseed={rng.getrandbits(31)}"
    call("fio", "--name=work", f"--filename={target}", "--randrepeat=0", seed, "--fallocate=none", *options)


@contextmanager
def _mounted(device: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        point = Path(made)
        call("mount", device, point)
        try:
            yield point
        finally:
            call("umount", point)


@contextmanager
def _partition(device: Path, number: int) -> Iterator[Path]:
    """Make a node for a partition: where no udev runs, nobody else does."""
    found = Path(f"/sys/class/block/{device.name}p{number}/dev")
    wait_for(found.exists, f"partition {number} of {device}")
    major, minor = map(int, found.read_text().split(":"))
    with tempfile.TemporaryDirectory() as made:
        node = Path(made) / f"p{number}"
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
        yield node


def _make(kind: str, device: Path, rng: Random) -> None:
    """Make a file system; one that discards the whole device first would hide what else is missed, so few do."""
    options = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f"], "vfat": ["-I"], "btrfs": ["-q", "-f"]}[kind]
    if rng.random() < 0.8:
        options += {"ext4": ["-E", "nodiscard"], "xfs": ["-K"], "vfat": [], "btrfs": ["-K"]}[kind]
    call(f"mkfs.{kind}", *options, device)


def _fill(point: Path, rng: Random) -> None:
    for _ in range(rng.randint(2, 12)):
        file = point / f"f{rng.randrange(40)}"
        file.write_bytes(rng.randbytes(rng.choice([100, 5_000, 70_000, MiB, 3 * MiB])))
    for file in sorted(point.glob("f*")):
        if rng.random() < 0.3:
            file.unlink()


# --- pieces of work ---------------------------------------------------------------------------------------------


def fio_on_disk(device: Path, rng: Random) -> None:
    """Random direct writes of mixed sizes."""
    block = rng.choice(["4k", "4k-128k", "1m", "512-8k"])
    _fio(device, rng, "--rw=randwrite", f"--bsrange={block}" if "-" in block else f"--bs={block}", "--direct=1",
         "--ioengine=libaio", "--iodepth=8", f"--io_size={rng.randint(1, 24)}m", "--size=100%")  # fmt: skip


def fio_through_memory(device: Path, rng: Random) -> None:
    """Random writes to a part of the device that is mapped."""
    place = [f"--offset={rng.randint(0, 280)}m", f"--size={rng.randint(8, 40)}m", f"--io_size={rng.randint(1, 8)}m"]
    _fio(device, rng, "--rw=randwrite", "--bs=4k", "--ioengine=mmap", *place)


def files_of(kind: str) -> Work:
    """Make a file system, and change files in it, with a discard of what is free."""

    def work(device: Path, rng: Random) -> None:
        _make(kind, device, rng)
        for _ in range(rng.randint(1, 2)):
            with _mounted(device) as point:
                _fill(point, rng)
                _fio(point / "direct", rng, "--rw=randwrite", "--bs=8k", "--direct=1", "--size=16m", "--io_size=4m")
                _fio(point / "mapped", rng, "--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--size=8m", "--io_size=2m")
                if rng.random() < 0.7:
                    (point / "direct").unlink()
                    call("sync", "-f", point)
                    call("fstrim", point)

    return work


def new_file_system(device: Path, rng: Random) -> None:
    """Make a file system of another kind, with or without a discard of the whole device."""
    _make(rng.choice(["ext4", "xfs", "vfat", "btrfs"]), device, rng)


def resized(device: Path, rng: Random) -> None:
    """Make a small ext4, fill it, and let it grow and shrink."""
    call("mkfs.ext4", "-q", "-F", "-E", "nodiscard", device, f"{rng.randint(40, 100)}M")
    with _mounted(device) as point:
        _fill(point, rng)
    for size in (f"{rng.randint(150, 300)}M", f"{rng.randint(110, 140)}M"):
        call("e2fsck", "-fy", device)
        call("resize2fs", device, size)


def partitioned(device: Path, rng: Random) -> None:
    """Write a table, and to the partitions; move one of them."""
    label = rng.choice(["gpt", "dos"])
    first = rng.randint(1, 40)
    table = f"label: {label}\nstart={first}MiB, size=60MiB\nstart={first + 70}MiB, size=90MiB\n"
    call("sfdisk", "--wipe=always", device, given=table)
    call("partx", "--update", device)  # for kernels that read no tables themselves
    with _partition(device, 1) as small:
        _make("ext4", small, rng)
        with _mounted(small) as point:
            _fill(point, rng)
    with _partition(device, 2) as large:
        _fio(large, rng, "--rw=randwrite", "--bs=4k", "--direct=1", "--io_size=2m", "--size=100%")
    if rng.random() < 0.5:
        move = rng.randint(1, 9)
        there = [f"skip={first + 70}", f"seek={first + 70 + move}"]
        call("dd", f"if={device}", f"of={device}", "bs=1M", "count=90", "conv=notrunc,fsync", *there)
        call("sfdisk", "-N", "2", device, given=f"{first + 70 + move}MiB, 90MiB\n")
        call("partx", "--update", device)
        with _partition(device, 2) as moved:
            _fio(moved, rng, "--rw=randwrite", "--bs=4k", "--direct=1", "--io_size=1m", "--size=100%")
    call("partx", "--delete", device)
    call("sfdisk", "--delete", device)


def discarded(device: Path, rng: Random) -> None:
    """Discard, or zero, a range of any length."""
    start = rng.randrange(SIZE // (4 * KiB)) * 4 * KiB
    length = min(SIZE - start, max(1, int(SIZE * rng.random() ** 3) // (4 * KiB)) * 4 * KiB)
    options = ["--zeroout"] if rng.random() < 0.5 else []
    call("blkdiscard", "-f", *options, "--offset", str(start), "--length", str(length), device)


def copied(device: Path, rng: Random) -> None:
    """Copy a part of the device over another one, through the page cache."""
    count = rng.randint(1, 200)
    call("dd", f"if={device}", f"of={device}", "bs=64k", f"count={count}", "conv=notrunc,fsync",
         f"skip={rng.randint(0, 2000)}", f"seek={rng.randint(2300, 4800)}")  # fmt: skip


WORKS: dict[str, Work] = {
    "fio": fio_on_disk,
    "fio mmap": fio_through_memory,
    "ext4": files_of("ext4"),
    "xfs": files_of("xfs"),
    "mkfs": new_file_system,
    "resize2fs": resized,
    "sfdisk": partitioned,
    "discard": discarded,
    "dd": copied,
}


def fio_noted(device: Path, rng: Random, log: Path) -> set[int]:
    """Do random direct writes; return the numbers of the grains that were written, from fio's own log."""
    _fio(device, rng, "--rw=randwrite", f"--bsrange=4k-{rng.choice([4, 64, 256])}k", "--direct=1", "--ioengine=libaio",
         "--iodepth=16", f"--io_size={rng.randint(1, 24)}m", "--size=100%", f"--write_iolog={log}")  # fmt: skip
    written: set[int] = set()
    for line in log.read_text().splitlines():
        fields = line.split()
        if "write" in fields:
            offset, length = (int(field) for field in fields[fields.index("write") + 1 :][:2])
            written.update(range(offset // GRAIN, (offset + length - 1) // GRAIN + 1))
    log.unlink()
    return written


@contextmanager
def loop_device(file: Path, size: int = SIZE) -> Iterator[Path]:
    """Make a loop device of a new file, with partitions."""
    with file.open("wb") as stream:
        stream.truncate(size)
    made = subprocess.run(
        ["losetup", "--find", "--show", "--partscan", file], check=True, capture_output=True, text=True
    )
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        file.unlink()


def fuzz(directory: Path, rng: Random, rounds: int) -> list[tuple[int, int, int]]:
    """Do rounds of random work on a followed device, and compare what was followed with every grain's digest.

    Each round is cut twice: after random work of one to three kinds, and after writes of which fio itself says where
    they went.

    Args:
        directory: For the device's file.
        rng: Decides about everything.
        rounds: How many.

    Returns:
        Of each round: grains that differ, grains that were reported, and of these two cuts together the missed ones.
    """
    found = []
    with bpf_mount(directory) as pins, loop_device(directory / "disk.img") as device:
        tracked = TrackedDisk(device, pins)
        tracked.cut()
        before = tracked.digests()
        for number in range(rounds):
            works = rng.sample(list(WORKS), rng.randint(1, 3))
            for work in works:
                WORKS[work](device, rng)
            settle(device)
            if rng.random() < 0.2:
                tracked.restart()  # the agent was killed meanwhile
            reported, after = numbers(tracked.cut()), tracked.digests()
            changed, before = differing(before, after), after
            missed = changed - reported
            assert not missed, f"round {number}, {works}: missed grains {sorted(missed)[:20]}"
            written = fio_noted(device, rng, directory / "fio.log")
            settle(device)
            noted, after = numbers(tracked.cut()), tracked.digests()
            missed = (differing(before, after) | written) - noted
            before = after
            assert not missed, f"round {number}, fio: missed grains {sorted(missed)[:20]}"
            counts = f"{len(written)} written, {len(noted)} reported"
            assert len(noted) <= 1.3 * len(written) + 64, f"round {number}, fio: {counts}"
            done = f"{' + '.join(works)}: {len(changed)} differ, {len(reported)} reported; fio: {counts}"
            _log.info("round %d: %s", number, done)
            found.append((len(changed), len(reported), len(missed)))
    return found
