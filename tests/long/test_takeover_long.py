"""Workers come and go while ten runs are under way: nothing is given up, and nobody waits long."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import takeover
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.processes import Processes, processes
from tests.service.rabbitmq import VirtualHost

pytestmark = pytest.mark.timeout(900)

#: Streams under way: as many as a host has places.
STREAMS = 8

#: Seconds until a worker that was added takes work, and until the disks of one that was killed go on elsewhere.
ADDED, KILLED = 3.0, 10.0


@pytest.fixture
def fleet(database: str, vhost: VirtualHost, libvirt_host: LibvirtHost, storage_directory: Path) -> Iterator[Processes]:
    need("qemu-img", "qemu-nbd", "libnbd")
    with processes(database, vhost, libvirt_host, storage_directory) as made:
        yield made


def assert_equal(fleet: Processes, folder: Path, number: int) -> None:
    """Compare the newest point of a job with its source, which nobody has written to."""
    row = fleet.row("SELECT run_uid FROM boot_point p JOIN run r ON r.uid = p.run_uid WHERE r.job_name = %s"
                    " AND p.state = 'committed'", f"job{number}")  # fmt: skip
    assert row is not None
    source = folder / f"disk-{number}.raw"
    for layer in fleet.disk_files(row["run_uid"]).values():
        subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(layer), str(source)], check=True)


def test_all_workers_are_restarted_during_ten_runs_and_no_point_is_given_up(fleet: Processes, tmp_path: Path) -> None:
    workers = ("w1", "w2", "w3")
    for name in workers:
        fleet.add_worker(name)
    runs = takeover.begin(fleet, takeover.prepare(fleet, tmp_path), STREAMS)
    rolled = takeover.roll(fleet, workers, runs)
    assert (rolled.aborted, rolled.failed) == (0, 0), fleet.logs()
    assert rolled.moved > 0, "no disk was in the midst of its stream"
    for number in range(takeover.RUNS):
        assert_equal(fleet, tmp_path, number)


def test_a_worker_that_is_added_takes_work_and_one_that_is_killed_leaves_it(fleet: Processes, tmp_path: Path) -> None:
    fleet.add_worker("w1", slices=2)
    runs = takeover.begin(fleet, takeover.prepare(fleet, tmp_path), 2)
    _, seconds = takeover.add(fleet, "w2", slices=STREAMS)
    assert seconds < ADDED
    fleet.add_worker("w3", slices=STREAMS)
    killed, disks = takeover.kill(fleet, "w2")
    assert disks > 1
    assert killed < KILLED
    for number, run in enumerate(runs):
        fleet.succeeded(run, takeover.PATIENCE)
        assert_equal(fleet, tmp_path, number)
