"""Programs of the machine that say what a test wants: another machine's disks, nonsense, or nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.units import GiB


class Programs:
    """A folder that stands first in PATH.

    Args:
        folder: The folder.
        patch: What sets PATH, and resets it after the test.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, patch
        folder.mkdir()
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def say(self, program: str, text: str | bytes, code: int = 0) -> None:
        """Let a program print a text, whatever it is asked."""
        said = self._folder / f"{program}.said"
        said.write_bytes(text.encode() if isinstance(text, str) else text)
        self._script(program, f"cat '{said}'\nexit {code}")

    def do(self, program: str, script: str) -> None:
        """Let a program run a script; ``$real`` is the real one."""
        self._script(program, f"real='{shutil.which(program, path='/usr/sbin:/usr/bin:/sbin:/bin')}'\n{script}")

    def list(self, *nodes: dict[str, Any]) -> None:
        """Let lsblk list some devices."""
        self.say("lsblk", json.dumps({"blockdevices": nodes}))

    def lack(self, *programs: str) -> None:
        """Let programs be missing: PATH has copies of links to all others that the tests and the agent run."""
        for name in ("lsblk", "blkid", "sfdisk", "ip", "cat", "sh"):
            found = shutil.which(name)
            if name not in programs and found is not None and not (self._folder / name).exists():
                (self._folder / name).symlink_to(found)
        self._patch.setenv("PATH", str(self._folder))
        self._patch.setattr("bootpoint_producer.probe._SYSTEM_PATH", "")

    def _script(self, program: str, script: str) -> None:
        file = self._folder / program
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)


def node(name: str, **fields: Any) -> dict[str, Any]:
    """What lsblk says of a device; what isn't given is as with a plain disk."""
    plain: dict[str, Any] = {
        "name": name, "kname": name, "path": f"/dev/{name}", "maj:min": f"4000:{len(name)}", "type": "disk",
        "size": 64 * GiB, "log-sec": 512, "phy-sec": 4096, "serial": None, "wwn": None, "state": "running",
        "rm": False, "tran": "sata", "pttype": None, "parttype": None, "fstype": None, "label": None, "uuid": None,
        "mountpoints": [None], "fsused": None,
    }  # fmt: skip
    return {**plain, **fields}


def part(name: str, fs: str | None, **fields: Any) -> dict[str, Any]:
    """What lsblk says of a partition."""
    return node(name, type="part", fstype=fs, **fields)
