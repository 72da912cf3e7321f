"""The packages in a bare Debian: installed, used, upgraded, removed, without a compiler, pip, or a trace at the end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.enrolment import Token
from bootpoint_common.store import agent as agents
from bootpoint_common.stream.rabbit import agent_permissions
from bootpoint_common.units import MiB
from bootpoint_worker.targets.fake_host import FakeHost
from tests.integration.test_flow import replica_content
from tests.service import package
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.package import Debian
from tests.service.process import Server
from tests.service.rabbit_fleet import RabbitBroker, rabbit_broker
from tests.service.rabbitmq import VirtualHost

pytestmark = pytest.mark.timeout(1800)

#: What a source must not need.
BUILDERS = ("gcc", "cc", "g++", "clang", "make", "pip", "pip3")

#: The whole of the agent's configuration.
CONFIG = 'files = ["file:/srv/erp.raw"]\nsnapshot = "none"\n'


@pytest.fixture(scope="module")
def agent_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("root", "mmdebstrap", "dpkg")
    return package.build(tmp_path_factory.mktemp("packages"), "bootpoint-agent")


@pytest.fixture
def installation(database: str, tmp_path: Path, vhost: VirtualHost) -> Iterator[Fleet]:
    with rabbit_broker(vhost) as broker, fleet(database, tmp_path, broker) as made:
        yield made


def token_for(installation: Fleet, vhost: VirtualHost) -> str:
    """Enroll the machine, with its own login at the broker."""
    secret = secrets.token_bytes(32)
    with installation.database.transaction() as connection:
        encrypted = installation.vault.encrypt(agents.join_purpose("erp-db"), secret)
        agents.enroll(connection, "erp-db", "fake", encrypted)
    url = RabbitBroker(vhost).login("erp-db", agent_permissions("erp-db"))
    return Token("erp-db", "fake", url, "", secret).encode()


def start(machine: Debian, log: Path) -> Server:
    """Start the agent as its unit does."""
    server = Server(machine.words("bootpoint-agent", "run"), log=log, environment=machine.environment)
    before = log.stat().st_size if log.exists() else 0
    server.start(lambda: b"agent erp-db runs" in log.read_bytes()[before:], "the agent")
    return server


def test_a_source_needs_the_package_alone_and_keeps_nothing_of_it(
    agent_package: Path, installation: Fleet, vhost: VirtualHost, tmp_path: Path
) -> None:
    machine = package.debian(agent_package, tmp_path / "machine")
    assert not [name for name in BUILDERS if (machine.root / "usr/bin" / name).exists()]
    disk = machine.root / "srv/erp.raw"
    disk.write_bytes(os.urandom(6 * MiB))
    before = machine.files()
    machine.apt("install", f"/root/packages/{agent_package.name}")
    assert "join" in machine.run("bootpoint-agent", "--help")
    assert "bootpoint_worker" not in {path.name for path in (machine.root / "usr/lib/bootpoint-agent").iterdir()}
    (machine.root / "etc/bootpoint/agent.toml").write_text(CONFIG)
    installation.add_worker("w1")
    machine.run("bootpoint-agent", "join", "-", text=token_for(installation, vhost))
    installed = machine.files()

    host = FakeHost.at(f"fake-{tmp_path.name}")
    job = installation.add_job("erp", "erp-db", {"data": Path("/srv/erp.raw")}, installation.add_host(host.name))
    agent = start(machine, tmp_path / "agent.log")
    try:
        for _ in range(2):
            with disk.open("r+b") as file:
                file.write(os.urandom(MiB))
            installation.wait(installation.run(job))
            point = installation.points(job)[-1]
            assert replica_content(installation, job, host.name, point.id, "data") == disk.read_bytes()
    finally:
        agent.stop()
    assert "Traceback" not in agent.tail()
    grown = {name for name in machine.files() - installed if not name.startswith("var/lib/bootpoint-agent/")}
    assert grown == set(), "a program that runs leaves nothing among its own files"

    # Upgraded, the agent goes on where it was; removed, it keeps its key for a machine that thinks better of it.
    machine.apt("install", "--reinstall", f"/root/packages/{agent_package.name}")
    assert (machine.root / "etc/bootpoint/agent.toml").read_text() == CONFIG
    machine.apt("remove", "bootpoint-agent")
    assert (machine.root / "var/lib/bootpoint-agent/identity.json").exists()
    assert not (machine.root / "usr/lib/bootpoint-agent").exists()
    machine.apt("purge", "bootpoint-agent")
    assert machine.files() == before


def test_the_control_plane_is_a_package_too(tmp_path: Path, database: str, vhost: VirtualHost) -> None:
    need("root", "mmdebstrap", "dpkg")
    control = package.build(tmp_path, "bootpoint")
    machine = package.debian(control, tmp_path / "machine")
    assert not [name for name in BUILDERS if (machine.root / "usr/bin" / name).exists()]
    before = machine.files()
    machine.apt("install", f"/root/packages/{control.name}")
    assert "bootpoint" in (machine.root / "etc/passwd").read_text()
    environment = {"BOOTPOINT_DATABASE_URL": database, "BOOTPOINT_BROKER_URL": vhost.url, "BOOTPOINT_METRICS": "off"}
    machine.run("bootpoint", "db", "migrate", variables=environment)
    for words in (["worker", "--pool", "kvm"], ["scheduler"]):
        log = tmp_path / f"{words[0]}.log"
        server = Server(machine.words("bootpoint", *words), log=log, environment={**machine.environment, **environment})
        server.start(lambda log=log: b"SIGTERM ends it" in log.read_bytes(), words[0])  # type: ignore[misc]
        server.stop()
        assert "Traceback" not in log.read_text()
    # Debian's bindings, and what else a worker reaches hosts by.
    modules = "google_crc32c, libvirt, nbd, paramiko, pyVmomi, smbprotocol, winrm"
    machine.run("sh", "-c", f"PYTHONPATH=/usr/lib/bootpoint python3 -B -c 'import {modules}'")
    machine.apt("purge", "bootpoint")
    left = {name for name in machine.files() - before if not name.startswith("var/lib/bootpoint")}
    assert left <= {"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-"}
