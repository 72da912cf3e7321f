"""docs/deploy.md, pasted into a shell as it stands: the path of a new user from nothing to a fleet that is watched.

Containers are real, and so are the agents, each in a network namespace of its own, and the KVM host, which is an sshd
before a private libvirt. Between two blocks happens what may happen to an installation: an agent ends, a worker is
killed.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootpoint_common.units import GRAIN, MiB
from tests.service.component import need
from tests.service.composed import AGENTS, Composed, blocks, composed
from tests.service.containers import engine
from tests.service.host_server import HostServer
from tests.service.libvirt import LibvirtHost
from tests.service.process import run, wait_for
from tests.service.prometheus import panel_expressions

#: Bytes of a source's disk, and what of it is written: several times the credit window, so that a run can be caught.
SIZE, FULL = 320 * MiB, 256 * MiB

#: Seconds for all of it, images included.
PATIENCE = 2400.0

AGENT_SILENT = "BootpointAgentSilent"

#: Words of expressions about what hasn't happened to these jobs, which have then nothing to show.
NOT_YET = ("boot_check", 'kind="bootable"')


@contextmanager
def address() -> Iterator[str]:
    """Give this machine an address of the range for tests (RFC 2544), which containers reach through their gateway."""
    chosen = f"198.18.{random.SystemRandom().randrange(256)}.{random.SystemRandom().randrange(1, 255)}"
    run(["ip", "address", "add", f"{chosen}/32", "dev", "lo"])
    try:
        yield chosen
    finally:
        run(["ip", "address", "delete", f"{chosen}/32", "dev", "lo"])


@contextmanager
def host_at(where: str, libvirt: LibvirtHost) -> Iterator[HostServer]:
    with tempfile.TemporaryDirectory(prefix="bootpoint-sshd-") as name:
        host = HostServer(Path(name), libvirt, where)
        host.create()
        host.start()
        try:
            yield host
        finally:
            host.stop()


def write_random(path: Path, rng: random.Random, grains: int) -> None:
    """Write random grains to random places."""
    with path.open("r+b") as disk:
        for grain in rng.sample(range(SIZE // GRAIN), grains):
            disk.seek(grain * GRAIN)
            disk.write(rng.randbytes(GRAIN))


@pytest.fixture
def sources(rng: random.Random) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bootpoint-sources-", dir="/var/tmp") as name:
        for agent in AGENTS:
            (Path(name) / agent).mkdir(parents=True)
            disk = Path(name) / agent / "disk.raw"
            disk.touch()
            os.truncate(disk, SIZE)
            write_random(disk, rng, FULL // GRAIN // 8)
        yield Path(name)


def newest_equals(made: Composed, storage: Path, job: str, disk: Path) -> None:
    """Compare a job's newest point, as it lies on the host, with its source."""
    layer = made.engine.podman(
        "exec", made.container("postgres"), "psql", "-U", "bootpoint", "-At", "-c",
        "SELECT d.layer FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id JOIN replica y ON y.head = p.id"
        f" WHERE y.job_name = '{job}'",
    ).strip()  # fmt: skip
    (file,) = storage.rglob(layer)
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(file), str(disk)], check=True)


@pytest.mark.long
@pytest.mark.timeout(PATIENCE)
def test_the_path_of_a_new_user(
    libvirt_host: LibvirtHost, storage_directory: Path, sources: Path, rng: random.Random
) -> None:
    need("sshd", "libnbd", "qemu-img", "qemu-nbd")
    with engine() as containers, address() as here, host_at(here, libvirt_host) as host:
        given = {
            "KVM_HOST": here, "KVM_PORT": str(host.port), "VIRT_TYPE": "qemu",
            "STORAGE": str(storage_directory), "SOURCES": str(sources),
        }  # fmt: skip
        with composed(containers, given, here) as made:
            follow(made, host, storage_directory, sources, rng)
        assert made.containers() == []


def follow(made: Composed, host: HostServer, storage: Path, sources: Path, rng: random.Random) -> None:
    """Paste the page, and look at what came of each part."""
    outputs = {}
    for block in blocks():
        if "up -d --no-recreate" in block and "KVM_WORKERS=3" in block:
            watched(made)
            silent_agent(made)
        if "docker rm -f agent" in block:
            killed_worker(made, sources, rng)
            newest_equals(made, storage, "erp-db", sources / "erp-db/disk.raw")
        if "docker compose build" in block and "compose ps" in block:
            missing_secret(made)
        outputs[block] = made.paste(block)
        if "ssh-keygen" in block:
            host.authorize((made.directory / "files/kvm1.key.pub").read_text())
        if "point verify erp-db" in block:
            for agent in AGENTS:
                newest_equals(made, storage, agent, sources / agent / "disk.raw")
    said = "\n".join(outputs.values())
    assert "kvm1 is reachable" in said or re.search(r"kvm1 .*reachable", said), said
    assert re.search(r"^erp-db +online", said, re.MULTILINE), said
    assert (made.directory / "backup/bootpoint.dump").stat().st_size > 10_000
    assert len((made.directory / "backup/installation.key").read_text().strip()) == 64
    assert not [name for name in made.containers() if not name.startswith("agent-")]


def missing_secret(made: Composed) -> None:
    """Without one of the secrets nothing is started with a password of its own making, and the file is named."""
    secret = made.directory / "secrets/database_password"
    away = secret.rename(secret.with_suffix(".away"))
    with pytest.raises(RuntimeError, match="secrets/database_password: no such file"):
        made.paste("docker compose up -d --no-deps postgres")
    assert made.containers() == []
    away.rename(secret)


def watched(made: Composed) -> None:
    """What boards show is there: the number that matters of both jobs, both agents, and the pool; then every panel."""

    def seen() -> bool:
        ages = {s["metric"]["job"] for s in made.samples("bootpoint_newest_point_age_seconds")}
        agents = {s["metric"]["agent"] for s in made.samples("bootpoint_agent_last_seen_seconds < 30")}
        served = made.samples('bootpoint_worker_up{pool="kvm"} == 1')
        return ages == agents == set(AGENTS) and bool(served) and bool(made.samples('up{job="rabbitmq"} == 1'))

    made.wait_for(seen, "the metrics of both jobs")
    every_panel(made)


def every_panel(made: Composed) -> None:
    """Every expression of every board has numbers, but those about what hasn't happened yet."""
    empty = {text for text in panel_expressions("erp-db") if not any(word in text for word in NOT_YET)}

    def shown() -> bool:
        empty.difference_update([text for text in empty if made.samples(text)])
        return not empty

    try:
        wait_for(shown, "numbers")
    except TimeoutError:
        pytest.fail("no data: " + "\n".join(sorted(empty)))


def silent_agent(made: Composed) -> None:
    """An agent that ends is named by an alert, the other one isn't; back again, it is forgotten."""
    assert not [alert for alert in made.firing() if alert[0] == AGENT_SILENT]
    made.engine.podman("stop", "--time", "20", "agent-web")
    made.wait_for(lambda: (AGENT_SILENT, "web") in made.firing(), "the alert of the agent that ended", 120)
    assert (AGENT_SILENT, "erp-db") not in made.firing()
    made.engine.podman("start", "agent-web")
    made.wait_for(lambda: (AGENT_SILENT, "web") not in made.firing(), "the end of the alert", 120)


def killed_worker(made: Composed, sources: Path, rng: random.Random) -> None:
    """With three workers the one that copies a disk is killed: the others go on, and the point is whole."""
    workers = [name for name in made.containers() if "_worker-kvm_" in name]
    assert len(workers) == 3, workers
    served = [name for name in made.containers() if "_worker-" in name or "_scheduler_" in name]
    scraped = 'up{job="bootpoint-worker"} == 1'
    made.wait_for(lambda: len(made.samples(scraped)) == len(served), "every worker and the scheduler to be scraped")
    write_random(sources / "erp-db/disk.raw", rng, FULL // GRAIN)
    begun = made.cli("job", "run", "erp-db")

    def writer() -> str | None:
        query = (
            "SELECT (SELECT key FROM jsonb_each_text(d.workers) LIMIT 1) FROM boot_point_disk d"
            " JOIN boot_point p ON p.id = d.point_id WHERE p.state = 'open' AND d.watermark_bytes > 0"
        )
        found = made.engine.podman(
            "exec", made.container("postgres"), "psql", "-U", "bootpoint", "-At", "-c", query
        ).strip()
        return found.partition("@")[2].partition(":")[0] or None

    host_name = made.wait_for(writer, "a worker to copy")
    ids = {made.engine.podman("inspect", "--format", "{{.Config.Hostname}}", name).strip(): name for name in workers}
    made.kill(ids[host_name])
    # Its claim runs for some seconds yet, so nobody can have ended the run.
    assert made.cli("run", "show", str(begun["id"]))["state"] == "running"

    def ended() -> str | None:
        shown = made.cli("run", "show", str(begun["id"]))
        return None if shown["state"] in ("waiting", "running") else str(shown["state"])

    assert made.wait_for(ended, "the end of the run", 240) == "succeeded", made.logs()
