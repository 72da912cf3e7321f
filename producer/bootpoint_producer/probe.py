"""Asking the machine's own programs and files what it is made of."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

#: Seconds that a program may take; a dying disk can hold lsblk for a while.
_PATIENCE = 60.0


def ask(*command: str) -> str | None:
    """Return what a program printed; None when it isn't installed, failed, or took too long.

    Nothing of what is asked for here is indispensable: what stays unknown is shown as unknown.
    """
    try:
        # check=False: blkid says by its exit code that it found nothing
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_PATIENCE, env=environment(), stdin=-3
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def environment() -> dict[str, str]:
    """Return the environment of a program that is asked: English, and found where only root looks."""
    return {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def ask_json(*command: str) -> Any:
    """Return what a program printed as JSON; None as with `ask`."""
    text = ask(*command)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def signature(path: str, offset: int = 0, size: int = 0) -> dict[str, str]:
    """Return what blkid finds at a place of a file or a device: TYPE, LABEL, UUID, PTTYPE … if there is any.

    Args:
        path: The file or device.
        offset: First byte.
        size: Bytes; 0 for all.
    """
    place = ["--offset", str(offset), "--size", str(size)] if size else []
    text = ask("blkid", "--probe", "--output", "export", *place, path) or ""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def line_of(path: Path) -> str | None:
    """Return the first line of a file of /proc or /sys without spaces around it; None when it says nothing."""
    try:
        return path.read_text(errors="replace").strip().partition("\n")[0] or None
    except OSError:
        return None
