"""What following writes saves, and what it costs: increments on disks of two sizes, and fio with and without it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import GRAIN, GiB, MiB
from bootpoint_producer.trackers.ebpf.program import PINS, Program, is_mounted
from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
from tests.bench import case
from tests.bench.rig import AGENT, Measured, Rig

#: Sizes of the disks, and what each holds besides holes: a hash scan reads holes of a device like anything else.
SMALL, LARGE, DATA = 2 * GiB, 16 * GiB, 256 * MiB

#: Bytes that change between two runs: single grains, at random all over the disk.
CHANGED = 120 * MiB

#: Pairs of fio runs, and writes of each. Many short pairs: the machine's load changes from second to second.
PAIRS, WRITES = 40, 20_000


@dataclass(frozen=True, slots=True)
class Overhead:
    """What following costs a writer.

    Attributes:
        ratios: Of each pair, the time of the followed writes by that of the others.
        write_us: Median time of a write that isn't followed, in microseconds.
        program_ns: Mean time in the program for each event, in nanoseconds, as the kernel counts it.
        events: How many there were for each write.
    """

    ratios: list[float]
    write_us: float
    program_ns: float
    events: float


@contextmanager
def bpf_file_system() -> Iterator[None]:
    """See that the system's BPF file system is mounted, and clean up what the agent pinned in it."""
    mounted = is_mounted(PINS.parent)
    if not mounted:
        subprocess.run(["mount", "-t", "bpf", "bpf", PINS.parent], check=True)
    try:
        yield
    finally:
        shutil.rmtree(PINS, ignore_errors=True)
        if not mounted:
            subprocess.run(["umount", PINS.parent], check=True)


@contextmanager
def device(link: Path, size: int, rng: random.Random) -> Iterator[Path]:
    """Make a loop device that a link leads to, with its data at the front."""
    file = link.with_suffix(".raw")
    with file.open("wb") as stream:
        for _ in range(min(DATA, size // 2) // MiB):
            stream.write(rng.randbytes(MiB))
        stream.truncate(size)
    made = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True)
    link.symlink_to(made.stdout.strip())
    try:
        yield link
    finally:
        subprocess.run(["losetup", "--detach", link.resolve()], check=True)
        link.unlink()
        file.unlink()


def increments(rig: Rig, links: tuple[Path, Path], rounds: int, rng: random.Random) -> case.Rounds:
    """Change the same amount on a small and on a large disk and copy it, the large one by a hash scan as well."""
    results = case.Rounds()
    with ExitStack() as stack:
        stack.enter_context(bpf_file_system())
        small, large = (
            stack.enter_context(device(link, size, rng)) for link, size in zip(links, (SMALL, LARGE), strict=True)
        )
        jobs = {disk: rig.fleet.add_job(disk.stem, AGENT, {"system": disk}) for disk in (small, large)}
        for disk, size in ((small, SMALL), (large, LARGE)):
            rig.copy(jobs[disk])
            _increment(rig, jobs[disk], disk, size, rng, tracker="ebpf")  # the first one takes what is only met once
        until = time.monotonic() + case.BUDGET
        makers = {
            "2 GiB": lambda: _increment(rig, jobs[small], small, SMALL, rng, tracker="ebpf"),
            "16 GiB": lambda: _increment(rig, jobs[large], large, LARGE, rng, tracker="ebpf"),
            "16 GiB by hash": lambda: _increment(rig, jobs[large], large, LARGE, rng, tracker="hash"),
        }
        for number in range(rounds):
            if number > 0 and time.monotonic() > until:
                break
            print(f"increment with a tracker, round {number + 1} of {rounds}", flush=True)
            results.interleave(makers, number)
    return results


def _increment(rig: Rig, job: int, disk: Path, size: int, rng: random.Random, *, tracker: str) -> Measured:
    with disk.open("r+b", buffering=0) as stream:
        for grain in rng.sample(range(size // GRAIN), CHANGED // GRAIN):
            os.pwrite(stream.fileno(), rng.randbytes(GRAIN), grain * GRAIN)
        os.fsync(stream.fileno())
    if tracker == "hash":
        number = disk.stat().st_rdev
        for pin in PINS.glob(f"*/disk-{os.major(number)}-{os.minor(number)}-*"):
            pin.unlink()
    measured, run = rig.copy(job)
    row = rig.fleet.row(
        "SELECT d.tracker, d.fallback, d.changed_bytes FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
        " WHERE p.run_uid = %s",
        run.uid,
    )
    assert row is not None
    assert (row["tracker"], row["changed_bytes"]) == (tracker, CHANGED), row
    return measured


def overhead(directory: Path, rng: random.Random) -> Overhead:
    """Write at random by fio to a followed device and to one that isn't, in pairs."""
    provider = EbpfProvider(Program())
    ratios, plain = [], []
    with bpf_file_system(), device(directory / "fio.dev", SMALL, rng) as disk:
        _write(disk)
        provider.arm(disk)
        (folder,) = PINS.iterdir()
        with _statistics():
            before = _program(folder)
            _write(disk)
            count, spent = (now - then for now, then in zip(_program(folder), before, strict=True))
        for number in range(PAIRS):
            seconds = {}
            for followed in ((True, False), (False, True))[number % 2]:
                if followed:
                    provider.arm(disk)
                else:
                    shutil.rmtree(PINS, ignore_errors=True)
                seconds[followed] = _write(disk)
            ratios.append(seconds[True] / seconds[False])
            plain.append(seconds[False])
    write_us = sorted(plain)[len(plain) // 2] / WRITES * 1e6
    return Overhead(ratios, write_us, spent / max(count, 1), count / WRITES)


def _write(disk: Path) -> float:
    """Let fio do some 4 KiB random direct writes; returns their seconds, without fio's start."""
    done = subprocess.run(
        ["fio", "--name=w", f"--filename={disk}", "--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio",
         "--iodepth=8", "--output-format=json", f"--number_ios={WRITES}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(json.loads(done.stdout)["jobs"][0]["write"]["runtime"]) / 1000


@contextmanager
def _statistics() -> Iterator[None]:
    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    switch.write_text("1")
    try:
        yield
    finally:
        switch.write_text(before)


def _program(folder: Path) -> tuple[int, int]:
    """Return how often the programs ran, and the nanoseconds that they took."""
    told = [
        json.loads(subprocess.run(["bpftool", "-j", "prog", "show", "pinned", folder / name], check=True,
                                  capture_output=True, text=True).stdout)
        for name in ("queue-program", "remap-program")
    ]  # fmt: skip
    return sum(one.get("run_cnt", 0) for one in told), sum(one.get("run_time_ns", 0) for one in told)
