"""A KVM host that can lose its power at any moment of what a worker does with it.

::

    worker ──► PoweredTarget ──► PoweredSession ──► scripts, qemu-nbd ──► PowerCutStorage
                    └── moments ──► Power: waits for the armed one, and holds the worker there

A cut ends everything that runs on the host, takes what was not synced, and lets the worker's calls fail as those to a
host that is gone; what a call has found out while the power went is never believed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from bootpoint_worker.targets.base import LayerWriter
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.kvm.hypervisor import Hypervisor
from bootpoint_worker.targets.kvm.session import COMMAND_TIMEOUT, LocalSession, Result, unreachable
from bootpoint_worker.targets.kvm.target import KvmTarget
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from tests.service.powercut import PowerCutStorage
from tests.service.process import wait_for

#: Longest wait of a worker that is held at a moment, in seconds.
HOLD = 60.0


class Power:
    """The power of a host.

    Args:
        storage: The host's storage.

    Attributes:
        storage: The same.
        seen: How often each moment has come since `count` or `arm`.
        reached: Set once the armed moment has come.
    """

    def __init__(self, storage: PowerCutStorage) -> None:
        self.storage = storage
        self.seen: Counter[str] = Counter()
        self.reached = threading.Event()
        self._armed: tuple[str, int, bool] | None = None
        self._go_on = threading.Event()
        self._lock = threading.Lock()
        self._on = True
        self._cuts = 0

    def target(self, access: HostAccess) -> PoweredTarget:
        """Make the driver of this host."""
        return PoweredTarget(access, self)

    def count(self) -> None:
        """Count moments from now on."""
        with self._lock:
            self.seen.clear()

    def arm(self, moment: str, number: int, *, hold: bool) -> None:
        """Wait for a moment.

        Args:
            moment: Its name.
            number: Which of the moments of that name that come from now on, from 1.
            hold: Whether the worker stops there until the cut is over; else it runs on into it.
        """
        self.reached.clear()
        self._go_on.clear()
        with self._lock:
            self.seen.clear()
            self._armed = moment, number, hold

    def disarm(self) -> None:
        """Wait for nothing any more."""
        with self._lock:
            self._armed = None
        self._go_on.set()

    def moment(self, name: str) -> None:
        """Say that a moment has come."""
        with self._lock:
            self.seen[name] += 1
            hit = self._armed is not None and self._armed[0] == name and self._armed[1] == self.seen[name]
            hold = hit and self._armed is not None and self._armed[2]
        if hit:
            self.reached.set()
        if hold:
            self._go_on.wait(HOLD)

    @contextlib.contextmanager
    def cut(self, rng: Random) -> Iterator[None]:
        """Cut the power; within the block the storage is as the cut left it, and the host is away still."""
        with self._lock:
            self._on = False
            self._cuts += 1
        # Whoever was held goes on, into calls that fail.
        self.disarm()
        wait_for(self._end_processes, "everything on the host to end")
        self.storage.cut(rng)
        yield
        with self._lock:
            self._on = True

    def ask(self, host: str, cuts: int | None = None) -> int:
        """Return how often the power was cut so far.

        Raises:
            RetryableError: ``host_unreachable``: the power is off, or was cut since it was ``cuts``.
        """
        with self._lock:
            if not self._on or cuts not in (None, self._cuts):
                raise unreachable(host, "its power was cut")
            return self._cuts

    def _end_processes(self) -> bool:
        """Kill whoever has anything to do with the storage; says whether nobody was there."""
        place = str(self.storage.path)
        found = [pid for pid in _processes() if pid != os.getpid() and any(place in word for word in _words(pid))]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _words(pid: int) -> Iterator[str]:
    """Yield a process' arguments, its working directory, and the files that it has open."""
    folder = Path("/proc") / str(pid)
    with contextlib.suppress(OSError):
        yield from (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        yield str((folder / "cwd").readlink())
        for descriptor in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink())


class PoweredSession(LocalSession):
    """The session of a host whose power can be cut."""

    def __init__(self, *, host: str, power: Power) -> None:
        super().__init__(host=host)
        self._power = power

    def run(self, script: str, *arguments: str, stdin: bytes = b"", timeout: float = COMMAND_TIMEOUT) -> Result:
        """Run a script; its answer is lost when the power goes before it has come."""
        self._power.moment("script")
        cuts = self._power.ask(self.host)
        result = super().run(script, *arguments, stdin=stdin, timeout=timeout)
        self._power.moment("script:done")
        self._power.ask(self.host, cuts)
        return result

    def attach(self, script: str, *arguments: str) -> socket.socket:
        """Start a script, unless the power is off."""
        self._power.ask(self.host)
        return super().attach(script, *arguments)

    def dial(self, path: str) -> socket.socket:
        """Connect, unless the power is off."""
        self._power.ask(self.host)
        return super().dial(path)


class PoweredTarget(KvmTarget):
    """The KVM driver on a host whose power can be cut."""

    def __init__(self, access: HostAccess, power: Power) -> None:
        super().__init__(access=access, step=power.moment)
        session = PoweredSession(host=access.name, power=power)
        hypervisor = Hypervisor(session=session, socket=access.settings.get("libvirt_socket"))
        self.host = replace(self.host, session=session, hypervisor=hypervisor)
        self._power = power

    def open_writer(self, replica: Replica, layer: Layer, writer: int) -> LayerWriter:  # type: ignore[override]
        """Open a writer that says when it writes and flushes."""
        return PoweredWriter(super().open_writer(replica, layer, writer), self._power)


class PoweredWriter:
    """A writer whose moments are known."""

    def __init__(self, inner: LayerWriter, power: Power) -> None:
        self._inner = inner
        self._power = power

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write."""
        self._power.moment("write")
        self._inner.write(offset, data)

    def zero(self, offset: int, length: int) -> None:
        """Make a range zero."""
        self._power.moment("write")
        self._inner.zero(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """Read."""
        self._power.moment("read")
        return self._inner.read(offset, length)

    def flush(self) -> None:
        """Flush."""
        self._power.moment("flush")
        self._inner.flush()
        self._power.moment("flush:done")

    def close(self) -> None:
        """Let go."""
        self._inner.close()
