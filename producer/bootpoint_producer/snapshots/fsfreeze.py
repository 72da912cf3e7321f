"""Freezing the file systems that lie on the disks, just long enough to copy the disks by reference.

Between freeze and thaw nothing here writes: no log, no state, for either may lie on a frozen file system, and
a write would wait for ever. A process of its own thaws after ten seconds, or as soon as the agent is dead.

A file system stays frozen for an instant only. So a freeze gives ``fs`` where the disk is a raw file that can be
copied by reference within it. A plain device has nothing that keeps the instant: its file systems are flushed by
freezing and thawing them, then it is read as it changes, and the result is ``crash``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_producer.snapshots import watchdog
from bootpoint_producer.snapshots.base import AtInstant, SnapshotSet, nothing
from bootpoint_producer.snapshots.none import LiveSet, disk_usage
from bootpoint_producer.snapshots.reflink import can_clone, clone_all
from bootpoint_producer.snapshots.usage import Usage

#: Seconds after which the watchdog thaws: longer, and the machine's services notice.
FREEZE_TIMEOUT = 10.0
#: File systems that can be frozen at once: what a byte of the watchdog's language can name.
MAX_FROZEN = 120
#: Seconds that the watchdog may take to start on a busy machine, before anything is frozen.
_START_TIMEOUT = 20.0
#: Seconds that it may take to end, once everything is thawed.
_END_TIMEOUT = 20.0


class FlushedSet(LiveSet):
    """Disks that were flushed by a freeze and are read as they change.

    Args:
        disks: Path of each slot.
        reasons: Why the consistency isn't better.
        frozen: Whether everybody who writes to the disks was frozen at the instant.
    """

    kind = "fsfreeze"

    def __init__(self, *, disks: Mapping[str, Path], reasons: list[str], frozen: bool) -> None:
        super().__init__(disks=disks, reasons=reasons)
        self._frozen = frozen

    @property
    def settled(self) -> bool:
        """See `LiveSet.settled`; a freeze waits for what is under way, if it reaches all who write."""
        return self._frozen or super().settled


class FsFreeze:
    """Freezes, copies by reference where every disk allows it, thaws.

    Args:
        timeout: Seconds after which the watchdog thaws.
    """

    kind = "fsfreeze"

    def __init__(self, *, timeout: float = FREEZE_TIMEOUT) -> None:
        self._timeout = timeout

    def take(self, disks: Mapping[str, Path], *, at_instant: AtInstant = nothing) -> SnapshotSet:
        """See `Snapshot.take`."""
        found = {path: disk_usage(path) for path in disks.values()}
        reasons = [f"{path} is {'; '.join(use.others)}" for path, use in found.items() if use.others]
        clonable = all(can_clone(path) for path in disks.values())
        freeze = Freeze(mounts=mount_points(found.values()), timeout=self._timeout)
        taken: SnapshotSet | None = None
        try:
            with freeze:
                at_instant()
                if clonable:
                    reasons += freeze.unfrozen
                    taken = clone_all(disks, kind=self.kind, reasons=reasons)
        except BaseException:
            if taken is not None:
                taken.release()
            raise
        if taken is not None:
            return taken
        frozen = not reasons and not freeze.unfrozen
        live = [use.words() for use in found.values() if use.mounts]
        reasons += [f"a disk is {words}, and its storage keeps no snapshot" for words in live]
        return FlushedSet(disks=disks, reasons=reasons, frozen=frozen)


def mount_points(found: Iterable[Usage]) -> list[str]:
    """Return where the file systems are mounted that lie on the disks, in the order in which they were mounted."""
    mounts = {mount for use in found for mount in use.mounts}
    return [mount.point for mount in sorted(mounts, key=lambda mount: mount.order)]


class Freeze:
    """Holds file systems frozen while the context lasts; the caller writes nothing within it.

    The one that was mounted last is frozen first: it may lie in a file of an earlier one, and its own flush
    must still get through.

    Args:
        mounts: Mount points, in the order in which they were mounted.
        timeout: Seconds after which the watchdog thaws.

    Attributes:
        unfrozen: File systems that can't be frozen, in words.
    """

    def __init__(self, *, mounts: Sequence[str], timeout: float = FREEZE_TIMEOUT) -> None:
        if len(mounts) > MAX_FROZEN:
            raise error(Code.SNAPSHOT_FAILED, f"{len(mounts)} file systems are too many to freeze at once")
        self.unfrozen: list[str] = []
        self._mounts = list(reversed(mounts))
        self._timeout = timeout
        self._descriptors: list[int] = []
        self._frozen: list[int] = []
        self._close = ExitStack()
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Freeze.

        Raises:
            BootpointError: ``snapshot_failed``: nothing is frozen then; ``freeze_timeout``.
        """
        try:
            self._start()
            for index, mount in enumerate(self._mounts):
                self._freeze(index, mount)
        except BaseException as failure:
            with suppress(BootpointError):  # the first error is the one to tell
                self._end()
            if isinstance(failure, OSError):
                raise error(Code.SNAPSHOT_FAILED, f"the file systems can't be frozen: {failure}") from failure
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Thaw.

        Raises:
            BootpointError: ``freeze_timeout``: the watchdog was faster; what was done meanwhile is worth nothing.
        """
        try:
            self._end()
        except BootpointError:
            if value is None:
                raise

    def _start(self) -> None:
        if not self._mounts:
            return
        for mount in self._mounts:
            descriptor = os.open(mount, os.O_RDONLY | os.O_CLOEXEC)
            self._close.callback(os.close, descriptor)
            self._descriptors.append(descriptor)
        # Isolated, without site packages and byte code: it must neither wait for a file nor write one.
        command = [sys.executable, "-I", "-S", "-B", watchdog.__file__, str(self._timeout)]
        self._watchdog = subprocess.Popen(
            command + [str(descriptor) for descriptor in self._descriptors],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            pass_fds=self._descriptors,
            start_new_session=True,
        )
        out = self._watchdog.stdout
        assert out is not None  # noqa: S101 - stdout=PIPE
        ready, _, _ = select.select([out], [], [], _START_TIMEOUT)
        if not ready or out.read(1) != watchdog.READY:
            self._watchdog.kill()
            raise error(Code.SNAPSHOT_FAILED, "the process that guards the freeze did not start")

    def _freeze(self, index: int, mount: str) -> None:
        # Announced before it is done: if the agent dies in between, the watchdog thaws what isn't frozen.
        self._tell(index)
        try:
            fcntl.ioctl(self._descriptors[index], watchdog.FIFREEZE, 0)
        except OSError as failure:
            self._tell(watchdog.UNDO + index)
            if failure.errno == errno.EOPNOTSUPP:
                self.unfrozen.append(f"the file system at {mount} can't be frozen")
                return
            why = "it is frozen already" if failure.errno == errno.EBUSY else failure.strerror
            raise error(Code.SNAPSHOT_FAILED, f"{mount} can't be frozen: {why}", value=mount) from failure
        self._frozen.append(index)

    def _end(self) -> None:
        """Thaw in the opposite order, and end the watchdog."""
        late = False
        while self._frozen:
            try:
                fcntl.ioctl(self._descriptors[self._frozen.pop()], watchdog.FITHAW, 0)
            except OSError:  # EINVAL: the watchdog thawed it
                late = True
        if self._watchdog is not None:
            with suppress(OSError):
                self._tell(watchdog.DONE)
            try:
                late = self._watchdog.wait(_END_TIMEOUT) == watchdog.TOO_LONG or late
            except subprocess.TimeoutExpired:  # stopped by somebody; all is thawed, so nothing is left to it
                self._watchdog.kill()
                self._watchdog.wait()
            for pipe in (self._watchdog.stdin, self._watchdog.stdout):
                if pipe is not None:
                    pipe.close()
            self._watchdog = None
        self._close.close()
        if late:
            raise error(
                Code.FREEZE_TIMEOUT,
                f"the file systems were frozen for more than {self._timeout:g} s and were thawed",
            )

    def _tell(self, byte: int) -> None:
        assert self._watchdog is not None  # noqa: S101 - started by _start
        assert self._watchdog.stdin is not None  # noqa: S101 - stdin=PIPE
        os.write(self._watchdog.stdin.fileno(), bytes([byte]))
