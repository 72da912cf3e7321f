"""What lsblk, blkid and sfdisk are asked, and which of them could not be."""

from __future__ import annotations

from typing import Any

from bootpoint_producer import probe

#: What it costs when a program can't be asked, and the package that it comes with.
_FOR = {
    "lsblk": "the disks are listed as /sys has them (it comes with util-linux)",
    "blkid": "file systems are not recognised (it comes with util-linux)",
    "sfdisk": "partition tables are known as far as the kernel knows them (it comes with fdisk or util-linux)",
}


class Questions:
    """Asks for one list of disks. A program that is missing or makes no sense costs what it would have said, no more.

    Attributes:
        problems: What could not be asked, each a sentence; every program once.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._found: dict[tuple[str, int, int], dict[str, str]] = {}

    def tree(self) -> list[Any] | None:
        """Return the block devices as lsblk tells them; None when it doesn't."""
        found = self._json("lsblk", "--json", "--bytes", "--output-all")
        listed = found.get("blockdevices") if found is not None else None
        if found is not None and not isinstance(listed, list):
            self._note("lsblk", "makes no sense")
        return listed if isinstance(listed, list) else None

    def table(self, path: str) -> dict[str, Any] | None:
        """Return the partition table of a file or device as sfdisk tells it; None where there is none."""
        found = self._json("sfdisk", "--json", path, may_fail=True)
        table = found.get("partitiontable") if found is not None else None
        if found is not None and not isinstance(table, dict):
            self._note("sfdisk", "makes no sense")
        return table if isinstance(table, dict) else None

    def content(self, path: str, offset: int = 0, size: int = 0) -> dict[str, str]:
        """Return what blkid finds at a place, as `probe.signature` does."""
        if not self.can_tell_content:
            self._note("blkid", "isn't installed")
            return {}
        place = (path, offset, size)
        if place not in self._found:
            self._found[place] = probe.signature(path, offset, size)
        return self._found[place]

    @property
    def can_tell_content(self) -> bool:
        """Whether what lies on a disk can be found out at all."""
        return probe.is_installed("blkid")

    def _json(self, program: str, *arguments: str, may_fail: bool = False) -> dict[str, Any] | None:
        done = probe.reply(program, *arguments)
        if done.code is None:
            self._note(program, "takes too long" if probe.is_installed(program) else "isn't installed")
            return None
        if done.code != 0:
            if not may_fail:  # sfdisk says so of a disk without a table
                self._note(program, f"fails with exit code {done.code}")
            return None
        found = probe.read_json(done.text)
        if not isinstance(found, dict):
            self._note(program, "makes no sense")
            return None
        return found

    def _note(self, program: str, what: str) -> None:
        if not any(problem.startswith(f"{program} ") for problem in self.problems):
            self.problems.append(f"{program} {what}: {_FOR[program]}")
