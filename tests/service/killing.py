"""Killing everything on a KVM host at a named step of a verb, and doing the verb again.

At the step every qemu process and libvirtd get SIGKILL. Half of the times the worker dies with them, at once; else it
goes on into what is left, and they die some milliseconds after the step. Whatever came of it, the verb is called again,
by another worker, and has to succeed; then every point is compared with the copy that was kept when it was made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bootpoint_common.errors import BootpointError, Fenced
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.kvm import KvmTarget
from bootpoint_worker.targets.layer import CommitPoint
from tests.integration.kvm.conftest import SIZE, Bench
from tests.service.standby import assert_equal

#: Seconds within which the verb has to succeed after everything was killed; its processes start anew meanwhile.
RECOVERY = 60.0

#: Longest time between a step and the kill, where the worker goes on.
LATEST = 0.15

Work = Callable[[KvmTarget], object]


class Died(BaseException):
    """The worker died here."""


@dataclass
class Killing:
    """A replica whose host is killed.

    Attributes:
        bench: The replica and its host.
        scratch: Directory for copies.
        rng: Decides what is written, and when the kill comes.
        copies: What each point has to be, by name.
        results: How the interrupted calls ended, by step.
    """

    bench: Bench
    scratch: Path
    rng: Random
    copies: dict[str, tuple[JournalPoint, Path]] = field(default_factory=dict)
    results: dict[str, Counter[str]] = field(default_factory=dict)

    def point(self, target: KvmTarget) -> JournalPoint:
        """Make a point of random content."""
        data = self.rng.randbytes(GRAIN)
        journal = target.inspect(self.bench.replica)
        point = self.bench.point(target, journal.head if journal else None, data)
        self.keep(point, data)
        return point

    def keep(self, point: JournalPoint, data: bytes) -> None:
        """Keep what a point has to be."""
        copy = self.scratch / f"{point.name}.raw"
        copy.write_bytes(data)
        os.truncate(copy, SIZE)
        self.copies[point.name] = (point, copy)

    def steps(self, work: Work) -> list[str]:
        """Do a work undisturbed, and return its steps."""
        seen: list[str] = []
        self.bench.step = seen.append
        work(self.bench.connect())
        self.bench.step = lambda _name: None
        return list(dict.fromkeys(seen))

    def kill_at(self, step: str, work: Work) -> None:
        """Do a work, kill the host at a step of it, and do it again."""
        dies, late = self.rng.random() < 0.5, self.rng.uniform(0, LATEST)
        killed = threading.Event()

        def strike() -> None:
            self.kill_all()
            killed.set()

        def at(name: str) -> None:
            if name != step or killed.is_set():
                return
            if dies:
                strike()
                raise Died
            threading.Timer(late, strike).start()
            self.bench.step = lambda _name: None

        self.bench.step = at
        target = self.bench.connect()
        try:
            work(target)
            ended = "went on"
        except Died:
            ended = "died"
        except (BootpointError, Fenced) as problem:
            ended = f"failed: {getattr(problem, 'code', 'fenced')}"
        assert killed.wait(RECOVERY), f"{step} was never reached"
        self.bench.step = lambda _name: None
        target.close()
        self.results.setdefault(step, Counter())[ended] += 1
        self._again(work)

    def kill_all(self) -> None:
        """Kill every process of qemu and libvirtd of this host."""
        namespace = Path(f"/proc/{self.bench.host.first_pid}/ns/mnt").readlink()
        daemon = self.bench.host.daemon_pid
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                name, words = (path / "comm").read_text(), (path / "cmdline").read_bytes()
                ours = (path / "ns/mnt").readlink() == namespace or bytes(self.bench.directory) in words
                if (ours and name.startswith("qemu")) or int(path.name) == daemon:
                    os.kill(int(path.name), signal.SIGKILL)

    def _again(self, work: Work) -> None:
        deadline = time.monotonic() + RECOVERY
        while True:
            with contextlib.closing(self.bench.connect()) as target:
                try:
                    work(target)
                except BootpointError as problem:
                    if not problem.retryable or time.monotonic() > deadline:
                        raise
                else:
                    return

    def check(self, target: KvmTarget) -> int:
        """Compare every disk of every point with its copy; return how many points there are."""
        journal = target.inspect(self.bench.replica)
        assert journal is not None
        assert [point.name for point in journal.points] == list(self.copies)
        for point, copy in self.copies.values():
            for disk in point.disks:
                file = self.bench.directory / disk.identity
                assert_equal(file, copy)
                subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", file], check=True)
        return len(journal.points)

    def table(self, verb: str, seed: object) -> str:
        """Return what happened at each step."""
        lines = [f"{verb}, seed {seed}: {len(self.copies)} points, 0 lost"]
        for step, results in self.results.items():
            told = ", ".join(f"{ended} {count}" for ended, count in sorted(results.items()))
            lines.append(f"  {step:16} {sum(results.values()):3} kills: {told}")
        return "\n".join(lines)


def kill_reverts(killing: Killing, times: int) -> None:
    """Kill a host at each step of a revert."""
    target, replica = killing.bench.connect(), killing.bench.replica
    target.create(replica)
    first, second = killing.point(target), killing.point(target)
    target.close()
    steps = killing.steps(lambda other: other.revert(replica, first.point_id))
    assert set(steps) == {
        "revert:scratch", "revert:define", "revert:journal", "revert:runbook", "revert:done"
    }  # fmt: skip
    for step in steps:
        for _ in range(times):
            killing.bench.connect().revert(replica, second.point_id)
            killing.kill_at(step, lambda other: other.revert(replica, first.point_id))
            with contextlib.closing(killing.bench.connect()) as after:
                journal = after.inspect(replica)
                assert journal is not None
                assert journal.standing is not None
                assert (journal.standing.point_id, journal.standing.held) == (first.point_id, True)
                assert (journal.standby, journal.drift) == ("off", None)
                killing.check(after)


def kill_starts(killing: Killing, times: int, *, test_id: str | None) -> None:
    """Kill a host at each step of a start, of the standby or of a test; no guest runs, for it would only take time."""
    target, replica = killing.bench.connect(), killing.bench.replica
    target.create(replica)
    first = killing.point(target)
    killing.point(target)
    target.examine(replica, first.point_id)  # else the first start does, and no other
    target.close()
    request = StartRequest(point_id=first.point_id, test_id=test_id, paused=True)
    steps = killing.steps(lambda other: other.start(replica, request))
    assert {"start:scratch", "start:define", "start:journal", "start:run"} == set(steps)
    for step in steps:
        for _ in range(times):
            killing.bench.connect().stop(replica, test_id)
            killing.kill_at(step, lambda other: other.start(replica, request))
            with contextlib.closing(killing.bench.connect()) as after:
                journal = after.inspect(replica)
                assert journal is not None
                stands = [one.point_id for one in journal.standings if one.test_id == test_id]
                assert (stands, journal.standby, journal.drift) == ([first.point_id], "off", None)
                killing.check(after)


def kill_commits(killing: Killing, times: int) -> None:
    """Kill a host at each step of a commit; the point is there afterwards, and every earlier one."""
    bench = killing.bench
    target, replica = bench.connect(), bench.replica
    target.create(replica)
    killing.point(target)
    head = killing.point(target)
    sealed, data = _sealed(killing, target, head)
    target.close()
    made: list[JournalPoint] = []
    steps = killing.steps(lambda other: made.append(other.commit(replica, sealed)))
    killing.keep(made[-1], data)
    assert {"commit:close", "commit:check", "commit:publish", "commit:published", "remake:define"} < set(steps)
    for step in steps:
        for _ in range(times):
            with contextlib.closing(bench.connect()) as other:
                sealed, data = _sealed(killing, other, made[-1])
            killing.kill_at(step, lambda other, sealed=sealed: made.append(other.commit(replica, sealed)))  # type: ignore[misc]
            killing.keep(made[-1], data)
            with contextlib.closing(bench.connect()) as after:
                journal = after.inspect(replica)
                assert journal is not None
                assert (journal.head, journal.open_point_id, journal.drift) == (made[-1], None, None)
    with contextlib.closing(bench.connect()) as after:
        killing.check(after)


def _sealed(killing: Killing, target: KvmTarget, head: JournalPoint) -> tuple[CommitPoint, bytes]:
    data = killing.rng.randbytes(GRAIN)
    return killing.bench.filled(target, head, data), data
