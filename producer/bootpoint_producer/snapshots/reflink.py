"""A reflink copy of raw files: instant, on file systems that share blocks (XFS, btrfs).

The copies lie beside the files, in the same file system, as the call demands. Their names go as soon as they
are open, so a dead agent leaves nothing behind; one that dies between the two leaves an empty file with a name
that `remove_leftovers` finds.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import AtInstant, Consistency, nothing
from bootpoint_producer.snapshots.none import disk_usage
from bootpoint_producer.sources import Source, open_source

#: linux/fs.h
_FICLONE = 0x40049409
_PREFIX = ".bootpoint-snapshot-"


class CloneSet:
    """Open copies of disks.

    Args:
        kind: Which way of taking made it.
        clones: Path and open copy of each slot; the copies belong to the set.
        instant: When they were made.
        reasons: Why the copies are no better than after a power cut; empty at ``fs``.
    """

    def __init__(
        self, *, kind: str, clones: Mapping[str, tuple[Path, int]], instant: datetime, reasons: list[str]
    ) -> None:
        self.kind = kind
        self.instant = instant
        self.reason = "; ".join(reasons)
        self.consistency = Consistency.CRASH if reasons else Consistency.FS
        self._clones = dict(clones)

    def source(self, slot: str) -> Source:
        """See `SnapshotSet.source`."""
        path, descriptor = self._clones[slot]
        return open_source(path, os.dup(descriptor))

    def path(self, slot: str) -> str:
        """See `SnapshotSet.path`; the copy has no name, so this is the way to it through the agent's process."""
        _, descriptor = self._clones[slot]
        return f"/proc/{os.getpid()}/fd/{descriptor}"

    def confirm(self) -> Consistency:
        """See `SnapshotSet.confirm`; a copy doesn't change."""
        return self.consistency

    def release(self) -> None:
        """See `SnapshotSet.release`."""
        while self._clones:
            _, (_, descriptor) = self._clones.popitem()
            os.close(descriptor)


class Reflink:
    """Copies raw files by reference. Reaches ``fs`` when nobody writes to them, else ``crash``.

    Files that somebody writes to are copied one after the other, some milliseconds apart.
    """

    kind = "reflink"

    def take(self, disks: Mapping[str, Path], *, at_instant: AtInstant = nothing) -> CloneSet:
        """See `Snapshot.take`."""
        found = {path: disk_usage(path) for path in disks.values()}
        reasons = [f"{path} is {use.words()}" for path, use in found.items() if not use.quiet]
        at_instant()
        return clone_all(disks, kind=self.kind, reasons=reasons)


def clone_all(disks: Mapping[str, Path], *, kind: str, reasons: list[str]) -> CloneSet:
    """Copy every disk by reference.

    Raises:
        BootpointError: ``snapshot_failed``: one can't be copied; then none is.
    """
    instant = datetime.now(UTC)
    with ExitStack() as undo:
        clones = {}
        for slot, path in disks.items():
            try:
                clones[slot] = (path, _clone(path))
            except OSError as failure:
                raise error(
                    Code.SNAPSHOT_FAILED, f"{path} can't be copied by reference: {failure.strerror}", value=str(path)
                ) from failure
            undo.callback(os.close, clones[slot][1])
        undo.pop_all()
    return CloneSet(kind=kind, clones=clones, instant=instant, reasons=reasons)


def can_clone(path: Path) -> bool:
    """Whether a disk is a file on a file system that copies by reference; tries it with an empty file beside it.

    An empty file tells as well as a full one: the file system refuses before it looks at the size.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        one, other = _nameless(path), _nameless(path)
    except OSError:
        return False
    try:
        os.write(one, b"\x00")
        fcntl.ioctl(other, _FICLONE, one)
    except OSError:
        return False
    finally:
        os.close(one)
        os.close(other)
    return True


def remove_leftovers(files: Iterable[Path]) -> None:
    """Remove what agents that died left beside the given raw files."""
    for folder in {path.resolve().parent for path in files}:
        for leftover in folder.glob(f"{_PREFIX}*"):
            leftover.unlink(missing_ok=True)


def _clone(path: Path) -> int:
    original = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        copy = _nameless(path)
        try:
            fcntl.ioctl(copy, _FICLONE, original)
        except BaseException:
            os.close(copy)
            raise
        return copy
    finally:
        os.close(original)


def _nameless(path: Path) -> int:
    """Make a file beside another one that goes when it is closed; not O_TMPFILE, which NFS and overlays lack."""
    descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=path.resolve().parent)
    Path(name).unlink()
    return descriptor
