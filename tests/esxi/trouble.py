"""What can be made to go wrong, and how long things take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.esxi.wire import snake


class LostError(Exception):
    """The connection ends instead of an answer."""


@dataclass
class Trouble:
    """What a test wants to go wrong; any of it may be set at any time.

    Attributes:
        free_licence: The host has the free licence: it can be read and not written.
        managed_by: Address of the vCenter that manages the host, which then refuses what changes it; None: nobody.
        slow_seconds: How long a task runs before it does its work.
        merges_locked: How many merges of a removed snapshot's disks find them locked; their files stay, to be
            consolidated.
        merges_full: Likewise, and find no space.
        question: What the next machine asks when it is powered on, until it is answered.
        dumb: Methods that do their work but lose their answer, and how many times.
        deaf: Methods that are lost before they do anything, and how many times.
    """

    free_licence: bool = False
    managed_by: str | None = None
    slow_seconds: float = 0.0
    merges_locked: int = 0
    merges_full: int = 0
    question: str | None = None
    dumb: dict[str, int] = field(default_factory=dict)
    deaf: dict[str, int] = field(default_factory=dict)
    _faults: dict[str, list[Callable[[], Any]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, method: str, fault: Callable[[], Any], times: int = 1) -> None:
        """Let a method raise a fault the next times; one that ends with ``_Task`` raises it in its task.

        Args:
            method: Its name on the wire, such as ``PowerOnVM_Task``.
            fault: Makes the fault.
            times: How many times.
        """
        with self._lock:
            self._faults.setdefault(snake(method), []).extend([fault] * times)

    def meet(self, method: str) -> None:
        """Raise what a test wants of a method, if anything."""
        with self._lock:
            waiting = self._faults.get(snake(method))
            fault = waiting.pop(0)() if waiting else None
        if fault is not None:
            raise fault

    def loses(self, which: dict[str, int], method: str) -> bool:
        """Tell whether a call or its answer, as ``deaf`` or ``dumb`` has it, gets lost this time."""
        with self._lock:
            left = which.get(method, 0)
            which[method] = max(0, left - 1)
            return left > 0

    def spend(self, name: str) -> bool:
        """Count one of `merges_locked` or `merges_full` down, and tell whether there was one."""
        with self._lock:
            left: int = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0
