"""Threads of a process that do the same thing again, get over a lost broker or database, and show that they move."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

import dramatiq
import psycopg
from psycopg_pool import PoolTimeout

from bootpoint_common.stream.carrier import CarrierLost

_log = logging.getLogger(__name__)

#: What a lost broker or database looks like; the loop that meets it begins anew after `AGAIN_SECONDS`.
AWAY = (CarrierLost, psycopg.Error, PoolTimeout, dramatiq.errors.BrokerConnectionError, OSError)

#: Seconds until a loop that lost its broker or database begins anew.
AGAIN_SECONDS = 1.0


class Loop:
    """A thread that does the same thing again until it is told to stop.

    Args:
        name: Name of the thread.
        work: One round, given the loop; returns when there is nothing to do at the moment.
        stop: Set when the loop is to end.
        pause: Seconds between rounds.
        vital: Whether a process in which it hangs had better be started anew.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Loop], object],
        stop: threading.Event,
        *,
        pause: float = 0.0,
        vital: bool = False,
    ) -> None:
        self.name, self.vital = name, vital
        self._work, self._stop, self._pause = work, stop, pause
        self._moved_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        self._thread.join(timeout)

    @property
    def silence(self) -> float:
        """Seconds since it last moved; a round that fails is a move, one that hangs is none."""
        return time.monotonic() - self._moved_at

    def goes_on(self) -> bool:
        """Say whether it is to go on, and note that it moves: asked between the steps of a long round, too."""
        self._moved_at = time.monotonic()
        return not self._stop.is_set()

    def _run(self) -> None:
        while self.goes_on():
            pause = self._pause
            try:
                self._work(self)
            except AWAY as away:
                _log.warning("loop begins anew", extra={"loop": self.name, "cause": str(away)})
                pause = AGAIN_SECONDS
            except Exception:  # noqa: BLE001 - the thread's boundary: what failed stands in a row or queue, is met again
                _log.exception("loop failed", extra={"loop": self.name})
                pause = AGAIN_SECONDS
            if pause:
                self._stop.wait(pause)


def stuck(loops: Iterable[Loop], seconds: float) -> str | None:
    """Return the name of a vital loop that hasn't moved for so many seconds; None when all have."""
    return next((loop.name for loop in loops if loop.vital and loop.silence > seconds), None)
