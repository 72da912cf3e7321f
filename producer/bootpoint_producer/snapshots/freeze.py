"""Holding file systems frozen for the instant of a snapshot.

Between freeze and thaw nothing here writes: no log, no state, for either may lie on a frozen file system, and
a write would wait for ever. A process of its own thaws after ten seconds, or as soon as the agent is dead.

A logical volume whose snapshot is taken meanwhile is *suspended* instead of frozen: its snapshot freezes the file
system on it, and before Linux 6.8 the kernel refuses that where somebody froze it already, and leaves LVM half-way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_producer.snapshots import watchdog
from bootpoint_producer.snapshots.usage import Usage

#: Seconds after which the watchdog thaws: longer, and the machine's services notice.
FREEZE_TIMEOUT = 10.0
#: File systems that can be frozen at once: what a byte of the watchdog's language can name.
MAX_FROZEN = 120
#: Seconds that the watchdog may take to start on a busy machine, before anything is frozen.
_START_TIMEOUT = 20.0
#: Seconds that it may take to end, once everything is thawed.
_END_TIMEOUT = 20.0
#: Seconds more than the time limit until a freeze counts as hung: what the watchdog thawed may have let it through.
_GRACE = 2.0


def mount_points(found: Iterable[Usage]) -> list[str]:
    """Return where the file systems are mounted that lie on the disks, in the order in which they were mounted."""
    mounts = {mount for use in found for mount in use.mounts}
    return [mount.point for mount in sorted(mounts, key=lambda mount: mount.order)]


class Freeze:
    """Holds file systems frozen while the context lasts; the caller writes nothing within it.

    The one that was mounted last is frozen first: it may lie in a file of an earlier one, and its own flush
    must still get through.

    Args:
        mounts: Mount points, or numbers of volumes that are suspended with the file systems on them, in the order in
            which they were mounted.
        guarded: Numbers of volumes that the caller suspends for a moment: the watchdog lets these go on as well.
        timeout: Seconds after which the watchdog thaws.

    Attributes:
        unfrozen: File systems that can't be frozen, in words.
    """

    def __init__(
        self, *, mounts: Sequence[str | int], guarded: Sequence[int] = (), timeout: float = FREEZE_TIMEOUT
    ) -> None:
        count = len(mounts) + len(guarded)
        if count > MAX_FROZEN:
            raise error(Code.SNAPSHOT_FAILED, f"{count} file systems are too many to freeze at once")
        self.unfrozen: list[str] = []
        self._mounts = [*reversed(mounts), *guarded]
        self._guarded = range(len(mounts), count)
        self._timeout = timeout
        self._descriptors: dict[int, int] = {}
        self._control = -1
        self._frozen: list[int] = []
        self._close = ExitStack()
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._hung = False
        self._at = 0
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        """Freeze.

        Raises:
            BootpointError: ``snapshot_failed``: nothing is frozen then; ``freeze_timeout``.
        """
        try:
            self._start()
            self._freeze_in_time()
        except BaseException as failure:
            if not self._hung:
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

    # --- the watchdog

    def _start(self) -> None:
        if not self._mounts:
            return
        for index, mount in enumerate(self._mounts):
            if isinstance(mount, str):
                self._descriptors[index] = self._open(mount, os.O_RDONLY)
            elif self._control < 0:
                self._control = self._open(watchdog.DM_CONTROL, os.O_RDWR)
        # Isolated, without site packages and byte code: it must neither wait for a file nor write one.
        command = [sys.executable, "-I", "-S", "-B", watchdog.__file__, str(self._timeout)]
        self._watchdog = subprocess.Popen(
            command + [self._argument(index, mount) for index, mount in enumerate(self._mounts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            pass_fds=list(self._descriptors.values()),
            start_new_session=True,
        )
        out = self._watchdog.stdout
        assert out is not None  # noqa: S101 - stdout=PIPE
        ready, _, _ = select.select([out], [], [], _START_TIMEOUT)
        said = out.read(1) if ready else b""
        if said == watchdog.READY_UNLOCKED:
            raise error(
                Code.SNAPSHOT_FAILED,
                "several volumes can't be suspended: the process that guards them may not lock its memory",
                hint="give the agent CAP_IPC_LOCK, or run it as root",
            )
        if said != watchdog.READY:
            self._watchdog.kill()
            raise error(Code.SNAPSHOT_FAILED, "the process that guards the freeze did not start")

    def _open(self, path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        self._close.callback(os.close, descriptor)
        return descriptor

    def _argument(self, index: int, mount: str | int) -> str:
        if isinstance(mount, str):
            return str(self._descriptors[index])
        return f"{os.major(mount)}:{os.minor(mount)}"

    def _tell(self, byte: int) -> None:
        assert self._watchdog is not None  # noqa: S101 - started by _start
        assert self._watchdog.stdin is not None  # noqa: S101 - stdin=PIPE
        os.write(self._watchdog.stdin.fileno(), bytes([byte]))

    # --- freezing

    def _freeze_in_time(self) -> None:
        """Freeze in a thread of its own: the call can't be interrupted, and waits for storage that may never answer."""
        if not self._mounts:
            return
        thread = threading.Thread(target=self._freeze_all, name="freeze", daemon=True)
        thread.start()
        thread.join(self._timeout + _GRACE)
        with self._lock:
            self._hung = thread.is_alive()
        if self._hung:
            # The thread thaws as soon as it can, and until then the watchdog keeps trying.
            where = self._name(self._mounts[self._at])
            text = f"{where} could not be frozen within {self._timeout:g} s"
            raise error(Code.FREEZE_TIMEOUT, text, value=where)
        if self._failure is not None:
            raise self._failure

    def _freeze_all(self) -> None:
        try:
            for index, mount in enumerate(self._mounts):
                if self._hung:
                    break
                self._at = index
                self._freeze(index, mount)
        except (BootpointError, OSError) as failure:
            self._failure = failure
        with self._lock:
            hung = self._hung
        if hung:
            with suppress(BootpointError):  # told already
                self._end()

    def _freeze(self, index: int, mount: str | int) -> None:
        # Announced before it is done: if the agent dies in between, the watchdog thaws what isn't frozen.
        self._tell(index)
        try:
            if isinstance(mount, str):
                fcntl.ioctl(self._descriptors[index], watchdog.FIFREEZE, 0)
            elif index not in self._guarded:
                watchdog.suspend(self._control, mount)
        except OSError as failure:
            self._tell(watchdog.UNDO + index)
            name = self._name(mount)
            if failure.errno == errno.EOPNOTSUPP and isinstance(mount, str):
                self.unfrozen.append(f"the file system at {name} can't be frozen")
                return
            why = "it is frozen already" if failure.errno == errno.EBUSY else failure.strerror
            raise error(Code.SNAPSHOT_FAILED, f"{name} can't be frozen: {why}", value=name) from failure
        self._frozen.append(index)

    def _end(self) -> None:
        """Thaw in the opposite order, and end the watchdog."""
        late = False
        while self._frozen:
            try:
                self._thaw(self._frozen.pop())
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

    def _thaw(self, index: int) -> None:
        mount = self._mounts[index]
        if isinstance(mount, str):
            fcntl.ioctl(self._descriptors[index], watchdog.FITHAW, 0)
        else:
            # Its snapshot let it go on already where all went well; then this does nothing.
            watchdog.suspend(self._control, mount, resume=True)

    @staticmethod
    def _name(mount: str | int) -> str:
        return mount if isinstance(mount, str) else f"the volume {os.major(mount)}:{os.minor(mount)}"
