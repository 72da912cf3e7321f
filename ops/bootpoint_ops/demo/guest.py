"""Waiting for a guest to say on its serial port what it is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from bootpoint_ops.guest_disk import GREETING

#: Seconds between two looks at a serial log.
_INTERVAL = 0.1

#: What a terminal takes as a command and not as text: boot loaders draw.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\x20-\x7e\n]")

#: A guest of unknown make is up when it asks for a login.
_LOGIN = re.compile(r"\blogin: *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a guest showed.

    Attributes:
        booted: Whether it showed what was waited for.
        text: The line that proves it, else the last one that it wrote.
        seconds: How long it took.
    """

    booted: bool
    text: str
    seconds: float


def wait(serial_log: Path, marker: str | None, *, began: float, timeout: float) -> Seen:
    """Wait for a line in a serial log.

    Args:
        serial_log: The file; may not exist yet.
        marker: What the demo's guest prints; None for a guest of unknown make, which is to ask for a login.
        began: When it was started, on the monotonic clock.
        timeout: Seconds from then.
    """
    wanted = _LOGIN if marker is None else re.compile(rf"^{GREETING} marker={re.escape(marker)}( .*)?$", re.MULTILINE)
    while True:
        seconds = time.monotonic() - began
        said = text_of(serial_log)
        if found := wanted.search(said):
            start = said.rfind("\n", 0, found.start()) + 1
            return Seen(booted=True, text=said[start : found.end()].strip(), seconds=seconds)
        if seconds > timeout:
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            return Seen(booted=False, text=lines[-1] if lines else "nothing on its serial port", seconds=seconds)
        time.sleep(_INTERVAL)


def text_of(serial_log: Path) -> str:
    """Return what a guest has written so far, as plain text."""
    try:
        said = serial_log.read_bytes()
    except FileNotFoundError:
        return ""
    return _CONTROL.sub("", said.decode("utf-8", "replace").replace("\r\n", "\n"))
