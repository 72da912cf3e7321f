"""Disks that were found before: a machine that goes down has no time to look through all of them again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from . import diskmap
from .trackers.ebpf.disk import disk as look


class KnownDisks:
    """Finds disks by their ids, and remembers where they were; may be used by several threads.

    Args:
        files: Raw files that the agent's configuration lists.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Path, str]] = {}

    def resolve(self, disk_id: str) -> Path:
        """Look for a disk.

        Raises:
            BootpointError: ``disk_missing``, ``source_ineligible``.
        """
        path = diskmap.resolve(disk_id, self._files)
        if not disk_id.startswith("file:"):
            with self._lock:
                self._found[disk_id] = path, look(path).identity
        return path

    def known(self, disk_id: str) -> Path:
        """Return where a disk was found before, if that disk is still there; else look for it as `resolve` does."""
        with self._lock:
            found = self._found.get(disk_id)
        if found is not None and _is_still(*found):
            return found[0]
        return self.resolve(disk_id)


def _is_still(path: Path, identity: str) -> bool:
    try:
        return look(path).identity == identity
    except OSError:
        return False
