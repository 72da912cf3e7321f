"""docs/systemd.md, pasted into a machine with systemd: control plane and agent by their packages and units, confined.

The machine has no network but to this one's broker and database, so `apt-get` there is a few lines that call dpkg: what
the packages need is installed, as apt would have done. That they say all they need: tests/long/test_package_long.py.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_common.enrolment import Token
from bootpoint_common.store import agent as agents
from bootpoint_common.stream.rabbit import agent_permissions
from bootpoint_common.units import MiB
from tests.service import package
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.linux_guest import LinuxGuest
from tests.service.linux_tree import make_disk
from tests.service.process import wait_for
from tests.service.rabbit_fleet import RabbitBroker, rabbit_broker
from tests.service.rabbitmq import VirtualHost
from tests.service.systemd_guest import GATEWAY, SystemdMachine

pytestmark = pytest.mark.timeout(3600)

PAGE = Path(__file__).parents[2] / "docs/systemd.md"

#: Seconds for what a guest does on a loaded machine.
PART = 900.0

#: Installs files that are there, with what they need being there, too: `apt-get install -y ./FILE`.
APT = '#!/bin/sh\n[ "$1 $2" = "install -y" ] || exit 2\nshift 2\nexec dpkg -i "$@"\n'

#: Readies the machine: packages where a reader has them, and no program of the harness before theirs.
SETUP = """
from pathlib import Path
Path("/usr/local/bin/bootpoint-agent").unlink()
Path("/usr/local/bin/apt-get").write_text({apt!r})
Path("/usr/local/bin/apt-get").chmod(0o755)
Path("/root/reader").mkdir()
Path("/etc/bootpoint").mkdir()
Path("/etc/bootpoint/installation.key").write_bytes({key!r})
Path("/etc/bootpoint/installation.key").chmod(0o600)
"""

DISKS = """
mount -o ro /dev/disk/by-id/virtio-packages-ours /mnt
cp /mnt/*.deb /root/reader
mkfs.ext4 -q /dev/disk/by-id/virtio-data
mkdir /data
mount /dev/disk/by-id/virtio-data /data
dd if=/dev/urandom of=/data/file bs=1M count=4 status=none
"""

PASTE = """
import os
import subprocess
variables = {{**os.environ, **{variables!r}}}
variables.pop("PYTHONPATH", None)
subprocess.run(["bash", "-euc", {block!r}], cwd="/root/reader", env=variables, check=True)
"""

SHELL = "import subprocess; subprocess.run(['bash', '-euc', {text!r}], check=True)"

#: What a process shows of its rights and of its secrets.
CONFINED = """
for unit in bootpoint-worker@kvm bootpoint-scheduler; do
  pid=$(systemctl show -P MainPID $unit)
  [ "$(stat -c %U /proc/$pid)" = bootpoint ]
  grep -qx 'CapBnd:\t0000000000000000' /proc/$pid/status
  grep -qx 'NoNewPrivs:\t1' /proc/$pid/status
  ! tr '\\0' '\\n' < /proc/$pid/environ | grep -q '://'
done
! setpriv --reuid bootpoint --clear-groups cat /etc/bootpoint/installation.key 2>/dev/null
pid=$(systemctl show -P MainPID bootpoint-agent)
grep -q 'Seccomp:\t2' /proc/$pid/status
[ "$(readlink /proc/$pid/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" ]
"""

#: A watchdog that doesn't take ten minutes.
WATCHED = """
install -d /run/systemd/system/bootpoint-scheduler.service.d
printf '[Service]\\nWatchdogSec=20\\n' > /run/systemd/system/bootpoint-scheduler.service.d/quick.conf
systemctl daemon-reload
systemctl restart bootpoint-scheduler
before=$(systemctl show -P MainPID bootpoint-scheduler)
for second in $(seq 45); do sleep 1; done
[ "$(systemctl show -P MainPID bootpoint-scheduler)" = "$before" ]
kill -STOP $before
until [ "$(systemctl show -P NRestarts bootpoint-scheduler)" = 1 ]; do sleep 1; done
systemctl is-active --wait bootpoint-scheduler || systemctl start bootpoint-scheduler
"""

GONE = """
dpkg --purge bootpoint-agent
! systemctl is-active bootpoint-agent
[ -z "$(ls /sys/fs/bpf/bootpoint 2>/dev/null)" ]
[ ! -e /usr/lib/bootpoint-agent ] && [ ! -e /var/lib/bootpoint-agent ]
"""


def page_blocks() -> dict[str, str]:
    """Return the page's blocks that are pasted in the machine, by a word of each."""
    found = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    words = ["make package", "bootpoint-agent_", "scripts.conf", "bootpoint_*", "database.url", "root.conf"]
    words.append("list-units")
    assert len(found) == len(words)
    return {word: next(block for block in found if word in block) for word in words}


@pytest.fixture
def installation(database: str, tmp_path: Path, vhost: VirtualHost) -> Iterator[Fleet]:
    need("root", "qemu", "qemu-img", "mmdebstrap", "dpkg", "bpf")
    with rabbit_broker(vhost) as broker, fleet(database, tmp_path, broker) as made:
        yield made


def machine_with(folder: Path) -> SystemdMachine:
    """Make the machine; its disks are the packages, and one to protect."""
    tree = folder / "packages"
    tree.mkdir()
    needed = set[str]()
    for name in ("bootpoint-agent", "bootpoint"):
        needed |= set(package.dependencies(package.build(tree, name)))
    machine = SystemdMachine(folder, {"packages-ours": 1, "data": 24 * MiB}, sorted(needed - {"python3", "libc6"}))
    make_disk(tree, machine.disks["packages-ours"], 8 * MiB)
    shutil.rmtree(tree)
    return machine


def token_for(installation: Fleet, vhost: VirtualHost) -> str:
    """Enroll the machine, with its own login at the broker as it reaches it."""
    secret = secrets.token_bytes(32)
    with installation.database.transaction() as connection:
        encrypted = installation.vault.encrypt(agents.join_purpose("erp-db"), secret)
        agents.enroll(connection, "erp-db", "kvm", encrypted)
    url = RabbitBroker(vhost).login("erp-db", agent_permissions("erp-db")).replace("127.0.0.1", GATEWAY)
    return Token("erp-db", "kvm", url, "", secret).encode()


def protect(installation: Fleet, name: str) -> int:
    """Add a job of the machine's disk to a host whose pool the machine's own worker serves."""
    host_id = installation.add_host(name)
    with installation.database.transaction() as connection:
        connection.execute(b"UPDATE host SET pool = 'kvm'")
    job = installation.add_job("erp", "erp-db", {"data": Path("/dev/none")}, host_id)
    with installation.database.transaction() as connection:
        change = "UPDATE job SET spec = jsonb_set(spec, '{source,disks,0,id}', '\"serial:data\"')"
        connection.execute(change.encode())
    return job


def test_the_page_makes_a_machine_whose_units_work_with_what_they_are_left(
    installation: Fleet, database: str, vhost: VirtualHost, tmp_path: Path
) -> None:
    key = load_or_create_installation_key(tmp_path / "installation.key")
    installation.vault = Vault(key)
    blocks = page_blocks()
    urls = {"DATABASE_URL": database, "BROKER_URL": vhost.url}
    urls = {name: url.replace("127.0.0.1", GATEWAY) for name, url in urls.items()}
    with machine_with(tmp_path).started() as guest:

        def paste(word: str) -> None:
            guest.run(PASTE.format(block=blocks[word], variables=urls), timeout=PART).check()

        def shell(text: str) -> str:
            return guest.run(SHELL.format(text=text), timeout=PART).check()

        guest.run(SETUP.format(apt=APT, key=(tmp_path / "installation.key").read_bytes()), timeout=PART).check()
        shell(DISKS)
        paste("bootpoint_*")
        paste("database.url")
        shell(f"echo '{token_for(installation, vhost)}' > /root/reader/token")
        paste("bootpoint-agent_")
        for word in ("scripts.conf", "root.conf"):
            paste(word)
        online = "SELECT 1 AS x FROM agent WHERE last_seen_at > now() - interval '5 seconds' AND inventory IS NOT NULL"
        wait_for(lambda: installation.row(online), "the agent", PART)
        shell(CONFINED)
        job = protect(installation, "fake-" + tmp_path.name)
        installation.wait(installation.run(job), seconds=PART)
        shell("dd if=/dev/urandom of=/data/more bs=1M count=2 status=none; sync")
        installation.wait(installation.run(job), seconds=PART)
        disks = installation.rows(
            "SELECT d.tracker, d.fallback, p.consistency FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
            " ORDER BY p.sequence"
        )
        # The first copy reads everything, whatever the tracker.
        assert [(row["tracker"], row["consistency"]) for row in disks] == [("hash", "crash"), ("ebpf", "crash")]
        assert disks[1]["fallback"] is None
        before = worker_of(guest)
        paste("list-units")
        assert worker_of(guest) != before
        shell(WATCHED)
        shell(GONE)


def worker_of(guest: LinuxGuest) -> str:
    """Return the pid of the machine's worker, which is ready."""
    text = "systemctl is-active bootpoint-worker@kvm && systemctl show -P MainPID bootpoint-worker@kvm"
    return guest.run(SHELL.format(text=text), timeout=PART).check()
