"""A limit to a whole delivery: a timeout is of each wait for bytes, and a byte now and then outlasts it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class Deadline:
    """Ends the connections of a delivery that takes too long in all; a context, for one delivery.

    Looking up a name can't be ended; it counts all the same, and the connection is ended as soon as it stands.

    Args:
        seconds: How long it may take.

    Attributes:
        why: What it ended them for; None where it didn't.
    """

    def __init__(self, seconds: float) -> None:
        self.why: str | None = None
        self._seconds = seconds
        self._held: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for held in self._held:
                held.close()
            self._held.clear()

    def hold(self, made: socket.socket) -> None:
        """Take a connection under it. Of its socket a copy is held: TLS takes the other one over."""
        with self._lock:
            self._held.append(made.dup())
        if self.why is not None:
            self._cut()

    def _end(self) -> None:
        self.why = f"it took more than {self._seconds:g} s"
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            for held in self._held:
                with contextlib.suppress(OSError):  # the other side was first
                    held.shutdown(socket.SHUT_RDWR)
