"""Holds a flow of bytes to a rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds of the rate that may pass at once after a pause. Short enough that a link doesn't notice, long enough
#: that a bundle of 1 MiB passes in one piece at 4 MiB/s.
BURST_SECONDS = 0.25


class Throttle:
    """A token bucket of bytes; safe to use from several threads, which share the rate in the order they come.

    A piece larger than the bucket passes at once and is paid for by a wait of those that follow.

    Args:
        bytes_per_second: The rate; 0 for no limit.
        clock: Seconds, monotonic.
    """

    def __init__(self, bytes_per_second: float = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        if bytes_per_second < 0:
            raise ValueError(f"a rate of {bytes_per_second} bytes per second")
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = float(bytes_per_second)
        self._tokens = self._rate * BURST_SECONDS
        self._filled_at = clock()

    @property
    def bytes_per_second(self) -> float:
        """The rate; 0 for no limit."""
        return self._rate

    def set_rate(self, bytes_per_second: float) -> None:
        """Change the rate from now on; what was already let through is paid for at the new one."""
        if bytes_per_second < 0:
            raise ValueError(f"a rate of {bytes_per_second} bytes per second")
        with self._lock:
            self._fill()
            if self._rate == 0:
                self._tokens = bytes_per_second * BURST_SECONDS
            self._rate = float(bytes_per_second)
            self._tokens = min(self._tokens, self._rate * BURST_SECONDS)

    def reserve(self, count: int) -> float:
        """Take ``count`` bytes out of the bucket, now.

        Returns:
            Seconds to wait before they may pass; 0 for at once.
        """
        with self._lock:
            if self._rate == 0:
                return 0.0
            self._fill()
            wait = max(0.0, -self._tokens / self._rate)
            self._tokens -= count
            return wait

    def take(self, count: int, stop: threading.Event | None = None) -> float:
        """Wait until ``count`` bytes may pass.

        Args:
            count: Bytes.
            stop: Ends the wait when set.

        Returns:
            Seconds of the wait that was due.
        """
        wait = self.reserve(count)
        if wait > 0:
            (stop or threading.Event()).wait(wait)
        return wait

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._rate * BURST_SECONDS, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
