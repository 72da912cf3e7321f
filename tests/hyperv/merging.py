"""Merging of files that no checkpoint names any more, in the background, as VMMS does it.

Removing a checkpoint returns at once; its file stays until what stands on it was merged into it (learn.microsoft.com,
"Using checkpoints to revert virtual machines"). That is all that a VM's merges are of: what its own checkpoints left
("How to merge checkpoints that have multiple differencing disks"). A differencing disk that somebody made for another
VM, with New-VHD, is left to Merge-VHD, and what it stands on is not its VM's to change; no page says that in so many
words, and VMs that share a parent couldn't be without it. While a VM runs its merges wait, and begin anew after it: to
start the VM cancels the merge (Ben Armstrong, Virtual PC Guy's blog, 2009).
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hyperv import avhdx
from tests.hyperv.avhdx import Vhdx
from tests.hyperv.front import VhdxError
from tests.hyperv.holding import InUseError
from tests.hyperv.machine import Machine, State, is_leaf
from tests.hyperv.part import Settings

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: Seconds between two looks at whether a merge may go on.
BEAT = 0.02


class CancelledError(Exception):
    """A merge ends before its end."""


class Chains:
    """The files of one VM's disks.

    Args:
        host: Where it is.
        machine: Whose.
    """

    def __init__(self, host: Host, machine: Machine) -> None:
        self._host = host
        self._machine = machine

    def needed(self) -> set[Path]:
        """Return the files that the VM's settings or those of a checkpoint name."""
        every = self._machine._every_settings()
        return {self._host.locate(drive.path) for settings in every for drive in settings.drives}

    def parents(self) -> dict[Path, Path | None]:
        """Return every file of all chains with its parent."""
        found: dict[Path, Path | None] = {}
        waiting = [each for each in self.needed() if each.exists()]
        while waiting:
            path = waiting.pop()
            if path not in found:
                # One that is damaged says nothing of what is beneath it, and can be thrown away all the same.
                with contextlib.suppress(VhdxError):
                    found[path] = self._host.parent_of(path)
                found.setdefault(path, None)
                waiting += [parent for parent in [found[path]] if parent is not None and parent.exists()]
        return found

    def redundant(self) -> Iterator[tuple[Path, Path]]:
        """Yield (upper, lower): what removed checkpoints left, and the only file that stands on each."""
        parents = self.parents()
        for lower in sorted(self._machine._left - self.needed()):
            above = [each for each, parent in parents.items() if parent == lower]
            if lower in parents and len(above) == 1:
                yield above[0], lower

    def unneeded(self, before: set[Path]) -> list[Path]:
        """Return those of some files that no chain has any more, and that the host may delete."""
        return [path for path in before if path not in self.parents() and is_leaf(path) and path.exists()]

    def point(self, old: Path, new: Path) -> None:
        """Let settings that name a file name another."""
        for settings in self._machine._every_settings():
            _point(self._host, settings, old, new)


def _point(host: Host, settings: Settings, old: Path, new: Path) -> None:
    for drive in settings.drives:
        if host.locate(drive.path) == old:
            drive.path = host.name_of(new)


class Merger:
    """The host's merges, one at a time.

    Args:
        host: Where.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._wake = threading.Condition()
        self._waiting: list[Machine] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to merge what waits."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at once, and leave a merge half done; may be called twice."""
        if self._thread is None:
            return
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._thread.join()
        self._thread = None

    def ask(self, machine: Machine) -> None:
        """Let a VM's files be merged that can be: soon, and not while it runs."""
        with self._host.lock:
            machine._merging = machine.state is State.Off and any(Chains(self._host, machine).redundant())
        if machine._merging:
            with self._wake:
                self._waiting.append(machine)
                self._wake.notify_all()

    def wait_for(self, machine: Machine) -> None:
        """Wait until a VM that was started isn't merged any more."""
        with self._wake:
            while machine._merging and self._thread is not None and not self._stopping:
                self._wake.wait(BEAT)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._stopping:
                    self._wake.wait()
                if self._stopping:
                    return
                machine = self._waiting.pop(0)
            self._settle(machine)

    def _settle(self, machine: Machine) -> None:
        """Merge all of a VM that can be; what is left waits for the next time that it is asked."""
        chains = Chains(self._host, machine)
        try:
            while pair := next(chains.redundant(), None):
                self._merge(machine, *pair)
                with self._locked(machine):
                    chains.point(*pair)
                    self._adopt(chains, *pair)
                    pair[0].unlink()
        except (CancelledError, InUseError):
            # VMMS tries again when something of the VM changes.
            pass
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
        finally:
            with self._wake:
                machine._merging = machine in self._waiting

    def _adopt(self, chains: Chains, upper: Path, lower: Path) -> None:
        """Let what stood on the upper file stand on the lower."""
        for path, parent in chains.parents().items():
            if parent == upper:
                with Vhdx(path, writable=True) as disk:
                    disk.set_parent(lower, self._host.name_of(lower))

    def _merge(self, machine: Machine, upper: Path, lower: Path) -> None:
        holds = [self._host.holds.take(path) for path in (upper, lower)]
        try:
            if self._host.trouble.no_space():
                raise CancelledError
            step, lock = (lambda: self._step(machine)), self._locked(machine)
            avhdx.merge(upper, lower, step, self._host.find_parent, windows_path=self._host.name_of(lower), lock=lock)
        finally:
            for hold in holds:
                self._host.holds.release(hold)

    @contextlib.contextmanager
    def _locked(self, machine: Machine) -> Iterator[None]:
        """Have the host's lock, unless the VM is started meanwhile: who starts it has the lock, and waits for us."""
        while not self._host.lock.acquire(timeout=BEAT):
            self._check(machine)
        try:
            self._check(machine)
            yield
        finally:
            self._host.lock.release()

    def _check(self, machine: Machine) -> None:
        if self._stopping or machine.state is not State.Off:
            raise CancelledError

    def _step(self, machine: Machine) -> None:
        """Take the time that a piece takes, and go on unless the VM was started or the host goes down."""
        seconds = self._host.trouble.merge_piece_seconds
        with self._wake:
            while True:
                self._check(machine)
                if not self._host.trouble.merges_held and seconds <= 0:
                    return
                self._wake.wait(BEAT)
                seconds -= BEAT
