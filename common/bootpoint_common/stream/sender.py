"""Publishes several streams over one connection: the moving part around `window`.

::

    maker of bundles ──offer──►┐                     ┌──► publisher (one connection, one thread)
    maker of bundles ──offer──►│ Outlet: a window    │◄── confirmed, refused, lost
    inbox ──credit, resend────►┘ for each stream     └──  reconnect, go back, go on
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol
from uuid import UUID

from bootpoint_common.stream.carrier import CarrierLost, Confirmed, Refused, StreamPublisher
from bootpoint_common.stream.window import HOLD, IN_FLIGHT, Window

#: Seconds between two attempts to connect: from the first value, doubled each time, up to the second.
CONNECT_FIRST, CONNECT_LAST = 0.2, 5.0

#: Seconds of one `poll` of the sender's thread; whatever happens wakes it earlier.
_IDLE = 5.0

_log = logging.getLogger(__name__)


class StreamClosedError(Exception):
    """The outlet was closed on this side, by its user or with its sender."""


class Pace(Protocol):
    """A limit on what is published, shared by the streams that it is given to; called by the sender's thread only."""

    def delay(self) -> float:
        """Return the seconds until the next bundle may be published; 0 for at once."""

    def spend(self, count: int) -> None:
        """Note that a bundle of ``count`` bytes was published, for the first time or again."""


class Outlet:
    """One stream's way out; thread-safe. Made by `StreamSender.open`.

    Attributes:
        pace: What limits it, with others; None for nothing.
    """

    def __init__(self, sender: StreamSender, window: Window, pace: Pace | None) -> None:
        self.pace = pace
        self._sender = sender
        self._window = window
        self._changed = sender.changed
        self._closed = False

    @property
    def stream(self) -> UUID:
        """The stream's id."""
        return self._window.stream

    def offer(self, body: bytes, end_offset: int, timeout: float | None = None) -> bool:
        """Hand over the next bundle; waits while the window is full.

        Args:
            body: The encrypted bundle.
            end_offset: `Sealer.offset` after it was sealed.
            timeout: Seconds to wait for room; None waits for ever.

        Returns:
            Whether it was taken.

        Raises:
            StreamClosedError: The outlet was closed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._window.room(len(body)), timeout):
                return False
            self._require()
            self._window.offer(body, end_offset)
            self._sender.wake()
            return True

    def allow(self, may_send_until: int) -> None:
        """Take credit; only the maximum counts."""
        with self._changed:
            self._window.allow(may_send_until)
            self._sender.wake()

    def resend_from(self, sequence: int) -> None:
        """Publish again from a bundle on.

        Raises:
            RetryableError: ``stream_gap``: its bytes are no longer held.
        """
        with self._changed:
            self._window.resend_from(sequence)
            self._sender.wake()

    def wait_drained(self, timeout: float | None = None) -> bool:
        """Wait until the broker holds everything that was offered; return whether it does.

        Raises:
            StreamClosedError: The outlet was closed.
        """
        with self._changed:
            drained = self._changed.wait_for(lambda: self._closed or self._window.drained, timeout)
            self._require()
            return drained

    @property
    def confirmed_offset(self) -> int:
        """Encrypted bytes that the broker confirmed."""
        return self._window.confirmed_offset

    @property
    def credit_wait_seconds(self) -> float:
        """Seconds spent waiting for credit, all together."""
        with self._changed:
            return self._window.credit_wait_seconds

    @property
    def starved_seconds(self) -> float:
        """Seconds that a bundle has now been waiting for credit; every 5 the agent asks for some."""
        with self._changed:
            return self._window.starved_seconds

    @property
    def held_bytes(self) -> int:
        """Encrypted bytes held."""
        return self._window.held_bytes

    @property
    def republished_bytes(self) -> int:
        """Encrypted bytes that were published more than once."""
        return self._window.republished_bytes

    @property
    def returned(self) -> bool:
        """Whether the broker's last word was that there is no such stream: it was deleted, or not yet made."""
        return self._window.returned

    def close(self) -> None:
        """Publish nothing more, and let go of what is held; may be called twice."""
        with self._changed:
            self._closed = True
            self._sender.forget(self._window.stream)
            self._window.release()
            self._changed.notify_all()

    def _require(self) -> None:
        if self._closed or self._sender.closed:
            raise StreamClosedError(f"stream {self._window.stream} was closed") from self._sender.failure


class StreamSender:
    """Moves every outlet's bundles over one connection at a time, which it makes anew when it is lost.

    `start` gives it a thread of its own; a test calls `step` instead.

    Args:
        connect: Opens a publisher, or raises `CarrierLost`.
        clock: Seconds, monotonic.

    Attributes:
        changed: The lock of all outlets, and the news that one changed.
        closed: Whether `close` was called, or the thread failed.
        failure: What the thread failed with.
    """

    def __init__(self, *, connect: Callable[[], StreamPublisher], clock: Callable[[], float] = monotonic) -> None:
        self.changed = threading.Condition()
        self.closed = False
        self.failure: BaseException | None = None
        self._connect = connect
        self._clock = clock
        self._outlets: dict[UUID, tuple[Outlet, Window]] = {}
        self._publisher: StreamPublisher | None = None
        self._connect_at = 0.0
        self._connect_wait = CONNECT_FIRST
        self._thread: threading.Thread | None = None

    def open(
        self,
        stream: UUID,
        *,
        sequence: int = 0,
        offset: int = 0,
        hold_bytes: int = HOLD,
        in_flight_bytes: int = IN_FLIGHT,
        pace: Pace | None = None,
    ) -> Outlet:
        """Make the outlet of one more stream, limited by a pace; other arguments as in `Window`."""
        window = Window(
            stream,
            sequence=sequence,
            offset=offset,
            hold_bytes=hold_bytes,
            in_flight_bytes=in_flight_bytes,
            clock=self._clock,
        )
        outlet = Outlet(self, window, pace)
        with self.changed:
            if self.closed:
                raise StreamClosedError("the sender was closed")
            self._outlets[stream] = outlet, window
        return outlet

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="bootpoint-sender", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._publisher is not None

    def step(self, timeout: float) -> None:
        """Connect if need be, publish what may go, and take in what the broker says within ``timeout`` seconds."""
        publisher = self._publisher or self._reconnect(timeout)
        if publisher is None:
            return
        try:
            with self.changed:
                wait = min(timeout, self._publish(publisher))
            events = publisher.poll(wait)
        except CarrierLost as exc:
            _log.warning("connection for bundles lost", extra={"reason": str(exc)})
            self._lose(publisher)
            return
        self._take(events)

    def _take(self, events: list[Confirmed | Refused]) -> None:
        if events:
            # Not once it is connected: a broker that closes each connection at its first bundle connects well.
            self._connect_wait = CONNECT_FIRST
        with self.changed:
            for _, window in self._outlets.values():
                for event in events:
                    window.take(event)
            self.changed.notify_all()

    def wake(self) -> None:
        """Let `step` look again at what may go; the lock is held."""
        if self._publisher is not None:
            self._publisher.wake()
        self.changed.notify_all()

    def forget(self, stream: UUID) -> None:
        """Drop a stream's outlet; the lock is held."""
        self._outlets.pop(stream, None)

    def close(self) -> None:
        """End the thread, the connection and every outlet; may be called twice."""
        with self.changed:
            self.closed = True
            self.wake()
            outlets = [outlet for outlet, _ in self._outlets.values()]
        for outlet in outlets:
            outlet.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()

    def _run(self) -> None:
        try:
            while not self.closed:
                self.step(_IDLE)
        except Exception as exc:  # noqa: BLE001 - a thread's boundary: the outlets' users get it as the cause
            _log.exception("sender failed")
            self.failure = exc
            self.close()

    def _publish(self, publisher: StreamPublisher) -> float:
        """Publish the next bundle of each stream that has one; return the seconds until there is more to do.

        One at a time: what the broker says in between may send a stream back, and confirms that nobody has
        taken in are lost with the connection.
        """
        wait = _IDLE
        for outlet, window in list(self._outlets.values()):
            body = window.next()
            if body is not None and outlet.pace is not None and (delay := outlet.pace.delay()) > 0:
                wait = min(wait, delay)
            elif body is not None:
                window.published(publisher.publish(window.stream, body))
                if outlet.pace is not None:
                    outlet.pace.spend(len(body))
                # To the end of the line: where only one bundle may pass at a time, it isn't always the same stream's.
                self._outlets[window.stream] = self._outlets.pop(window.stream)
                wait = 0.0
            elif (retry := window.retry_seconds) is not None:
                wait = min(wait, retry)
        return wait

    def _reconnect(self, timeout: float) -> StreamPublisher | None:
        """Connect unless the last attempt is too fresh; None when there is no connection yet."""
        with self.changed:
            left = self._connect_at - self._clock()
            if left > 0:
                self.changed.wait_for(lambda: self.closed, min(left, timeout))
                return None
        try:
            publisher = self._connect()
        except CarrierLost as exc:
            _log.info("no connection for bundles", extra={"reason": str(exc)})
            self._delay()
            return None
        with self.changed:
            self._publisher = publisher
        return publisher

    def _delay(self) -> None:
        """Set when the next attempt to connect is due."""
        self._connect_at = self._clock() + self._connect_wait
        self._connect_wait = min(self._connect_wait * 2, CONNECT_LAST)

    def _lose(self, publisher: StreamPublisher) -> None:
        with suppress(CarrierLost):  # what it confirmed before it was lost counts
            self._take(publisher.poll(0))
        with self.changed:
            self._publisher = None
            self._delay()
            for _, window in self._outlets.values():
                window.lost()
            self.changed.notify_all()
        publisher.close()
