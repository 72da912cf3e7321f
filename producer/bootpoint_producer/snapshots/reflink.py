"""A reflink copy of a raw file: instant, on file systems that share blocks (XFS, btrfs).

The copy lies beside the file, in the same file system, as the call demands. Its name goes as soon as it is
open, so a dead agent leaves nothing behind; one that dies between the two leaves an empty file with a name
that `remove_leftovers` finds.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.sources import Source, open_source

#: linux/fs.h
_FICLONE = 0x40049409
_PREFIX = ".bootpoint-snapshot-"


class Reflink(Part):
    """Holds a raw file by a copy of it; its own `Part`.

    Args:
        path: The file.
        kind: ``fsfreeze`` where file systems in it are frozen for it, else ``reflink``.
        reasons: Why the copy is no better than after a power cut; empty at ``fs``.
    """

    live = False
    settled = True

    def __init__(self, path: Path, *, kind: str, reasons: Sequence[str] = ()) -> None:
        self.kind = kind
        self.reasons = list(reasons)
        self._path = path
        self._copy = -1

    @property
    def parts(self) -> Sequence[Part]:
        """See `Hold.parts`."""
        return (self,)

    def prepare(self) -> None:
        """Make the empty copy: while everything is frozen only its content is filled in."""
        try:
            self._copy = _nameless(self._path)
        except OSError as failure:
            raise self._failed(failure) from failure

    def instant(self) -> None:
        """See `Hold.instant`; a copy doesn't change."""

    def take(self) -> None:
        """See `Part.take`."""
        try:
            original = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(self._copy, _FICLONE, original)
            finally:
                os.close(original)
        except OSError as failure:
            raise self._failed(failure) from failure

    def source(self) -> Source:
        """See `Hold.source`."""
        return open_source(self._path, os.dup(self._copy))

    def path(self) -> str:
        """See `Hold.path`; the copy has no name, so this is the way to it through the agent's process."""
        return f"/proc/{os.getpid()}/fd/{self._copy}"

    def still(self) -> Sequence[Still]:
        """See `Hold.still`."""
        return [Still(0, None, self.path())]

    def moved(self) -> str:
        """See `Hold.moved`."""
        return ""

    def release(self) -> None:
        """See `Part.release`."""
        if self._copy >= 0:
            os.close(self._copy)
            self._copy = -1

    def _failed(self, failure: OSError) -> Exception:
        text = f"{self._path} can't be copied by reference: {failure.strerror}"
        return error(Code.SNAPSHOT_FAILED, text, value=str(self._path))


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
    """Remove what agents that died left beside the given raw files; an open copy needs no name."""
    for folder in {path.resolve().parent for path in files}:
        for leftover in folder.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                leftover.unlink()


def _nameless(path: Path) -> int:
    """Make a file beside another one that goes when it is closed; not O_TMPFILE, which NFS and overlays lack."""
    descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=path.resolve().parent)
    Path(name).unlink()
    return descriptor
