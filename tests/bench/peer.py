"""The programs that we are measured against: nbdcopy into a qcow2 behind qemu-nbd, rsync, and b3sum."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.bench.rig import Measured
from tests.service.process import Server, run


def make_image(target: Path, size_bytes: int) -> None:
    """Make an empty qcow2."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(target), str(size_bytes)])


def nbdcopy(source: Path, target: Path) -> Measured:
    """Copy a raw file into a qcow2 by ``nbdcopy --flush`` and a qemu-nbd of the settings that ours has."""
    socket = target.with_suffix(".sock")
    words = ["qemu-nbd", "-t", "-f", "qcow2", "--cache=writeback", "--discard=unmap", "-k", str(socket), str(target)]
    server = Server(words, log=target.with_suffix(".log"))
    server.start(socket.exists, "qemu-nbd")
    before = _children_seconds()
    try:
        began = time.monotonic()
        subprocess.run(["nbdcopy", "--flush", str(source), f"nbd+unix:///?socket={socket}"], check=True)
        seconds = time.monotonic() - began
    finally:
        server.stop()
    return Measured(seconds, _children_seconds() - before)


def rsync(source: Path, target: Path) -> Measured:
    """Bring a raw file up to date by rsync's delta transfer, in blocks of 64 KiB.

    ``--ignore-times``, because a copy of the same size and the same second would be skipped without a look at it.
    """
    words = ["rsync", "--ignore-times", "--inplace", "--no-whole-file", "-B", "65536", str(source), str(target)]
    before = _children_seconds()
    began = time.monotonic()
    subprocess.run(words, check=True)
    seconds = time.monotonic() - began
    return Measured(seconds, _children_seconds() - before)


def b3sum(file: Path) -> Measured:
    """Hash a file by b3sum, in as many threads as there are processors."""
    before = _children_seconds()
    began = time.monotonic()
    subprocess.run(["b3sum", "--no-names", str(file)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    return Measured(seconds, _children_seconds() - before)


def _children_seconds() -> float:
    """Return the processor seconds of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system
