"""The commands of the demo are those of every user: `bootpoint …`, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootpoint_common.errors import BootpointError, Code, error

#: Runs the command line of this installation, whatever the working directory holds.
_PROGRAM = (sys.executable, "-P", "-c", "from bootpoint_ops.cli import main; main(prog_name='bootpoint')")


class Commands:
    """Commands on one installation.

    Args:
        state: The state directory of its `bootpoint up`.
        told: Is told each command before it runs.
    """

    def __init__(self, state: Path, told: Callable[[str], None]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BOOTPOINT_")}
        self._environment = {**kept, "BOOTPOINT_STATE": str(state)}
        self._told = told

    def ask(self, *words: str, tell: bool = True) -> dict[str, Any]:
        """Run a command and return its JSON.

        Raises:
            BootpointError: What it complained of.
        """
        if tell:
            self._told(_line(words))
        done = subprocess.run(
            [*_PROGRAM, *words, "-o", "json"],
            env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise _complaint(words, done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def show(self, *words: str) -> bool:
        """Run a command that writes to the terminal itself, and return whether it ended well."""
        self._told(_line(words))
        return subprocess.run([*_PROGRAM, *words], env=self._environment, stdin=subprocess.DEVNULL).returncode == 0


def _line(words: tuple[str, ...]) -> str:
    return " ".join(("bootpoint", *words))


def _complaint(words: tuple[str, ...], said: str) -> BootpointError:
    """Make the error of a command our own; its JSON is the last line that it wrote."""
    try:
        found = json.loads(said.strip().splitlines()[-1])
        code = Code(found["code"])
    except (IndexError, KeyError, TypeError, ValueError):
        return error(Code.HOST_UNSUPPORTED, f"`{_line(words)}` failed: {said.strip()[-2000:]}")
    told = {name: found.get(name) for name in ("key", "value", "hint", "job", "host")}
    return error(code, found["message"], **{name: value for name, value in told.items() if value is not None})
