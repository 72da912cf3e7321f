"""One `bootpoint demo` for all tests that look at what it leaves, on a libvirt of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.service.component import need
from tests.service.libvirt import LibvirtHost, apart, prepare

#: Seconds for a demo on a loaded machine; on a quiet one it takes one minute.
PATIENCE = 600.0


@dataclass(frozen=True)
class DemoRun:
    """A demo that has ended: nothing of it runs any more.

    Attributes:
        directory: Where it lies.
        libvirt: The directories that its libvirt called its own; another one can be started over them.
        report: What it reported.
        output: What it printed.
    """

    directory: Path
    libvirt: Path
    report: dict[str, Any]
    output: str


def run_demo(directory: Path, libvirt: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `bootpoint demo` where no libvirt runs, as on a machine on which nothing starts by itself."""
    bootpoint = Path(sys.executable).with_name("bootpoint")
    # bash stays the first process of the namespace, and so the one that collects guests that have ended.
    script = f'{bootpoint} demo --directory {directory} "$@"\nexit $?'
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BOOTPOINT_")}
    cache = {name: value for name, value in os.environ.items() if name == "BOOTPOINT_CACHE"}
    return subprocess.run(
        [*apart(libvirt, script), "demo", *words],
        env={**kept, **cache}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@contextmanager
def _place() -> Iterator[tuple[Path, Path]]:
    """A directory for a demo, and those that its libvirt calls its own."""
    need("root", "libvirt", "libvirt-python", "qemu", "qemu-img", "qemu-nbd", "libnbd", "pgserver")
    need("mmdebstrap", "grub")
    with (
        tempfile.TemporaryDirectory(prefix="bootpoint-demo-", dir="/var/tmp", ignore_cleanup_errors=True) as place,
        tempfile.TemporaryDirectory(prefix="bpd-", dir="/tmp", ignore_cleanup_errors=True) as own,
    ):
        directory, libvirt = Path(place), Path(own)
        directory.chmod(0o711)
        libvirt.chmod(0o755)
        prepare(libvirt)
        yield directory, libvirt


@pytest.fixture
def demo_place() -> Iterator[tuple[Path, Path]]:
    """What `run_demo` takes, for a demo of the test's own."""
    with _place() as place:
        yield place


@pytest.fixture(scope="session")
def demo_run() -> Iterator[DemoRun]:
    """A demo that went well."""
    with _place() as (directory, libvirt):
        report = libvirt / "report.json"
        done = run_demo(directory, libvirt, "--report", str(report))
        assert done.returncode == 0, done.stdout + done.stderr
        yield DemoRun(directory, libvirt, json.loads(report.read_text()), done.stdout)


@pytest.fixture
def demo_host(demo_run: DemoRun) -> Iterator[LibvirtHost]:
    """The host of that demo, up again with nothing but libvirt: no PostgreSQL, no broker, no worker."""
    host = LibvirtHost(demo_run.libvirt)
    try:
        host.start()
        yield host
    finally:
        host.stop()


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of processes that have to do with a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if re.search(rf"{re.escape(str(directory))}(/|\b)", words) and str(os.getpid()) != path.parent.name:
            found.append(words)
    return found
