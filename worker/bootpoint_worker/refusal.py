"""How often a refusal is written to the history: who reaches a queue must not be able to fill the database with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

#: Refusals of one kind that the history gets within a period; the others are counted (`rejected_messages_total`).
MOST = 10

#: The period in seconds.
PERIOD = 600.0


@dataclass(slots=True)
class _Kind:
    since: float
    written: int = 0
    left_out: int = 0


class Refusals:
    """Says which refusals the history gets; one for a process, thread-safe.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[Hashable, _Kind] = {}

    def admit(self, *kind: Hashable) -> int | None:
        """Take note of a refusal.

        Args:
            kind: Where and why; nothing that the sender can choose at will.

        Returns:
            How many of this kind were left out since the last one that was written; None to leave this one out too.
        """
        now = self._clock()
        with self._lock:
            if len(self._kinds) > 1000:
                self._kinds = {known: one for known, one in self._kinds.items() if now - one.since < PERIOD}
            found = self._kinds.setdefault(kind, _Kind(now))
            if now - found.since >= PERIOD:
                found.since, found.written = now, 0
            if found.written >= MOST:
                found.left_out += 1
                return None
            found.written += 1
            before, found.left_out = found.left_out, 0
            return before
