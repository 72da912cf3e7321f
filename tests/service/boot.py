"""Booting machines by TCG and reading their serial port: with qemu alone, or as a standby."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootpoint_worker.verdict import GREETING
from tests.service.process import wait_for

#: Seconds that a boot may take on a loaded machine.
BOOT = 240.0


def greeting(marker: str) -> str:
    """Return what a guest prints that has booted."""
    return f"{GREETING} marker={marker} "


@contextmanager
def running(disk: Path, log: Path, options: Sequence[str] = (), *, bus: str = "virtio") -> Iterator[None]:
    """Run a raw disk on a bus by qemu alone, its serial port in a log; what it writes is thrown away."""
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512", "-display", "none"]
    command += ["-nic", "none", "-monitor", "none", "-no-reboot", "-serial", f"file:{log}", "-snapshot"]
    command += ["-drive", f"file={disk},format=raw,if={bus}", *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def wait_for_text(log: Path, *texts: str, timeout: float = BOOT) -> str:
    """Wait until one of these texts is in a log; returns which."""

    def shown() -> str | None:
        text = log.read_text(errors="replace") if log.exists() else ""
        return next((wanted for wanted in texts if wanted in text), None)

    wait_for(lambda: shown() is not None, f"one of {texts} on the serial port", timeout)
    return shown() or ""
