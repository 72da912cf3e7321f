"""How much each agent may say in a while: one that floods an ingress must not take the time that is the others'.

A token bucket for each sender. What is beyond it is dropped before anything is decrypted and before the database is
asked, which is a hundred times faster than to take it; an honest agent says a hundredth of what is allowed, and what
matters it says again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bootpoint_common.units import KiB

#: Messages a second, on average. An agent says one every 10 s, and in a run one or two a second. Each that is taken
#: costs a transaction: where that takes 50 ms, a flood still leaves three quarters of the time to the others.
RATE = 5.0

#: Messages at once: a run says two for each stream at its begin (256 at most), and an agent that comes back some more.
BURST = 600.0

#: Bytes that count as one message more: a list of thousands of disks (1 MiB) counts as 64.
PART = 16 * KiB

#: Senders that are remembered before those are forgotten who have their whole burst again.
_KEPT = 1000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Allowances:
    """Says what is taken; one for an ingress, thread-safe.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def take(self, sender: str, size: int) -> bool:
        """Take note of a message.

        Args:
            sender: Whose login sent it, as the broker says.
            size: Its bytes.

        Returns:
            Whether it is within what the sender may say.
        """
        now, cost = self._clock(), 1.0 + size // PART
        with self._lock:
            if sender not in self._buckets and len(self._buckets) >= _KEPT:
                self._forget(now)
            found = self._buckets.setdefault(sender, _Bucket(BURST, now))
            found.left, found.at = _filled(found, now), now
            if found.left < cost:
                return False
            found.left -= cost
            return True

    def _forget(self, now: float) -> None:
        self._buckets = {name: one for name, one in self._buckets.items() if _filled(one, now) < BURST}


def _filled(bucket: _Bucket, now: float) -> float:
    return min(BURST, bucket.left + (now - bucket.at) * RATE)
