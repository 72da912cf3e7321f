"""A machine with systemd and the agent is really shut down, by the units and the words of docs/events.md.

The target takes nothing until the machine is gone, so what its boot point is made of was all with the broker by then.
"""

from __future__ import annotations

import random
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
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.linux_guest import LinuxGuest
from tests.service.process import wait_for
from tests.service.rabbit_fleet import RabbitBroker, rabbit_broker
from tests.service.rabbitmq import VirtualHost
from tests.service.systemd_guest import GATEWAY, SystemdMachine
from tests.system.test_events_page import blocks

pytestmark = pytest.mark.timeout(2400)

REPOSITORY = Path(__file__).parents[2]

#: Seconds for what a guest does on a loaded machine.
PART = 600.0

#: Size of the machine's data disk, and what of it is written before the shutdown.
SIZE, WRITTEN = 24 * MiB, 5 * MiB

#: What systemd is given by the unit itself; the job's deadline is longer, and TCG may need it.
RULES = {"on_shutdown": {"enabled": True, "deadline": "5m"}, "on_restart": True}

SENT = "run 2: everything is with the broker; the machine may go"

#: Makes the machine a source: a partition, its configuration, its token, and the page's blocks; {files} are the units.
SETUP = """
import subprocess
from pathlib import Path

files = {files!r}
for name, content in files.items():
    file = Path("/root/bootpoint", name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
subprocess.run(["sfdisk", "-q", "/dev/vdb"], input="4MiB,,L\\n", text=True, check=True)
Path("/etc/bootpoint").mkdir()
Path("/etc/bootpoint/agent.toml").write_text('tracker = "hash"\\nsnapshot = "none"\\n')
subprocess.run(["bootpoint-agent", "join", "-"], input={token!r}, text=True, check=True)
for block in {blocks!r}:
    subprocess.run(["bash", "-euc", block], cwd="/root/bootpoint", check=True)
"""

WRITE = """
import os
with open("/dev/vdb", "r+b") as disk:
    disk.seek({offset})
    disk.write(os.urandom({length}))
    disk.flush()
    os.fsync(disk.fileno())
"""

POWER_OFF = "import subprocess; subprocess.run(['systemctl', '--no-block', 'poweroff'], check=True)"


@pytest.fixture
def installation(database: str, tmp_path: Path, vhost: VirtualHost) -> Iterator[Fleet]:
    need("root", "qemu", "qemu-img", "mmdebstrap")
    with rabbit_broker(vhost) as broker, fleet(database, tmp_path, broker) as made:
        yield made


def token_for(installation: Fleet, vhost: VirtualHost) -> str:
    """Enroll the machine, with its own login at the broker as it reaches it."""
    secret = secrets.token_bytes(32)
    with installation.database.transaction() as connection:
        encrypted = installation.vault.encrypt(agents.join_purpose("erp-db"), secret)
        agents.enroll(connection, "erp-db", "fake", encrypted)
    url = RabbitBroker(vhost).login("erp-db", agent_permissions("erp-db"))
    return Token("erp-db", "fake", url.replace("127.0.0.1", GATEWAY), "", secret).encode()


def is_online(installation: Fleet) -> bool:
    query = "SELECT 1 AS x FROM agent WHERE last_seen_at > now() - interval '5 seconds' AND inventory IS NOT NULL"
    return installation.row(query) is not None


def point_equals(installation: Fleet, job: int, host: FakeHost, disk: Path, number: int) -> bool:
    point = installation.points(job)[number]
    return replica_content(installation, job, host.name, point.id, "data") == disk.read_bytes()


def protect(installation: Fleet, machine: SystemdMachine, guest: LinuxGuest, vhost: VirtualHost, host: FakeHost) -> int:
    """Make the machine a source with one boot point, and return its job."""
    units = {str(path.relative_to(REPOSITORY)): path.read_text() for path in REPOSITORY.glob("ops/systemd/*.service")}
    token = token_for(installation, vhost)
    guest.run(SETUP.format(files=units, token=token, blocks=blocks(systemd=True)), timeout=PART).check()
    wait_for(lambda: is_online(installation), "the agent", PART)
    # Nobody has told this start of the machine before; that concerns no job as yet.
    restarted = "SELECT 1 AS x FROM event WHERE kind = 'source_restart'"
    installation.wait_until(lambda: installation.row(restarted), PART)
    host_id = installation.add_host(host.name)
    job = installation.add_job("erp", "erp-db", {"data": machine.disks["data"]}, host_id, rules=RULES)
    with installation.database.transaction() as connection:
        change = "UPDATE job SET spec = jsonb_set(spec, '{source,disks,0,id}', '\"serial:data\"')"
        connection.execute(change.encode())
    guest.run(WRITE.format(offset=8 * MiB, length=WRITTEN)).check()
    installation.wait(installation.run(job), seconds=PART)
    return job


@pytest.mark.parametrize("link", ["stays", "cut after the last confirm"])
def test_a_machine_that_is_shut_down_leaves_its_point_and_comes_back(
    installation: Fleet, vhost: VirtualHost, tmp_path: Path, rng: random.Random, link: str
) -> None:
    host = FakeHost.at(f"fake-{tmp_path.name}")
    installation.add_worker("w1", window_bytes=2 * MiB)
    machine = SystemdMachine(tmp_path, {"data": SIZE})
    with machine.started() as guest:
        job = protect(installation, machine, guest, vhost, host)
        guest.run(WRITE.format(offset=16 * MiB, length=WRITTEN)).check()
        pause = host.pause_at("open_writer", "called")
        guest.begin(POWER_OFF)
        if link != "stays":
            wait_for(lambda: SENT in guest.console, "the last confirm", PART)
            machine.cut_the_link()
        wait_for(lambda: not guest.alive, "the end of the machine", PART)
        assert SENT in guest.console, guest.console[-4000:]
    run = installation.row("SELECT * FROM run WHERE id = 2")
    assert run is not None
    assert (run["state"], run["trigger"], run["last_breath"]) == ("running", "event", True)
    pause.release()
    installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM run WHERE id = 2 AND state = 'succeeded'"))
    assert point_equals(installation, job, host, machine.disks["data"], -1)

    with machine.started():
        query = "SELECT * FROM run WHERE id = 3 AND state = 'succeeded'"
        restarted = installation.wait_until(lambda: installation.row(query), PART)
        assert (restarted["trigger"], restarted["last_breath"]) == ("event", False)
        assert point_equals(installation, job, host, machine.disks["data"], -1)
    events = installation.rows("SELECT * FROM event WHERE starts_with(kind, 'source_') ORDER BY id")
    said = [(row["kind"], row["actor"], row["origin"]) for row in events]
    assert said == [(f"source_{kind}", "agent erp-db", "systemd") for kind in ("restart", "shutdown", "restart")]
