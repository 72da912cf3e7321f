"""Real processes with wrong clocks: agents and workers a day ahead and a day behind. What counts is the database's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.processes import HOST, Processes, processes
from tests.service.rabbitmq import VirtualHost
from tests.service.round import Subject

#: Seconds.
DAY = 86400


@pytest.fixture
def fleet(database: str, vhost: VirtualHost, libvirt_host: LibvirtHost, storage_directory: Path) -> Iterator[Processes]:
    need("qemu-img", "qemu-nbd", "libnbd", "clang")
    with processes(database, vhost, libvirt_host, storage_directory) as made:
        yield made


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("agent", "worker"), [(DAY, -DAY), (-DAY, DAY)])
def test_processes_whose_clocks_are_days_apart_do_their_work_and_the_times_are_right(
    agent: int, worker: int, fleet: Processes, tmp_path: Path, rng: random.Random
) -> None:
    source = tmp_path / "source.raw"
    source.touch()
    fleet.clocks |= {"erp": agent, "w1": worker, "scheduler": worker}
    fleet.add_worker("w1")
    fleet.add_scheduler("scheduler")
    fleet.add_agent("erp", [source])
    subject = Subject(fleet, "erp", source, rng, lambda: None)
    subject.make()
    for _ in range(2):
        subject.write(4 << 20)
        fleet.succeeded(subject.begin())
        subject.check()
    now = datetime.now(UTC)
    instants = [row["instant"] for row in fleet.rows("SELECT instant FROM boot_point ORDER BY sequence")]
    assert instants == sorted(instants)
    assert all(now - timedelta(minutes=5) < instant < now + timedelta(seconds=5) for instant in instants)
    told = fleet.rows("SELECT text FROM event WHERE kind = 'clock_skew'")
    assert len(told) == 3, told
    # A clock that is behind is known to be as far off as the run had not begun yet: some seconds less.
    assert all(row["text"].endswith("ahead" if agent > 0 else "behind") for row in told), told
    # Live questions are answered in time, by the agent and by the worker.
    assert fleet.bootpoint("disk", "list", "erp")["agent"] == "erp"
    assert fleet.bootpoint("host", "show", HOST)["state"] == "reachable"
    assert fleet.bootpoint("status")["items"] == []
