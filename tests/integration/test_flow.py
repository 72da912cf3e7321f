"""The main job in one process: agent, memory streams, workers, fake target, a real database."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.fleet import WITHOUT_SOCKET, Fleet, fleet


@pytest.fixture(params=["database", "debian_database"], ids=["embedded server", "debian server"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(request.getfixturevalue(request.param), tmp_path) as made:
        yield made


def write_random(path: Path, size: int, rng: random.Random, grains: int) -> None:
    """Write some random grains into a sparse file."""
    with path.open("r+b" if path.exists() else "w+b") as stream:
        stream.truncate(size)
        for _ in range(grains):
            stream.seek(rng.randrange(size // GRAIN) * GRAIN)
            stream.write(rng.randbytes(GRAIN))


def replica_content(installation: Fleet, job_id: int, host: str, point_id: UUID, slot: str) -> bytes:
    row = installation.row("SELECT id FROM replica WHERE job_id = %s", job_id)
    assert row is not None
    return FakeHost.at(host).content(row["id"], point_id, slot)


def test_each_run_leaves_a_point_that_equals_the_source(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    host = f"fake-{tmp_path.name}"
    disks = {"system": tmp_path / "system.raw", "data": tmp_path / "data.raw"}
    sizes = {"system": 48 * MiB, "data": 20 * MiB + 512}
    installation.add_worker("w1")
    host_id = installation.add_host(host)
    for slot, path in disks.items():
        write_random(path, sizes[slot], rng, 40)
    installation.add_agent("erp", list(disks.values()))
    job_id = installation.add_job("erp", "erp", disks, host_id)
    expected = []
    for _ in range(3):
        installation.wait(installation.run(job_id))
        expected.append({slot: path.read_bytes() for slot, path in disks.items()})
        write_random(disks["system"], sizes["system"], rng, 5)
    points = installation.points(job_id)
    assert [point.kind for point in points] == ["full", "increment", "increment"]
    for point, content in zip(points, expected, strict=True):
        for slot, data in content.items():
            assert replica_content(installation, job_id, host, point.id, slot) == data
    wire = installation.rows(
        "SELECT sum(d.wire_bytes) AS wire FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
        " GROUP BY p.sequence ORDER BY p.sequence"
    )
    assert wire[1]["wire"] < 6 * GRAIN * 1.2


def test_an_old_state_of_the_agent_is_no_base(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    """The agent's state lies on the disk that it protects: after a restore it is older than the replica."""
    host = f"fake-{tmp_path.name}"
    disk = tmp_path / "system.raw"
    installation.add_worker("w1")
    host_id = installation.add_host(host)
    write_random(disk, 64 * MiB, rng, 200)
    agent = installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    installation.wait(installation.run(job_id))
    first = disk.read_bytes()
    old = tmp_path / "old-state"
    shutil.copytree(tmp_path / "agent-erp", old, ignore=WITHOUT_SOCKET)
    write_random(disk, 64 * MiB, rng, 20)
    installation.wait(installation.run(job_id))
    agent.stop()
    shutil.rmtree(tmp_path / "agent-erp")
    shutil.copytree(old, tmp_path / "agent-erp")
    # As it was at the first point: seen from there nothing has changed, seen from the head 20 grains have.
    disk.write_bytes(first)
    installation.start_agent("erp", [disk])
    write_random(disk, 64 * MiB, rng, 3)
    installation.wait(installation.run(job_id))
    head = installation.points(job_id)[-1]
    assert replica_content(installation, job_id, host, head.id, "system") == disk.read_bytes()
    row = installation.row("SELECT reason FROM boot_point WHERE id = %s", head.id)
    assert row == {"reason": "base_lost"}


def test_a_standby_that_somebody_started_is_drift(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    host = f"fake-{tmp_path.name}"
    disk = tmp_path / "system.raw"
    installation.add_worker("w1")
    host_id = installation.add_host(host)
    write_random(disk, 8 * MiB, rng, 10)
    installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    installation.wait(installation.run(job_id))
    FakeHost.at(host).operator_start("erp-standby")
    FakeHost.at(host).guest_write("erp-standby", "system", 0, b"by a guest")
    write_random(disk, 8 * MiB, rng, 2)
    installation.wait(installation.run(job_id))
    head = installation.points(job_id)[-1]
    assert replica_content(installation, job_id, host, head.id, "system") == disk.read_bytes()
    row = installation.row("SELECT standby, drift FROM replica WHERE job_id = %s", job_id)
    assert row is not None
    assert row["standby"] == "running"
    assert row["drift"]
    assert installation.row("SELECT 1 AS found FROM event WHERE kind = 'drift'") == {"found": 1}
