"""Workers of a fleet that come and go while runs are under way: what tests and benchmarks do, and what they see.

A run's pace is limited at its source, so that it lasts as long as a scene does, on a quick machine too.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from bootpoint_common.store.database import Row
from bootpoint_common.store.run import Run
from bootpoint_common.units import MiB
from tests.service.process import wait_for
from tests.service.processes import Processes

#: Runs that are under way.
RUNS = 10

#: Bytes of each disk, which no compression makes smaller, and how many of them travel in a second: often enough that no
#: slice finds its stream empty and ends.
SIZE, RATE = 32 * MiB, 2 * MiB

_LIMITS = f"[limits]\nnice = 0\nnetwork_kb_per_second = [ {{ value = {RATE // 1024} }} ]\n"

#: Longest wait for anything, in seconds.
PATIENCE = 240.0

#: Disks that somebody claims, with what a process has applied of them.
_CLAIMED = """
SELECT d.id, d.writer, d.watermark_bytes, coalesce((d.workers->>%s)::bigint, 0) AS applied
FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id
WHERE p.state = 'open' AND d.sealed_at IS NULL AND d.writer_until > now() AND d.watermark_bytes > 0
"""


class Hands:
    """What a worker process has in hand, found by looking again and again: rows don't name who holds a claim.

    Args:
        fleet: Where.
        pid: The process.
    """

    def __init__(self, fleet: Processes, pid: int) -> None:
        self._fleet = fleet
        self._name = f"worker@{socket.gethostname()}:{pid}"
        self._first: dict[tuple[UUID, int], int] = {}

    def claimed(self) -> list[Row]:
        """Return the disks that anybody claims; those that the process ever applied have ``applied`` above 0."""
        return self._fleet.rows(_CLAIMED, self._name)

    def held(self) -> dict[UUID, int]:
        """Return the disks that the process applied under the claim that holds now, with their watermarks."""
        claimed = self.claimed()
        for row in claimed:
            self._first.setdefault((row["id"], row["writer"]), row["applied"])
        return {
            row["id"]: row["watermark_bytes"]
            for row in claimed
            if row["applied"] > self._first[(row["id"], row["writer"])]
        }


def prepare(fleet: Processes, folder: Path, runs: int = RUNS) -> list[int]:
    """Make an agent and a job for each run, and return the jobs; a worker must run."""
    jobs = []
    for number in range(runs):
        disk = folder / f"disk-{number}.raw"
        disk.write_bytes(os.urandom(SIZE))
        fleet.add_agent(f"source{number}", [disk])
        jobs.append(fleet.add_job(f"job{number}", f"source{number}", {"data": disk}, _LIMITS))
    return jobs


def change(folder: Path) -> None:
    """Change all that the disks of all sources hold."""
    for disk in folder.glob("disk-*.raw"):
        disk.write_bytes(os.urandom(SIZE))


def begin(fleet: Processes, jobs: Sequence[int], streams: int) -> list[Run]:
    """Begin a run of each job, and wait until so many disks are being applied."""
    runs = [fleet.begin(job) for job in jobs]
    wait_for(lambda: len(fleet.rows(_CLAIMED, "")) >= streams, f"{streams} streams", PATIENCE)
    return runs


@dataclass(frozen=True, slots=True)
class Rolled:
    """What became of runs whose workers were restarted.

    Attributes:
        seconds: That the restarts took.
        slowest: Seconds of the slowest end of a worker.
        moved: Disks that more than one process has applied.
        aborted: Points that were given up.
        failed: Runs that didn't succeed.
    """

    seconds: float
    slowest: float
    moved: int
    aborted: int
    failed: int


def roll(fleet: Processes, workers: Sequence[str], runs: Sequence[Run]) -> Rolled:
    """Restart workers one after the other, as systemd does, and wait for the end of the runs."""
    began, ends = time.monotonic(), []
    for name in workers:
        wait_for(Hands(fleet, fleet.running[name].pid).held, f"work in the hands of {name}", PATIENCE)
        stopping = time.monotonic()
        fleet.running[name].stop()
        ends.append(time.monotonic() - stopping)
        fleet.start_again(name)
    seconds = time.monotonic() - began
    states = [fleet.ended(run, PATIENCE)["state"] for run in runs]
    moved = "SELECT count(*) AS n FROM boot_point_disk d WHERE (SELECT count(*) FROM jsonb_object_keys(d.workers)) > 1"
    aborted = "SELECT count(*) AS n FROM boot_point WHERE state IN ('aborting', 'aborted')"
    return Rolled(
        seconds, max(ends), _count(fleet, moved), _count(fleet, aborted), sum(state != "succeeded" for state in states)
    )


def add(fleet: Processes, name: str, *, slices: int) -> tuple[float, float]:
    """Start a worker while there is more work than others have hands for.

    Returns:
        Seconds from its start until it says that it serves, and until something that it applied is durable.
    """
    began = time.monotonic()
    hands = Hands(fleet, fleet.add_worker(name, slices=slices).pid)
    serves = time.monotonic() - began
    wait_for(lambda: any(row["applied"] for row in hands.claimed()), f"work in the hands of {name}", PATIENCE)
    return serves, time.monotonic() - began


def kill(fleet: Processes, name: str) -> tuple[float, int]:
    """Kill a worker, and wait until others have gone on with every disk that it had in hand.

    Returns:
        Seconds until the last of them went on, and how many there were.
    """
    pid = fleet.running[name].pid
    hands = Hands(fleet, pid)
    wait_for(lambda: len(hands.held()) > 1, f"disks in the hands of {name}", PATIENCE)
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    held = hands.held()  # its claims haven't run out yet
    wait_for(lambda: _gone_on(fleet, held), "others to go on", PATIENCE)
    return time.monotonic() - began, len(held)


def _gone_on(fleet: Processes, held: dict[UUID, int]) -> bool:
    rows = fleet.rows("SELECT id, watermark_bytes FROM boot_point_disk WHERE id = ANY(%s)", list(held))
    return all(row["watermark_bytes"] > held[row["id"]] for row in rows)


def _count(fleet: Processes, query: str) -> int:
    row = fleet.row(query)
    assert row is not None
    return int(row["n"])
