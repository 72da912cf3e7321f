"""docs/events.md, pasted: the login of a sender, a UPS daemon and a libvirt hook that say events over a real broker.

The page's paths are directories of the test's own, in a mount namespace. What differs from a reader's machine:
`rabbitmqctl` is that of the tests' node; what needs systemd is pasted in a guest (tests/long/test_shutdown_long.py).
"""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_events import SHUTDOWN, Scene
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.process import wait_for
from tests.service.rabbit_fleet import rabbit_broker
from tests.service.rabbitmq import VirtualHost

PAGE = Path(__file__).parents[2] / "docs/events.md"

#: Directories of the page that are the test's own.
OWN = ("/etc", "/usr/local/bin")


def blocks(*, systemd: bool) -> list[str]:
    """Return the page's blocks: those for a machine with systemd, or the others."""
    found = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if ("/systemd/" in block) is systemd]


class Reader:
    """Somebody who pastes, and a machine of his own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        for name in OWN:
            (folder / name[1:]).mkdir(parents=True)
        subprocess.run(["cp", "-a", "/etc/.", str(folder / "etc")], check=True)

    def paste(self, text: str, **variables: str) -> str:
        mounts = "\n".join(f"mount --bind {shlex.quote(str(self.folder / name[1:]))} {name}" for name in OWN)
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-euc", f"{mounts}\ncd {shlex.quote(str(self.folder))}\n{text}"],
            env={**self.environment, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def installation(database: str, tmp_path: Path, vhost: VirtualHost) -> Iterator[Fleet]:
    with rabbit_broker(vhost) as broker, fleet(database, tmp_path, broker) as made:
        yield made


def environment(database: str, vhost: VirtualHost, folder: Path) -> dict[str, str]:
    """Return the environment of a machine of the control plane, with the program of the tests' broker in its PATH."""
    programs = folder / "programs"
    programs.mkdir()
    node = [f"{name}={value}" for name, value in vhost.broker.environment.items() if os.environ.get(name) != value]
    real = str(vhost.broker._home / "sbin/rabbitmqctl")
    (programs / "rabbitmqctl").write_text(f'#!/bin/sh\nexec env {shlex.join(node)} {real} -q "$@"\n')
    (programs / "rabbitmqctl").chmod(0o755)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    return {
        "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(folder),
        "PYTHONPATH": site,  # stands for python3-pika
        "BOOTPOINT_STATE": str(folder / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_BROKER_URL": vhost.url,
        "BOOTPOINT_METRICS": "off",
    }


@pytest.mark.timeout(300)
def test_a_ups_and_a_hypervisor_say_events_by_what_the_page_has(
    installation: Fleet, database: str, vhost: VirtualHost, tmp_path: Path, rng: random.Random
) -> None:
    need("root")
    scene = Scene(installation, tmp_path, rng, {**SHUTDOWN, "on_restart": True}).start()
    disk = scene.disk
    installation.add_agent("web1", [disk])
    installation.add_job("web", "web1", {"system": disk}, scene.host_id, rules=SHUTDOWN)
    installation.add_worker("s1", kind="up")
    wait_for(lambda: vhost.is_bound("events.in", "bp.events"), "a scheduler")
    reader = Reader(tmp_path / "machine", environment(database, vhost, tmp_path))
    reader.paste("bootpoint db migrate")  # makes the installation's key
    reader.paste("\n".join(blocks(systemd=False)))
    assert (tmp_path / "machine/etc/bootpoint/events.url").stat().st_mode & 0o777 == 0o600
    notify = command(tmp_path / "machine/etc/nut/upsmon.conf")

    reader.paste(f"{notify} 'UPS ups@localhost on battery'", NOTIFYTYPE="ONBATT", UPSNAME="ups@localhost")
    assert installation.rows("SELECT 1 FROM source_event") == [], "a short power cut shuts nothing down"
    reader.paste(f"{notify} 'UPS ups@localhost battery is low'", NOTIFYTYPE="LOWBATT", UPSNAME="ups@localhost")
    reader.paste(f"{notify} 'UPS ups@localhost: forced shutdown'", NOTIFYTYPE="FSD", UPSNAME="ups@localhost")
    both = "SELECT count(*) AS n FROM run WHERE last_breath AND state = 'succeeded' HAVING count(*) = 2"
    installation.wait_until(lambda: installation.row(both))
    said = {(row["agent"], row["origin"]) for row in scene.history("source_shutdown")}
    assert said == {(name, "upsmon ups@localhost LOWBATT") for name in ("erp-db", "web1")}

    hook = "/etc/libvirt/hooks/qemu"
    reader.paste(f"echo '<domain/>' | {hook} erp-db prepare begin -")
    reader.paste(f"echo '<domain/>' | {hook} other started begin -")
    reader.paste(f"echo '<domain/>' | {hook} erp-db started begin -")
    query = "SELECT 1 AS x FROM run WHERE trigger = 'event' AND NOT last_breath AND state = 'succeeded'"
    installation.wait_until(lambda: installation.row(query))
    (restarted,) = scene.history("source_restart")
    assert restarted["origin"] == f"libvirt on {os.uname().nodename}"


def command(configuration: Path) -> str:
    """Return the program that a upsmon.conf names."""
    found = re.search(r"^NOTIFYCMD (\S+)$", configuration.read_text(), re.MULTILINE)
    assert found is not None
    return found[1]
