"""Merging points of a KVM replica while workers and host processes die, and the proof that no point is lost.

A chain of points with two disks, each kept as a plain copy too. A round merges one point, and something dies at a named
step: the worker alone, with everything that it had running on the host, or whatever of it comes up within some moments
after the step. Then every point that the host still lists has to read as its copy, and after a second call all the
others have to, with no file left over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.kvm import KvmTarget
from tests.integration.kvm.conftest import Bench
from tests.service.process import wait_for
from tests.service.standby import assert_equal

#: Size of each disk: what a point writes takes a merge some tens of milliseconds.
DISK = 32 * MiB

#: Bytes that a point writes to each disk.
WRITTEN = 12 * MiB

#: Points before a merge.
LENGTH = 4

#: Seconds that a killer waits at most once something runs, and until something does.
LATEST, PATIENCE = 0.06, 2.0

#: Every step of a merge, in order.
STEPS = ("check", "mark", "marked", "runbook", "merge", "settle", "rename", "clear", "done")


class Died(BaseException):
    """The worker died here."""


@dataclass
class Merges:
    """A replica, its points, and how each round ended.

    Attributes:
        bench: The replica on its host.
        directory: Where the copies go.
        rng: Decides everything.
        results: How many rounds ended how, by step, way of dying, and result.
    """

    bench: Bench
    directory: Path
    rng: Random
    results: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    points: list[JournalPoint] = field(default_factory=list)
    copies: dict[UUID, dict[str, Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        disks = tuple(replace(disk, size_bytes=DISK) for disk in self.bench.replica.disks)
        self.bench.replica = replace(self.bench.replica, disks=disks)
        with closing(self.bench.connect()) as target:
            target.create(self.bench.replica)

    # --- the chain

    def grow(self) -> None:
        """Add points until the chain is long enough."""
        with closing(self.bench.connect()) as target:
            while len(self.points) < LENGTH:
                self._add(target)

    def _add(self, target: KvmTarget) -> None:
        head = self.points[-1] if self.points else None
        layers = target.open(self.bench.replica, self.bench.opening(head))
        copies = {}
        for layer in layers:
            copy = self.directory / f"{layer.point_id.hex}-{layer.slot}.raw"
            if head is not None:
                subprocess.run(["cp", "--sparse=always", self.copies[head.point_id][layer.slot], copy], check=True)
            copies[layer.slot] = copy
            with closing(target.open_writer(self.bench.replica, layer, 1)) as writer, copy.open("ab") as file:
                file.truncate(DISK)
                descriptor = os.open(copy, os.O_RDWR)
                for number in self.rng.sample(range(DISK // GRAIN), WRITTEN // GRAIN):
                    if self.rng.random() < 0.1:
                        writer.zero(number * GRAIN, GRAIN)
                        os.pwrite(descriptor, bytes(GRAIN), number * GRAIN)
                        continue
                    data = self.rng.randbytes(GRAIN)
                    writer.write(number * GRAIN, data)
                    os.pwrite(descriptor, data, number * GRAIN)
                os.close(descriptor)
                writer.flush()
        point = target.commit(self.bench.replica, self.bench.sealing(layers))
        self.points.append(point)
        self.copies[point.point_id] = copies

    # --- a round

    def round(self, step: str, way: str) -> None:
        """Merge a point, let something die at a step, look at everything, and finish it.

        Args:
            step: One of `STEPS`.
            way: ``worker``: the worker dies there, and all that it runs on the host is killed with it; ``tools``:
                what it runs on the host after that step is killed, qemu-img among it, and the worker lives.
        """
        self.grow()
        number = self.rng.randrange(len(self.points) - 1)
        gone = self.points[number]
        result = self._strike(gone, step, way)
        self.bench.step = lambda _name: None
        # A merge outlives what waited for it.
        wait_for(lambda: not self._processes(with_guard=False), "the host to be still")
        self.results[step, way, result] += 1
        with closing(self.bench.connect()) as target:
            self._look(target)
            target.consolidate(self.bench.replica, gone.point_id)
            del self.points[number]
            for copy in self.copies.pop(gone.point_id).values():
                copy.unlink()
            journal = target.inspect(self.bench.replica)
            assert journal is not None
            assert journal.consolidating is None
            assert [point.point_id for point in journal.points] == [point.point_id for point in self.points]
            self.points = list(journal.points)
            self._look(target)
            assert journal.drift is None
        self._nothing_left()

    def _strike(self, gone: JournalPoint, step: str, way: str) -> str:
        """Merge until something dies; returns what came of it."""
        killers: list[threading.Thread] = []
        struck: list[int] = []
        problems: list[BootpointError] = []

        def reached(name: str) -> None:
            if name != f"consolidate:{step}" or killers:
                return
            killers.append(threading.Thread(target=self._kill, args=(self.rng.random() * LATEST, struck)))
            if way == "worker":
                self._kill_all(with_guard=True)
                raise Died
            killers[0].start()

        self.bench.step = reached
        target = self.bench.connect()
        try:
            target.consolidate(self.bench.replica, gone.point_id)
        except Died:
            return "died"
        except BootpointError as problem:
            problems.append(problem)
        finally:
            self.bench.step = lambda _name: None
            for killer in killers:
                if killer.is_alive():
                    killer.join()
            target.close()
        assert all(problem.retryable for problem in problems), problems
        return "failed" if problems else "healed" if struck else "passed"

    def _kill(self, delay: float, struck: list[int]) -> None:
        """Wait until something works on the replica on the host, and kill all of it some moments later."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self._processes(with_guard=False):
                threading.Event().wait(delay)
                struck += self._kill_all(with_guard=False)
                if struck:
                    return

    def _kill_all(self, *, with_guard: bool) -> list[int]:
        found = self._processes(with_guard=with_guard)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # What is killed in a write holds its locks until the write is done.
        wait_for(lambda: not any(_lives(pid) for pid in found), "what was killed to be gone")
        return found

    def _processes(self, *, with_guard: bool) -> list[int]:
        """Return what works on the replica; the holder of the lock on its VMs only waits."""
        name = self.bench.replica.vm_name.encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if name in words and (with_guard or b".machine.lock" not in words):
                    found.append(int(entry.name))
        return [pid for pid in found if pid != os.getpid()]

    # --- what must hold

    def _look(self, target: KvmTarget) -> None:
        """Every point that the host lists reads as its copy, and only the one that goes may be missing."""
        journal = target.inspect(self.bench.replica)
        assert journal is not None
        listed = {point.point_id for point in journal.points}
        missing = {point.point_id for point in self.points} - listed
        assert missing <= {journal.consolidating} or len(missing) <= 1, "points were lost"
        runbook = (self.bench.directory / "RUNBOOK.txt").read_text()
        for point in journal.points:
            for disk in point.disks:
                assert_equal(self.bench.directory / disk.identity, self.copies[point.point_id][disk.slot])
            assert f"BEGIN {point.name}" in runbook
        if journal.consolidating is not None:
            with pytest.raises(BootpointError) as caught:
                target.open(self.bench.replica, self.bench.opening(journal.head))
            assert caught.value.code is Code.BUSY

    def _nothing_left(self) -> None:
        """There are no files but those of points, and the standby's."""
        named = {disk.identity for point in self.points for disk in point.disks}
        there = {path.name for path in self.bench.directory.glob("*.qcow2") if ".scratch-" not in path.name}
        assert there == named
        left = [path.name for path in (self.bench.directory / "run").iterdir() if path.name.startswith("op-")]
        assert left == []

    def table(self, seed: object) -> str:
        """Return how many rounds of each step ended how."""
        lines = [f"consolidate, seed {seed}", f"{'step':10} {'killed':8} {'result':8} rounds"]
        lines += [
            f"{step:10} {way:8} {result:8} {count:6}"
            for (step, way, result), count in sorted(self.results.items(), key=lambda i: (STEPS.index(i[0][0]), i[0]))
        ]
        return "\n".join([*lines, f"{self.results.total()} rounds, 0 lost points"])


def _lives(pid: int) -> bool:
    """Tell whether a process has a thread that isn't ended."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            if (task / "stat").read_text().rpartition(") ")[2][0] not in "ZX":
                return True
    return False
