"""Holds a flow of bytes to a rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bootpoint_common.units import GRAIN

#: Seconds of the rate that may pass at once after a pause. Short enough that a link doesn't notice, long enough that a
#: thread which is woken late loses nothing.
BURST_SECONDS = 0.25

#: Seconds of the rate that a piece holds at most, unless it is one grain: with the burst less than 5 % of 10 s, so that
#: the rate is right within that from about 330 KB/s on. Below it, grains are what makes it coarse.
PIECE_SECONDS = 0.2

#: Seconds that may be owed without anybody waiting for them: no wait is as exact.
_NOTHING = 1e-6


class Throttle:
    """A token bucket of bytes; safe to use from several threads, which share the rate.

    A piece passes as soon as nothing is owed, whatever its size; what it is too large by is owed by those that follow.

    Args:
        bytes_per_second: The rate; 0 for no limit.
        clock: Seconds, monotonic.
    """

    def __init__(self, bytes_per_second: float = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._rate = _checked(bytes_per_second)
        self._tokens = self._rate * BURST_SECONDS
        self._filled_at = clock()

    @property
    def bytes_per_second(self) -> float:
        """The rate; 0 for no limit."""
        return self._rate

    def set_rate(self, bytes_per_second: float) -> None:
        """Change the rate from now on; who waits already goes by it too.

        What is owed is paid for at the rate that is the quicker one: a piece that just passed was no debt worth
        mentioning at the old rate, and must not become a long one at a low new rate.
        """
        rate = _checked(bytes_per_second)
        with self._changed:
            self._fill()
            if rate == self._rate:
                return
            if self._rate == 0:
                self._tokens = rate * BURST_SECONDS
            elif self._tokens < 0:
                self._tokens = max(self._tokens, self._tokens * rate / self._rate)
            self._rate = rate
            self._tokens = min(self._tokens, rate * BURST_SECONDS)
            self._changed.notify_all()

    def delay(self) -> float:
        """Return the seconds until the next piece may pass; 0 for at once. Whoever lets it pass then calls `spend`."""
        with self._changed:
            return self._owed_seconds()

    def spend(self, count: int) -> None:
        """Take ``count`` bytes out of the bucket: they pass."""
        with self._changed:
            self._fill()
            if self._rate:
                self._tokens -= count

    def take(self, count: int) -> bool:
        """Wait until a piece of ``count`` bytes may pass, and take it out of the bucket.

        Returns:
            False when `close` ended the wait.
        """
        with self._changed:
            while not self._closed and (wait := self._owed_seconds()) > 0:
                self._changed.wait(wait)
            if self._rate:
                self._tokens -= count
            return not self._closed

    def close(self) -> None:
        """End every wait, those to come as well; may be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _owed_seconds(self) -> float:
        self._fill()
        if self._rate == 0 or self._tokens >= 0:
            return 0.0
        owed = -self._tokens / self._rate
        return owed if owed > _NOTHING else 0.0

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._rate * BURST_SECONDS, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now


def piece_bytes(bytes_per_second: float, most: int) -> int:
    """Return how large a piece may be for a rate to be right: whole grains, at most ``most``; without a limit that."""
    if bytes_per_second == 0:
        return most
    return min(most, max(GRAIN, int(bytes_per_second * PIECE_SECONDS) // GRAIN * GRAIN))


def _checked(bytes_per_second: float) -> float:
    if bytes_per_second < 0:
        raise ValueError(f"a rate of {bytes_per_second} bytes per second")
    return float(bytes_per_second)
