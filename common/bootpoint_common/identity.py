"""Ids: UUIDs of version 7, which sort by the time they were made (RFC 9562, section 5.7)."""

from __future__ import annotations

import secrets
import threading
import time
from uuid import UUID


class _Clock:
    """The newest instant handed out, in 1/4096 ms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def tick(self, later_than: int = 0) -> int:
        """Return an instant later than all before, and than the given one."""
        with self._lock:
            self._last = max(time.time_ns() * 4096 // 1_000_000, self._last + 1, later_than + 1)
            return self._last


_clock = _Clock()


def new_id(later_than: UUID | None = None) -> UUID:
    """Make an id that no other machine makes, greater than all made before in this process.

    The 48 bits of milliseconds are followed by 12 bits of their fraction (RFC 9562, section 6.2, method 3)
    and 62 random bits; where the clock stands still or goes back, the fraction counts on.

    Args:
        later_than: An id of another process that this one must be greater than, whatever the clock says now.

    Returns:
        A UUID of version 7.
    """
    known = 0 if later_than is None else (later_than.int >> 80) * 4096 + (later_than.int >> 64 & 4095)
    milliseconds, fraction = divmod(_clock.tick(known), 4096)
    value = (milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)
    return UUID(int=value)
