"""The present by the control plane's clock, which orders and questions expire by: this machine's own may be wrong."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_log = logging.getLogger(__name__)

#: Seconds that the clocks may differ before it is said.
TOLERANCE = 60.0


def _since_boot() -> float:
    """Return seconds that go on while the machine sleeps, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _own() -> datetime:
    return datetime.now(UTC)


class Present:
    """Knows it from what the control plane says at each welcome; thread-safe.

    The newest word counts: a clock that was set right since, and this machine's drift, are mended by the next one. A
    word is old by the time that it was under way, so what is late seems younger, and is taken rather than dropped.

    Args:
        since_boot: Seconds.
        own: This machine's clock, which counts until the first word.
    """

    def __init__(
        self, *, since_boot: Callable[[], float] = _since_boot, own: Callable[[], datetime] = _own
    ) -> None:
        self._since_boot = since_boot
        self._own = own
        self._lock = threading.Lock()
        self._at_boot: datetime | None = None

    def told(self, now: datetime | None) -> None:
        """Take the control plane's word of what time it was; an old one says nothing."""
        if now is None:
            return
        at_boot = now - timedelta(seconds=self._since_boot())
        with self._lock:
            if self._at_boot is None:
                off = (self._own() - now).total_seconds()
                if abs(off) > TOLERANCE:
                    _log.warning("this machine's clock is wrong: set it", extra={"seconds_ahead": round(off)})
            self._at_boot = at_boot

    def now(self) -> datetime:
        """Return the present."""
        with self._lock:
            if self._at_boot is None:
                return self._own()
            return self._at_boot + timedelta(seconds=self._since_boot())
