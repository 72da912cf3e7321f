"""Workers that come and go during ten runs: restarted one after the other, added, killed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.bench.rig import Rig, scratch
from tests.service import takeover
from tests.service.processes import processes

#: Worker processes that are restarted.
WORKERS = ("w1", "w2", "w3")

#: Streams under way: as many as a host has places.
STREAMS = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What was seen.

    Attributes:
        rolled: Of the restarts.
        serves: Seconds from a worker's start until it said that it serves.
        takes: Seconds from its start until something that it had applied was durable.
        killed: Seconds from the death of a worker until others had gone on with all its disks.
        disks: How many these were.
    """

    rolled: takeover.Rolled
    serves: float
    takes: float
    killed: float
    disks: int


def measure(made: Rig, directory: Path) -> Found:
    """Let workers come and go.

    Args:
        made: Whose servers are used; its own workers would take part, so the runs are another installation's.
        directory: Where the disks of the sources are made.
    """
    url, vhost = made.postgres.url(made.postgres.create_database()), made.broker.create_vhost()
    with scratch(directory) as folder, processes(url, vhost, made.fleet.libvirt, made.fleet.storage) as fleet:
        for name in WORKERS:
            fleet.add_worker(name)
        jobs = takeover.prepare(fleet, folder)
        rolled = takeover.roll(fleet, WORKERS, takeover.begin(fleet, jobs, STREAMS))
        takeover.change(folder)
        for name in WORKERS:
            fleet.running[name].stop()
        fleet.add_worker(WORKERS[0], slices=2)
        runs = takeover.begin(fleet, jobs, 2)
        serves, takes = takeover.add(fleet, WORKERS[1], slices=STREAMS)
        fleet.add_worker(WORKERS[2], slices=STREAMS)
        killed, disks = takeover.kill(fleet, WORKERS[1])
        for run in runs:
            fleet.succeeded(run, takeover.PATIENCE)
        return Found(rolled, serves, takes, killed, disks)
