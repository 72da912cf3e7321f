"""A fleet that is encrypted throughout: certificates are renewed, and processes restarted, in the midst of a run."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from bootpoint_ops.certificate import Purpose
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import PostgresServer, debian_server
from tests.service.process import wait_for
from tests.service.processes import Processes, processes
from tests.service.rabbitmq import VirtualHost
from tests.service.tls import certificate, encrypt
from tests.system.test_fleet import assert_equal, write_random

#: Bytes of the disk: several credit windows, so that a run is caught in its midst.
SIZE = 256 * MiB


@pytest.fixture
def encrypted_postgres(vhost: VirtualHost) -> Iterator[PostgresServer]:
    """A server of the broker's authority, which lets `worker` in by certificate only."""
    with debian_server() as server:
        made = certificate(vhost.broker.certificates, Purpose.DATABASE, "", "127.0.0.1")
        folder = Path(shutil.copytree(made, server.directory / "tls"))
        encrypt(server, folder, "hostssl all worker all cert\nhostnossl all worker all reject\n")
        server.start()
        server.execute("CREATE ROLE worker LOGIN SUPERUSER")
        yield server


@pytest.fixture
def fleet(
    encrypted_postgres: PostgresServer, vhost: VirtualHost, libvirt_host: LibvirtHost, storage_directory: Path
) -> Iterator[Processes]:
    need("qemu-img", "qemu-nbd", "libnbd")
    name = encrypted_postgres.create_database()
    with processes(encrypted_postgres.url(name), vhost, libvirt_host, storage_directory) as made:
        folder = str(certificate(vhost.broker.certificates, Purpose.CLIENT, "worker"))
        made.login = encrypted_postgres.url(name).replace("postgres@", "worker@", 1)
        made.environment |= {
            "BOOTPOINT_DATABASE_URL": made.login,
            "BOOTPOINT_DATABASE_TLS": folder,
            "BOOTPOINT_BROKER_URL": vhost.tls_url,
            "BOOTPOINT_BROKER_TLS": folder,
            "BOOTPOINT_METRICS_TLS": str(certificate(vhost.broker.certificates, Purpose.METRICS, "", "127.0.0.1")),
        }
        yield made


@pytest.mark.timeout(600)
def test_a_renewal_loses_no_run(fleet: Processes, vhost: VirtualHost, tmp_path: Path, rng: random.Random) -> None:
    disk = tmp_path / "system.raw"
    disk.touch()
    with disk.open("r+b") as stream:
        stream.truncate(SIZE)
    write_random(disk, rng, list(range(SIZE // 65536)))
    authority = vhost.broker.certificates
    agent_folder = certificate(authority, Purpose.AGENT, "erp")
    for name in ("w1", "w2"):
        fleet.add_worker(name)
    fleet.add_scheduler("scheduler")
    fleet.configure_agent("erp", [disk])
    with fleet._agent_file("erp").open("a") as file:
        file.write(f'tls = "{agent_folder}"\n')
    fleet.agent_command("erp", "join", "-", text=fleet.enroll("erp"))
    fleet.start_agent("erp")
    assert "answers" in fleet.agent_command("erp", "status")
    job = fleet.add_job("erp", "erp", {"system": disk})

    run = fleet.begin(job)
    fleet.wait_for_row("the stream's first bytes", "SELECT 1 FROM boot_point_disk WHERE watermark_bytes > 0")
    for purpose, name in ((Purpose.CLIENT, "worker"), (Purpose.AGENT, "erp")):
        before = authority / f"{purpose}-{name}" / "cert.pem"
        old = before.read_bytes()
        before.with_name("key.pem").unlink()
        assert certificate(authority, purpose, name) == before.parent
        assert before.read_bytes() != old
    for name in ("w1", "w2", "scheduler"):
        server = fleet.running[name]
        server.stop(signal.SIGTERM)
        fleet.start_again(name)
    fleet.succeeded(run, seconds=300.0)

    (layer,) = fleet.disk_files(run.uid).values()
    assert_equal(layer, disk, tmp_path / "converted.raw")
    assert {row["ssl"] for row in fleet.rows(
        "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'worker'"
    )} == {True}  # fmt: skip
    encrypted = wait_for(lambda: vhost.broker.ctl("list_connections", "-q", "ssl", "vhost"), "the broker's connections")
    here = [line.split()[0] for line in encrypted.splitlines() if line.endswith(vhost.name)]
    assert here
    assert set(here) == {"true"}
