"""What is measured: full copies, increments, memory, and a stream that nobody reads."""

from __future__ import annotations

import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bootpoint_common.store.point import WINDOW
from bootpoint_common.store.run import Run
from bootpoint_common.units import GRAIN, MiB, TiB
from tests.bench import peer
from tests.bench.rig import AGENT, WORKERS, Measured, Rig
from tests.bench.source import Disk, scatter
from tests.bench.usage import MemoryMeter
from tests.service.process import wait_for

#: Share of the data that changes between two increments.
CHANGED = 0.05

#: Size of the huge disk.
HUGE = 1 * TiB

#: Seconds after which a case begins no further round: on a machine that others use, fewer are measured, and said.
BUDGET = 540.0

#: Seconds until a stream that nobody reads has to stand still.
STANDSTILL = 60.0


@dataclass
class Rounds:
    """The measurements of one case, by who made them, in the order of the rounds."""

    of: dict[str, list[Measured]] = field(default_factory=dict)

    def add(self, who: str, measured: Measured) -> None:
        """Note one, and show it."""
        self.of.setdefault(who, []).append(measured)
        print(f"  {who:18} {measured.seconds:7.2f} s   {measured.cpu_seconds:6.1f} CPU s", flush=True)

    def seconds(self, who: str) -> float:
        """Return the median duration."""
        return statistics.median(one.seconds for one in self.of[who])

    def cpu_seconds(self, who: str) -> float:
        """Return the median of the processor seconds."""
        return statistics.median(one.cpu_seconds for one in self.of[who])

    def profile(self, who: str) -> tuple[str, str]:
        """Say where the time goes: the median seconds of each phase, and the median processor seconds of each part."""
        of = self.of[who]
        return _medians([one.phases for one in of]), _medians([one.parts for one in of])

    def faster(self, who: str, than: str) -> list[float]:
        """Return, round by round, how many times faster one is than another."""
        return [b.seconds / a.seconds for a, b in zip(self.of[who], self.of[than], strict=True)]

    def interleave(self, makers: dict[str, Callable[[], Measured]], number: int) -> None:
        """Let each make one, in an order that turns with the round: who comes first has the coldest caches."""
        names = list(makers)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            self.add(name, makers[name]())


def _medians(tables: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(f"{name} {statistics.median(table[name] for table in tables):.2f}" for name in tables[0])


def full(rig: Rig, disk: Disk, rounds: int) -> tuple[Rounds, float]:
    """Copy a whole disk, ours and by nbdcopy in turns, after one round that doesn't count.

    Returns:
        The rounds, and wire bytes / data bytes.
    """
    results, shares = Rounds(), []
    storage = rig.fleet.storage
    until = time.monotonic() + BUDGET
    for number in range(-1, rounds):
        if number > 0 and time.monotonic() > until:
            break
        print(f"full copy, round {number + 1} of {rounds}" if number >= 0 else "full copy, warm-up", flush=True)

        def ours(number: int = number) -> Measured:
            job = rig.fleet.add_job(f"full{number + 1}", AGENT, {"system": disk.path})
            measured, run = rig.copy(job)
            shares.append(rig.totals(run)["wire_bytes"] / disk.data_bytes)
            if number == 0:
                _require_equal(rig, run, disk.path)
            rig.forget(run)
            return measured

        def theirs() -> Measured:
            target = storage / "nbdcopy.qcow2"
            peer.make_image(target, disk.size_bytes)
            measured = peer.nbdcopy(disk.path, target)
            target.unlink()
            return measured

        disk.warm()
        (results if number >= 0 else Rounds()).interleave({"bootpoint": ours, "nbdcopy": theirs}, number)
    return results, statistics.median(shares)


def increment(rig: Rig, disk: Disk, rounds: int, rng: random.Random) -> tuple[Rounds, float]:
    """Change a disk at random places and bring three copies of it up to date: ours, rsync's, and nbdcopy's anew.

    Returns:
        The rounds, and wire bytes / changed bytes.
    """
    results, shares, runs = Rounds(), [], list[Run]()
    job = rig.fleet.add_job("increment", AGENT, {"system": disk.path})
    rig.copy(job)
    raw, image = rig.fleet.storage / "rsync.raw", rig.fleet.storage / "recopy.qcow2"
    subprocess.run(["cp", "--sparse=always", str(disk.path), str(raw)], check=True)
    peer.make_image(image, disk.size_bytes)
    peer.nbdcopy(disk.path, image)
    until = time.monotonic() + BUDGET / 2
    for number in range(rounds):
        if number > 0 and time.monotonic() > until:
            break
        changed = disk.change(CHANGED, rng)
        print(f"increment of {changed / MiB:.0f} MiB, round {number + 1} of {rounds}", flush=True)

        def ours(changed: int = changed) -> Measured:
            measured, run = rig.copy(job)
            shares.append(rig.totals(run)["wire_bytes"] / changed)
            runs.append(run)
            return measured

        makers: dict[str, Callable[[], Measured]] = {
            "bootpoint": ours,
            "rsync": lambda: peer.rsync(disk.path, raw),
            "nbdcopy recopy": lambda: peer.nbdcopy(disk.path, image),
        }
        results.interleave(makers, number)
        # A peer that did nothing would be measured as fast.
        subprocess.run(["cmp", str(disk.path), str(raw)], check=True)
    _require_equal(rig, runs[-1], disk.path)
    raw.unlink()
    image.unlink()
    return results, statistics.median(shares)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a huge disk with changed grains all over it costs.

    Attributes:
        grains: How many had changed.
        seconds: Of the run.
        agent: Most MiB of the agent's own.
        worker: Likewise of the worker that had more.
        segments: Segment digests that came with it.
    """

    grains: int
    seconds: float
    agent: float
    worker: float
    segments: int


def memory(rig: Rig, path: Path, grains: int, rng: random.Random) -> Memory:
    """Protect a huge sparse disk, change grains all over it, and watch memory while the increment runs."""
    with path.open("wb") as file:
        file.truncate(HUGE)
    job = rig.fleet.add_job("huge", AGENT, {"system": path})
    first, _ = rig.copy(job)
    print(f"empty disk of 1 TiB: {first.seconds:.1f} s; writing {grains} grains", flush=True)
    step = HUGE // GRAIN // grains
    scatter(path, [index * step + rng.randrange(step) for index in range(grains)], rng)
    pids = {name: rig.fleet.running[name].pid for name in (AGENT, *WORKERS)}
    with MemoryMeter(pids) as meter:
        measured, run = rig.copy(job)
    totals = rig.totals(run)
    assert totals["changed_bytes"] == grains * GRAIN, totals
    rig.forget(run)
    path.unlink()
    return Memory(
        grains,
        measured.seconds,
        meter.mebibytes(AGENT),
        max(meter.mebibytes(name) for name in WORKERS),
        totals["segments"],
    )


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a stream holds that nobody reads.

    Attributes:
        credit: MiB that the agent may send.
        stream: MiB in the stream once it stands still.
        growth: MiB by which the broker's resident memory grew.
    """

    credit: float
    stream: float
    growth: float


def backlog(rig: Rig, path: Path, rng: random.Random) -> Backlog:
    """Kill all workers as soon as a point is open, and wait until the agent has sent all that it may."""
    size = 8 * WINDOW
    with path.open("wb") as file:
        file.truncate(size)
    scatter(path, list(range(size // GRAIN)), rng)
    job = rig.fleet.add_job("backlog", AGENT, {"system": path})
    before = rig.broker.memory_bytes
    run = rig.fleet.begin(job)
    # Not before the agent was told of its streams: a worker does that, too.
    rig.fleet.wait_for_row(
        "a watermark",
        "SELECT 1 AS yes FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id WHERE p.run_uid = %s"
        " AND d.watermark_bytes > 0",
        run.uid,
    )
    for name in WORKERS:
        rig.fleet.running[name].kill()
    held = _standstill(rig, run)
    growth = rig.broker.memory_bytes - before
    found = rig.fleet.row(
        "SELECT d.window_bytes FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id WHERE p.run_uid = %s",
        run.uid,
    )
    assert found is not None
    for name in WORKERS:
        rig.fleet.start_again(name)
    rig.fleet.succeeded(run)
    rig.forget(run)
    path.unlink()
    return Backlog(found["window_bytes"] / MiB, held / MiB, growth / MiB)


def _standstill(rig: Rig, run: Run) -> int:
    """Wait until a run's stream holds the same, and something, three times in a row; return how many bytes."""
    seen: list[int] = []
    name = rig.fleet.vhost.name

    def look() -> bool:
        lines = rig.broker.ctl("list_queues", "-p", name, "name", "message_bytes", "--no-table-headers").splitlines()
        seen.append(sum(int(line.split()[1]) for line in lines if line.startswith("stream.")))
        return len(seen) >= 3 and seen[-1] > 0 and len(set(seen[-3:])) == 1

    wait_for(look, "the stream to stand still", STANDSTILL)
    return seen[-1]


def _require_equal(rig: Rig, run: Run, source: Path) -> None:
    """Require that a run's point equals the source: what was fast has to be right as well."""
    (file,) = rig.fleet.disk_files(run.uid).values()
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(source), str(file)], check=True)


