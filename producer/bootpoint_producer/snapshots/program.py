"""Running the programs that make snapshots: LVM's, ZFS's, the device mapper's."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from bootpoint_common.errors import Code, error

#: Seconds that a program may take outside of a freeze; a dying disk can hold LVM for a while.
PATIENCE = 60.0


class ProgramError(Exception):
    """A program failed; its text is what it said last."""


class ProgramHangsError(ProgramError):
    """A program takes too long. It goes on: to kill LVM half-way would leave volumes suspended."""


def run(*command: str, timeout: float = PATIENCE, late: Callable[[], None] | None = None) -> str:
    """Run a program and return what it printed.

    Args:
        command: The program and its arguments; names of volumes may hold any byte but zero.
        timeout: Seconds after which nobody waits for it any more.
        late: Called when it ended after that, in a thread of its own.

    Raises:
        ProgramError: It isn't installed, or failed; `ProgramHangsError`: it takes too long.
    """
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "LVM_SUPPRESS_FD_WARNINGS": "1",
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
    }
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd="/"
        )
    except OSError as failure:
        raise ProgramError(f"{command[0]}: {failure.strerror}") from failure
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        threading.Thread(target=_wait, args=(process, late), name=f"late {command[0]}", daemon=True).start()
        raise ProgramHangsError(f"{command[0]} takes more than {timeout:.0f} s") from None
    if process.returncode != 0:
        said = errors.decode(errors="replace").split("\n")
        words = "; ".join(line.strip() for line in said if line.strip() and "WARNING" not in line)
        raise ProgramError(words or f"{command[0]} ended with {process.returncode}")
    return out.decode(errors="surrogateescape")


def run_json(*command: str) -> Any:
    """Run a program and return what it printed as JSON.

    Raises:
        ProgramError: It failed, or printed something else.
    """
    try:
        return json.loads(run(*command))
    except ValueError as failure:
        raise ProgramError(f"{command[0]} printed no JSON: {failure}") from failure


def failed(what: str, failure: ProgramError, *, value: str | None = None, hint: str | None = None) -> Exception:
    """Make ``snapshot_failed`` of a program's failure, or ``freeze_timeout`` where it hangs."""
    if isinstance(failure, ProgramHangsError):
        return error(Code.FREEZE_TIMEOUT, f"{what}: {failure}", value=value, hint=hint)
    return error(Code.SNAPSHOT_FAILED, f"{what}: {failure}", value=value, hint=hint)


def _wait(process: subprocess.Popen[bytes], late: Callable[[], None] | None) -> None:
    process.communicate()
    if late is not None:
        late()
