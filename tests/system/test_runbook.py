"""The day when nothing is left but the host: its standby starts by RUNBOOK.txt, and by ``vm start --direct``.

The host is that of a demo which has ended, so neither PostgreSQL nor a broker nor a worker runs; its libvirtd is
started again as after a restart of the machine.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.demo import PATIENCE, DemoRun, processes_of
from tests.service.direct import done, run
from tests.service.libvirt import LibvirtHost
from tests.service.process import wait_for

#: Seconds for a boot on a loaded machine.
BOOT = 240.0


@pytest.fixture
def host(demo_host: LibvirtHost, demo_run: DemoRun) -> Iterator[LibvirtHost]:
    """The host alone, with its points as they were made, then and afterwards."""
    assert [line for line in processes_of(demo_run.directory) if "postgres" in line or "bootpoint" in line] == []
    before = digests(demo_run)
    yield demo_host
    assert digests(demo_run) == before, "a boot wrote into a boot point"


def digests(demo: DemoRun) -> list[str]:
    found = []
    for point in demo.report["points"]:
        with Path(point["files"]["system"]).open("rb") as file:
            found.append(hashlib.file_digest(file, "blake2b").hexdigest())
    return found


def on(host: LibvirtHost, *command: str, text: str = "") -> str:
    """Run a command on the host, as root who has logged in there."""
    enter = ["nsenter", "--target", str(host.first_pid), "--mount", "--pid", "--"]
    done = subprocess.run([*enter, *command], input=text, capture_output=True, text=True, timeout=BOOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def block(runbook: Path, point: str) -> str:
    """Return the lines that the runbook says to paste for a point."""
    found = re.search(rf"^# BEGIN {point}\n.*?^# END {point}\n", runbook.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"no block for {point}"
    return found[0]


def read_console(host: LibvirtHost, vm: str) -> str:
    """Return what a VM writes to its serial port, a pseudo-terminal of the host, until it powers off."""
    source = ET.fromstring(host.virsh("dumpxml", vm)).find("./devices/serial/source")
    assert source is not None
    # Reading ends with an error when QEMU ends: there is nobody at the other end any more.
    reader = subprocess.run(["timeout", str(BOOT), "cat", str(source.get("path"))], capture_output=True, check=False)
    return reader.stdout.decode("utf-8", "replace")


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("number", [1, 0], ids=["newest", "older"])
def test_runbook_starts_the_standby_from_a_point(host: LibvirtHost, demo_run: DemoRun, number: int) -> None:
    point, vm = demo_run.report["points"][number], demo_run.report["vm"]
    on(host, "sh", text=block(Path(demo_run.report["runbook"]), point["name"]))
    assert f"BOOTPOINT-GUEST marker={point['marker']} " in read_console(host, vm)
    host.wait_until_off(vm)


@pytest.mark.timeout(PATIENCE)
def test_direct_start_needs_nothing_but_the_host(host: LibvirtHost, demo_run: DemoRun) -> None:
    vm, (older, newest) = demo_run.report["vm"], demo_run.report["points"]
    assert direct(host, "list")["items"][0]["name"] == vm
    assert [item["name"] for item in direct(host, "points", vm)["items"]] == [older["name"], newest["name"]]
    log = demo_run.directory / "serial/direct.log"
    started = direct(host, "start", vm, "--serial-log", str(log), "--yes")
    assert (started["name"], started["state"]) == (vm, "running")
    greeting = f"BOOTPOINT-GUEST marker={newest['marker']} "
    wait_for(lambda: greeting in log.read_text(errors="replace"), "the standby to show its marker", BOOT)
    host.wait_until_off(vm)


def direct(host: LibvirtHost, verb: str, *words: str) -> dict[str, Any]:
    """Ask ``bootpoint vm VERB --direct`` where no installation is."""
    enter = ("nsenter", "--target", str(host.first_pid), "--mount", "--pid", "--")
    return done(run(verb, *words, "--direct", "--address", "local", "--virt-type", "qemu", enter=enter))
