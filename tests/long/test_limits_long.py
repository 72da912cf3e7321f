"""Limits in real time over 10 s: at the agent with its disks and streams, and over two workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from bootpoint_common.identity import new_id
from bootpoint_common.job import Limits, Rate
from bootpoint_common.store.claim import Claim
from bootpoint_common.units import KiB, MiB
from bootpoint_producer.limit import RunLimits
from bootpoint_worker.pace import Pace
from tests.service.fleet import Fleet, fleet
from tests.service.load import Load

#: How far a rate may be off over 10 s.
SECONDS, TOLERANCE = 10.0, 0.05


@pytest.mark.parametrize("kb", [500, 2048, 16384])
def test_an_agent_is_right_within_5_percent_over_10_seconds(tmp_path: Path, kb: int) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(MiB))
    run, rate = RunLimits(), kb * KiB
    run.change({"nice": 0, "read_bytes_per_second": rate, "network_kb_per_second": [{"value": kb}]}, None, 1)
    read, taken = Load(run, disk, disks=2, streams=3).measure(SECONDS)
    assert read == pytest.approx(rate, rel=TOLERANCE)
    assert taken == pytest.approx(rate, rel=TOLERANCE)


@pytest.fixture
def limited(database: str, tmp_path: Path) -> Iterator[tuple[Fleet, int, UUID]]:
    """Two workers, and a job of 8 MiB/s with a run that none of them takes up."""
    with fleet(database, tmp_path) as installation:
        host_id = installation.add_host(f"fake-{tmp_path.name}")
        installation.add_agent("erp", [])
        limits = {"network_kb_per_second": [{"value": 8192}]}
        job_id = installation.add_job("erp", "erp", {"a": tmp_path / "a"}, host_id, limits=limits)
        run = installation.run(job_id)
        for name in ("w1", "w2"):
            installation.add_worker(name, pools=("nobody",))
        yield installation, job_id, run.uid


def test_two_workers_share_the_limit_and_take_a_new_one_at_once(limited: tuple[Fleet, int, UUID]) -> None:
    installation, job_id, run_uid = limited
    sent, over = [0, 0], threading.Event()

    def send(number: int) -> None:
        held = Claim(installation.database, "boot_point_disk", new_id(), 1, renewing=False)
        pace = Pace(installation.services[number]._context, run_uid, held)
        while not over.is_set():
            pace.wait(256 * KiB)
            sent[number] += 256 * KiB

    def measure(seconds: float) -> float:
        before, began = sum(sent), time.monotonic()
        over.wait(seconds)
        return (sum(sent) - before) / (time.monotonic() - began)

    threads = [threading.Thread(target=send, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        assert measure(SECONDS) == pytest.approx(8 * MiB, rel=TOLERANCE)
        installation.apply(job_id, limits=Limits(network=(Rate(kb_per_second=2048),)))
        measure(1.5)
        assert measure(SECONDS) == pytest.approx(2 * MiB, rel=TOLERANCE)
        assert min(sent) > sum(sent) / 4
    finally:
        over.set()
        for thread in threads:
            thread.join()
