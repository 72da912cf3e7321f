"""The main job over a real RabbitMQ: two worker processes, a scheduler and an agent process, a KVM host."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.units import GRAIN, MiB
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.processes import Processes, processes
from tests.service.rabbitmq import VirtualHost

#: Bytes that the first run copies: several times the credit window, so that it is caught in its midst.
FULL = 192 * MiB


@pytest.fixture
def fleet(database: str, vhost: VirtualHost, libvirt_host: LibvirtHost, storage_directory: Path) -> Iterator[Processes]:
    need("qemu-img", "qemu-nbd", "libnbd")
    with processes(database, vhost, libvirt_host, storage_directory) as made:
        yield made


def write_random(path: Path, rng: random.Random, grains: list[int]) -> None:
    """Write random grains, which no compression makes smaller."""
    with path.open("r+b") as stream:
        for grain in grains:
            stream.seek(grain * GRAIN)
            stream.write(rng.randbytes(GRAIN))


def assert_equal(layer: Path, expected: Path, scratch: Path) -> None:
    """Compare a point with a plain copy of its source, in qemu's way and byte for byte."""
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(layer), str(expected)], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(layer), str(scratch)], check=True)
    subprocess.run(["cmp", str(scratch), str(expected)], check=True)
    scratch.unlink()


@pytest.mark.timeout(240)
def test_points_equal_their_source_and_slices_move_between_workers(
    fleet: Processes, tmp_path: Path, rng: random.Random
) -> None:
    disks = {"system": tmp_path / "system.raw", "data": tmp_path / "data.raw"}
    sizes = {"system": FULL + 64 * MiB, "data": 24 * MiB + 512}
    for slot, path in disks.items():
        path.touch()
        with path.open("r+b") as stream:
            stream.truncate(sizes[slot])
    write_random(disks["system"], rng, rng.sample(range(sizes["system"] // GRAIN), FULL // GRAIN))
    write_random(disks["data"], rng, rng.sample(range(sizes["data"] // GRAIN), 100))
    fleet.add_worker("w1")
    fleet.add_scheduler("scheduler")
    fleet.add_agent("erp", list(disks.values()))
    job = fleet.add_job("erp", "erp", disks)

    made, copies = [], []
    for number in range(3):
        copies.append({slot: Path(shutil.copy(path, tmp_path / f"{slot}-{number}")) for slot, path in disks.items()})
        run = fleet.begin(job)
        if number == 0:
            hand_over(fleet, run.uid)
        fleet.succeeded(run)
        made.append(run)
        write_random(disks["system"], rng, rng.sample(range(sizes["system"] // GRAIN), 40))
        if number == 0:
            write_random(disks["data"], rng, rng.sample(range(sizes["data"] // GRAIN), 10))

    for run, expected in zip(made, copies, strict=True):
        files = fleet.disk_files(run.uid)
        assert set(files) == set(disks)
        for slot, layer in files.items():
            assert_equal(layer, expected[slot], tmp_path / "converted.raw")
    applied = fleet.rows("SELECT workers FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id")
    assert len({worker for row in applied for worker, count in row["workers"].items() if count > 0}) == 2
    assert any(len(row["workers"]) == 2 for row in applied), "no slice moved"
    assert fleet.wire_bytes(made[2].uid) <= 1.2 * 40 * GRAIN
    assert fleet.rows("SELECT text FROM event WHERE kind = 'base_lost'") == []
    points = fleet.bootpoint("point", "list", "erp")["items"]
    assert sorted(point["kind"] for point in points) == ["full", "increment", "increment"]
    assert {point["state"] for point in points} == {"committed"}


def hand_over(fleet: Processes, run_uid: object) -> None:
    """End the only worker in the midst of the large disk, and let another one go on."""
    query = (
        "SELECT d.watermark_bytes FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
        " WHERE p.run_uid = %s AND d.slot = 'system' AND p.state = 'open' AND d.watermark_bytes > 0"
    )
    fleet.wait_for_row("the first bytes", query, run_uid)
    fleet.running["w1"].stop()
    caught = fleet.row(query, run_uid)
    assert caught is not None
    assert 0 < caught["watermark_bytes"] < FULL
    fleet.add_worker("w2")


def test_an_agent_says_who_it_is_and_refuses_to_run_on_another_machine(fleet: Processes, tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"x" * MiB)
    fleet.add_worker("w1")
    agent = fleet.add_agent("erp", [source])
    fleet.wait_for_row("the agent's hello", "SELECT 1 AS online FROM agent WHERE incarnation IS NOT NULL")
    status = json.loads(fleet.agent_command("erp", "status", "-o", "json"))
    assert (status["agent"], status["broker"], status["bases"]) == ("erp", "answers", [])
    disks = json.loads(fleet.agent_command("erp", "disks", "-o", "json"))
    assert f"file:{source}" in [item["id"] for item in disks["items"]]
    assert f"file:{source}" in fleet.agent_command("erp", "disks")

    second = subprocess.run(fleet.agent_words("erp", "run"), env=fleet.environment, capture_output=True, text=True)
    assert second.returncode == 1
    assert "runs already" in second.stderr

    agent.stop()
    assert "Traceback" not in agent.tail()
    identity = fleet.agent_state("erp") / "identity.json"
    stored = json.loads(identity.read_text())
    stored["machine"] = {"smbios_uuid": "0c1d9c3e-0000-4000-8000-00000000ffff", "disk_serials": ["another disk"]}
    identity.write_text(json.dumps(stored))
    for words in (["run"], ["status"]):
        copy = subprocess.run(fleet.agent_words("erp", *words), env=fleet.environment, capture_output=True, text=True)
        assert copy.returncode == 4
        assert "join again" in copy.stderr


def test_a_join_without_an_answer_says_what_may_be_wrong_and_is_finished_later(
    fleet: Processes, tmp_path: Path
) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"x" * MiB)
    fleet.configure_agent("erp", [source])

    def join(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = fleet.agent_words("erp", "join", *words)
        return subprocess.run(command, input=text, env=fleet.environment, capture_output=True, text=True)

    refused = join("bp1.secret")
    assert refused.returncode == 2
    assert "stdin" in refused.stderr
    assert join("-", text="bp1.cut").returncode == 2
    # A worker that makes the exchanges and the pool's queue once, and is gone.
    fleet.add_worker("w1").stop()
    token = fleet.enroll("erp")
    unanswered = join("-", "--timeout", "2", text=token)
    assert unanswered.returncode == 1
    assert "is spent or has expired" in unanswered.stderr
    fleet.add_worker("w2")
    fleet.wait_for_row("the join", "SELECT 1 AS joined FROM agent WHERE key IS NOT NULL")
    assert join("-", text=token).returncode == 0
    spent = subprocess.run(
        [*fleet.agent_words("erp", "join", "-", "--timeout", "2")[:-1], str(tmp_path / "elsewhere")],
        input=token,
        env=fleet.environment,
        capture_output=True,
        text=True,
    )
    assert spent.returncode == 1
    fleet.start_agent("erp")
    fleet.wait_for_row("the agent's hello", "SELECT 1 AS online FROM agent WHERE incarnation IS NOT NULL")
    refusal = fleet.row("SELECT * FROM event WHERE kind = 'message_refused'")
    assert refusal is not None
    assert "token" in refusal["text"]
