"""Runs with limits: they take their time, take a new limit at once, and end with the right content."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bootpoint_common import message
from bootpoint_common.job import Limits, Rate
from bootpoint_common.store import ending, limit
from bootpoint_common.store import run as runs
from bootpoint_common.stream.memory_queue import MemoryPublisher
from bootpoint_common.units import KiB, MiB
from bootpoint_producer import agent
from bootpoint_producer.throttle import BURST_SECONDS, piece_bytes
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.fleet import Fleet, fleet
from tests.service.postgres import PostgresServer
from tests.service.process import wait_for

#: How far a rate may be off over 10 s; what passes at once weighs more in less.
TOLERANCE = 0.05

#: The nice value of the tests themselves, and one below which runs don't get; what ionice shows of it.
OWN = os.getpriority(os.PRIO_PROCESS, 0)
LOW = max(OWN, 7), f"best-effort: prio {(max(OWN, 7) + 20) // 5}"

#: The largest piece at 1 MiB a second.
PIECE = piece_bytes(MiB, MiB)

_numbers = count(1)


@pytest.fixture(scope="module")
def installation(
    postgres_server: PostgresServer, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """One installation for all tests here; each makes a host, an agent and a job of its own."""
    name = postgres_server.create_database(template_database)
    try:
        with fleet(postgres_server.url(name), tmp_path_factory.mktemp("throttled")) as made:
            for worker in ("w1", "w2"):
                made.add_worker(worker, slices=1)
            yield made
    finally:
        postgres_server.drop_database(name)


class Limited:
    """A job with limits, alone with its host and its agent."""

    def __init__(self, fleet: Fleet, disks: dict[str, Path], limits: dict[str, Any], **host: Any) -> None:
        self.fleet, self.disks = fleet, disks
        self.name = f"erp-{next(_numbers)}"
        self.host = f"fake-{self.name}"
        host_id = fleet.add_host(self.host, settings=host)
        fleet.add_agent(self.name, list(disks.values()))
        self.job = fleet.add_job(self.name, self.name, disks, host_id, limits=limits)

    def assert_right(self) -> None:
        """Require that the only point is what the disks are."""
        (point,) = self.fleet.points(self.job)
        for slot, path in self.disks.items():
            assert FakeHost.at(self.host).content(point.replica_id, point.id, slot) == path.read_bytes()


def priorities(name: str) -> set[tuple[int, str]]:
    """Return the nice value and the I/O priority of this process's threads of a name, as the system shows them."""
    found = set()
    for thread in threading.enumerate():
        if thread.name.startswith(name) and thread.native_id is not None:
            stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
            shown = subprocess.run(["ionice", "-p", str(thread.native_id)], capture_output=True, text=True, check=True)
            found.add((int(stat[16]), shown.stdout.strip()))
    return found


def test_a_run_keeps_to_its_limits_and_takes_new_ones_at_once(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    disk = tmp_path / "system.raw"
    disk.write_bytes(rng.randbytes(16 * MiB))
    slow = {"nice": 7, "read_bytes_per_second": 4 * MiB, "network_kb_per_second": [{"value": 1024}]}
    limited = Limited(installation, {"system": disk}, slow)
    run = installation.run(limited.job)
    wait_for(lambda: priorities("compress"), "the threads of the run")
    assert priorities("feed") == priorities("scan") == priorities("compress") == {LOW}
    assert {nice for nice, _ in priorities("agent") | priorities("run")} == {OWN}

    query = "SELECT d.applied_bytes AS n FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id AND run_uid = %s"
    row = installation.row(query, run.uid)
    assert row is not None
    began, left = time.monotonic(), (16 * MiB - row["n"]) / MiB
    installation.apply(limited.job, limits=Limits(nice=19, network=(Rate(kb_per_second=8192),)))
    wait_for(lambda: (19, "idle") in priorities("feed"), "the new priority", 5.0)
    installation.wait(run)
    took = time.monotonic() - began
    assert left / 8.0 * (1 - TOLERANCE) - 0.5 < took < left, f"{left:.1f} MiB in {took:.1f} s"
    limited.assert_right()


def most_in_a_second(passed: list[tuple[float, int]]) -> int:
    """Return the most bytes that passed within any second."""
    return max(sum(size for at, size in passed if began <= at < began + 1.0) for began, _ in passed)


@pytest.mark.parametrize("by", ["agent", "workers"])
def test_all_disks_of_a_run_share_one_limit(
    installation: Fleet, tmp_path: Path, rng: random.Random, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the host is the worker's own machine only the agent limits; where little is sent, only the workers do."""
    disks = {slot: tmp_path / f"{slot}.raw" for slot in ("system", "data")}
    for path in disks.values():
        path.write_bytes(rng.randbytes(MiB) if by == "agent" else (b"again and again " * MiB)[:MiB])
    limited = Limited(installation, disks, {"network_kb_per_second": [{"value": 1024}]}, over_network=by == "workers")
    passed: list[tuple[float, int]] = []
    if by == "agent":
        publish = MemoryPublisher.publish

        def noted(publisher: MemoryPublisher, stream: UUID, body: bytes) -> int:
            passed.append((time.monotonic(), len(body)))
            return publish(publisher, stream, body)

        monkeypatch.setattr(MemoryPublisher, "publish", noted)
    else:
        FakeHost.at(limited.host).act_at(
            "write", "called", lambda _: passed.append((time.monotonic(), PIECE)), times=1 << 30
        )
    installation.wait(installation.run(limited.job))
    assert sum(size for _, size in passed) >= 2 * MiB
    assert most_in_a_second(passed) <= MiB * (1.0 + BURST_SECONDS) + 2 * PIECE
    limited.assert_right()


def test_nothing_is_limited_before_a_machine_stops(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    disk = tmp_path / "system.raw"
    disk.write_bytes(rng.randbytes(2 * MiB))
    limited = Limited(installation, {"system": disk}, {"nice": 19, "network_kb_per_second": [{"value": 64}]})
    with installation.database.transaction() as connection:
        run = runs.create(connection, limited.job, trigger="event", requested_by="test", last_breath=True)
    installation.wait(run)
    row = installation.row("SELECT sealed_at - opened_at AS took FROM boot_point WHERE run_uid = %s", run.uid)
    assert row is not None
    assert row["took"].total_seconds() < 16.0, "32 s at 64 KB/s"
    limited.assert_right()


def test_workers_that_wait_let_go_of_a_cancelled_run(installation: Fleet, tmp_path: Path) -> None:
    disks = {slot: tmp_path / f"{slot}.raw" for slot in ("system", "data")}
    for path in disks.values():
        path.write_bytes(b"x" * MiB)
    run = installation.run(Limited(installation, disks, {"network_kb_per_second": [{"value": 64}]}).job)
    query = (
        "SELECT 1 FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
        " WHERE p.run_uid = %s AND d.writer_until > now()"
    )
    installation.wait_until(lambda: installation.row(query, run.uid))
    with installation.database.transaction() as connection:
        ending.cancel(connection, run.id, actor="test")
    installation.wait(run, state="cancelled", seconds=5.0)
    # Each of the two workers has one thread for streams: it is free again.
    other = Limited(installation, disks, {})
    installation.wait(installation.run(other.job), seconds=10.0)
    other.assert_right()


def test_the_bucket_of_all_workers_is_right_within_5_percent_over_10_seconds(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    job = Limited(installation, {"a": tmp_path / "a"}, {}).job
    start, rate = datetime(2026, 11, 26, 12, 0, tzinfo=UTC), 8 * MiB
    free_at, sent = [0.0] * 3, 0
    with installation.database.transaction() as connection:
        while (now := min(free_at)) < 10.0:
            worker, size = free_at.index(now), rng.randrange(1, 900 * KiB)
            owed = limit.reserve(connection, job, size, rate, at=start + timedelta(seconds=now))
            free_at[worker] = now + owed / rate
            sent += size if free_at[worker] <= 10.0 else 0
    assert sent == pytest.approx(10.0 * rate, rel=TOLERANCE)


def test_an_agent_that_missed_new_limits_is_told_with_its_next_heartbeat(
    installation: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "HEARTBEAT_SECONDS", 0.5)
    disk = tmp_path / "system.raw"
    disk.write_bytes(random.randbytes(2 * MiB))
    limited = Limited(installation, {"system": disk}, {"network_kb_per_second": [{"value": 64}]})
    (going,) = [each for name, each in installation.agents.items() if name == limited.name]
    take, lost = going._hear, list[bytes]()

    def lossy(body: bytes) -> None:
        if isinstance(going._link.open(body), message.NewLimits) and not lost:
            lost.append(body)
        else:
            take(body)

    monkeypatch.setattr(going, "_hear", lossy)
    run = installation.run(limited.job)
    wait_for(lambda: going._runs, "the run at the agent")
    installation.apply(limited.job, limits=Limits())
    installation.wait(run, seconds=20.0)
    assert lost
    limited.assert_right()
