"""Faults of the fake host: fail, die, disconnect, delay or pause any call at any of its named steps.

A verb goes through the steps of `STEPS` in order. ``called`` comes before anything was looked at, ``done``
after everything is done and before the caller hears of it; a fault at a step strikes *before* that step's
act, which is atomic. So a fault at each step in turn is a crash between every two of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Every verb with its steps in order.
STEPS: Mapping[str, tuple[str, ...]] = {
    "inspect_host": ("called", "done"),
    "find_replicas": ("called", "done"),
    "inspect": ("called", "done"),
    "create": ("called", "check", "journal", "done"),
    "free_bytes": ("called", "done"),
    "open": ("called", "check", "layers", "journal", "done"),
    "open_writer": ("called", "fence", "serve", "done"),
    "open_reader": ("called", "done"),
    "commit": ("called", "fence", "check", "sync", "journal", "standby", "runbook", "done"),
    "abort": ("called", "fence", "journal", "layers", "done"),
    "consolidate": ("called", "check", "mark", "merge", "sync", "settle", "runbook", "clear", "done"),
    "remove": ("called", "standby", "mark", "layers", "journal", "done"),
    "discard": ("called", "check", "standby", "mark", "move", "done"),
    "find_discarded": ("called", "done"),
    "restore": ("called", "check", "move", "mark", "standby", "done"),
    "purge": ("called", "layers", "journal", "done"),
    "revert": ("called", "scratch", "define", "done"),
    "start": ("called", "scratch", "define", "run", "done"),
    "examine": ("called", "journal", "done"),
    "stop": ("called", "end", "scratch", "done"),
    "look": ("called", "done"),
    "write": ("called", "done"),
    "zero": ("called", "done"),
    "read": ("called", "done"),
    "flush": ("called", "done"),
}

#: Seconds that a paused call waits for its release; then the test that forgot it fails instead of hanging.
PAUSE_SECONDS = 60.0

#: Steps that the trace remembers, enough for one run and bounded.
TRACE_LENGTH = 10_000


class Pause:
    """A call that waits at a step until it is let go."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._released = threading.Event()

    def wait(self, timeout: float = PAUSE_SECONDS) -> None:
        """Return when a call has reached the step.

        Raises:
            TimeoutError: None did within ``timeout`` seconds.
        """
        if not self._reached.wait(timeout):
            raise TimeoutError("no call reached the step")

    def release(self) -> None:
        """Let the call go on; may be called twice, or before the step was reached."""
        self._released.set()

    def __call__(self, _session: object) -> None:
        """Wait here; what the host does when a call comes to the step."""
        self._reached.set()
        if not self._released.wait(PAUSE_SECONDS):
            raise TimeoutError("nobody released the call")


@dataclass(slots=True)
class _Fault:
    """An act that waits for a step: it skips ``after`` calls, then strikes ``times`` times."""

    verb: str
    step: str
    act: Callable[[object], None]
    after: int
    times: int


class Faults:
    """What is to go wrong, and a trace of the steps that were reached; thread-safe.

    Attributes:
        steps: `STEPS`.
        trace: The newest (verb, step) pairs, oldest first.
    """

    steps = STEPS

    def __init__(self) -> None:
        self.trace: deque[tuple[str, str]] = deque(maxlen=TRACE_LENGTH)
        self._faults: list[_Fault] = []
        self._faults_lock = threading.Lock()

    def act_at(self, verb: str, step: str, act: Callable[[object], None], *, after: int = 0, times: int = 1) -> None:
        """Call ``act(session)`` at a step; what it raises comes out of the call.

        Args:
            verb: A key of `STEPS`.
            step: One of its steps.
            act: Called outside all locks of the host but the replica's own.
            after: Calls that pass unharmed first.
            times: Calls that are struck then.

        Raises:
            ValueError: There is no such step.
        """
        if step not in STEPS.get(verb, ()):
            raise ValueError(f"the fake target has no step {verb}.{step}")
        with self._faults_lock:
            self._faults.append(_Fault(verb, step, act, after, times))

    def fail_at(self, verb: str, step: str, failure: BaseException, *, after: int = 0, times: int = 1) -> None:
        """Raise ``failure`` at a step: an error of the host, or the death of the worker that called."""

        def act(_session: object) -> None:
            raise failure

        self.act_at(verb, step, act, after=after, times=times)

    def delay_at(self, verb: str, step: str, seconds: float, *, after: int = 0, times: int = 1) -> None:
        """Hold calls up at a step, as a slow host does."""
        self.act_at(verb, step, lambda _session: time.sleep(seconds), after=after, times=times)

    def pause_at(self, verb: str, step: str, *, after: int = 0) -> Pause:
        """Stop one call at a step until `Pause.release`."""
        pause = Pause()
        self.act_at(verb, step, pause, after=after)
        return pause

    def clear_faults(self) -> None:
        """Forget every fault that hasn't struck."""
        with self._faults_lock:
            self._faults.clear()

    def fire(self, verb: str, step: str, session: object) -> None:
        """Note that ``session`` reached a step, and let the first fault that waits for it strike."""
        with self._faults_lock:
            self.trace.append((verb, step))
            fault = self._due(verb, step)
        if fault is not None:
            fault.act(session)

    def _due(self, verb: str, step: str) -> _Fault | None:
        for fault in self._faults:
            if (fault.verb, fault.step) != (verb, step):
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self._faults.remove(fault)
            return fault
        return None
