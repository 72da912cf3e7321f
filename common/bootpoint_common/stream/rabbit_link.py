"""One connection to RabbitMQ, with one channel and a thread that does its input and output.

The thread serves heartbeats and confirms while the user's thread is busy. (Taking confirms from pika's
`BlockingConnection` by `process_data_events` sleeps its whole timeout: measured 2.7 times slower at 1 MiB.)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.utils.io_services_utils import _AsyncTransportBase
from pika.channel import Channel
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    StreamLostError,
)

from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.rabbit_access import CONNECT_TIMEOUT, refusal
from bootpoint_common.units import KiB, MiB

#: Seconds for a connection to be closed in order. A broker with an alarm doesn't read what publishers say, so it
#: never answers; then the connection is cut.
CLOSE_TIMEOUT = 2.0

_log = logging.getLogger(__name__)

# Let pika take what the socket holds at once. It takes 4 KiB at a time, and for each copies all that it has of a frame
# of 128 KiB: much of a worker's processor time. It has no setting for that; a later pika without these is just slower.
_AsyncTransportBase._MAX_RECV_BYTES = 256 * KiB  # noqa: SLF001
_AsyncTransportBase._MAX_CONSUME_BYTES = MiB  # noqa: SLF001


class _Connection(pika.SelectConnection):  # type: ignore[misc]
    def cut(self, reason: str) -> None:
        """End the connection without asking the broker."""
        self._terminate_stream(StreamLostError(reason))


class Link:
    """A connection, its channel and its thread. `open` starts it; once lost it stays lost.

    Args:
        params: Where to, from `rabbit_access.parameters`.
        setup: Called in the link's thread with the open channel; it calls `ready` when all is set up.

    Attributes:
        changed: A lock, and the news that something under it changed; users keep their own state under it too.
        lost: Why the link is gone; None while it isn't.
        blocked: Whether the broker holds this publisher back (an alarm).
    """

    def __init__(self, params: pika.URLParameters, setup: Callable[[Channel], None]) -> None:
        self.changed = threading.Condition()
        self.lost: str | None = None
        self.blocked = False
        self._params = params
        self._setup = setup
        self._is_ready = False
        self._login_refused = False
        self._connection: _Connection | None = None
        self._channel: Channel | None = None
        self._thread = threading.Thread(target=self._run, name="bootpoint-amqp", daemon=True)

    def open(self) -> None:
        """Connect, and return when the link is ready.

        Raises:
            CarrierLost: It can't be made.
        """
        self._thread.start()
        with self.changed:
            done = self.changed.wait_for(lambda: self._is_ready or self.lost is not None, 2 * CONNECT_TIMEOUT)
        if not done:
            self.close()
            raise CarrierLost(self._why("the broker accepted the connection and then said nothing"))
        if self.lost is not None:
            raise CarrierLost(self.lost if self._login_refused else self._why(self.lost))

    def _why(self, reason: str) -> str:
        """Say why no connection came about: the certificate that somebody refused, or else what is known here."""
        return refusal(self._params) or reason

    def require(self) -> None:
        """Raise `CarrierLost` if the link is gone."""
        if self.lost is not None:
            raise CarrierLost(self.lost)

    def post(self, action: Callable[[Channel], Any]) -> None:
        """Have the link's thread do something with the channel; in the order of the calls.

        Raises:
            CarrierLost: The link is gone.
        """
        with self.changed:
            self.require()
            connection, channel = self._connection, self._channel
            if connection is None or channel is None:
                raise CarrierLost("the link was not opened")
            connection.ioloop.add_callback_threadsafe(lambda: self._do(action, channel))

    def ready(self) -> None:
        """Say that the link may be used; called by ``setup`` or what it starts."""
        with self.changed:
            self._is_ready = True
            self.changed.notify_all()

    def lose(self, reason: str) -> None:
        """Mark the link as gone, and end its connection; called in the link's thread."""
        with self.changed:
            if self.lost is None:
                self.lost = reason
                self.changed.notify_all()
        if self._connection is not None and not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def close(self) -> None:
        """End the connection and the thread; may be called twice, and from any thread."""
        self._command(lambda _: self.lose("the connection was closed"))
        if self._thread.ident is None or self._thread is threading.current_thread():
            return
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            self._command(lambda connection: connection.cut("closed while the broker didn't answer"))
            self._thread.join()

    def _command(self, action: Callable[[_Connection], None]) -> None:
        with self.changed:
            connection = self._connection
            if connection is not None:
                connection.ioloop.add_callback_threadsafe(lambda: action(connection))

    def _run(self) -> None:
        try:
            with self.changed:
                connection = self._connection = _Connection(
                    self._params,
                    on_open_callback=self._on_open,
                    on_open_error_callback=self._on_end,
                    on_close_callback=self._on_end,
                )
            connection.ioloop.start()
        except Exception as exc:  # noqa: BLE001 - a thread's boundary: the users get it as a lost connection
            _log.exception("connection failed")
            self._mark(f"the connection failed: {exc!r}")
        # From here on nothing may be posted any more: the loop that would do it is closed.
        with self.changed:
            ended, self._connection = self._connection, None
            self._mark("the connection ended")
            if ended is not None:
                ended.ioloop.close()

    def _do(self, action: Callable[[Channel], Any], channel: Channel) -> None:
        try:
            action(channel)
        except AMQPError as exc:
            self.lose(f"the channel is closed: {exc!r}")

    def _mark(self, reason: str) -> None:
        with self.changed:
            self.lost = self.lost or reason
            self.changed.notify_all()

    def _on_open(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Channel) -> None:
        channel.add_on_close_callback(lambda _, reason: self.lose(f"the broker closed the channel: {reason}"))
        channel.add_on_cancel_callback(lambda _: self.lose("the queue was deleted"))
        with self.changed:
            self._channel = channel
        self._do(self._setup, channel)

    def _on_end(self, connection: Any, reason: BaseException | str) -> None:
        self._login_refused = isinstance(reason, ProbableAuthenticationError | ProbableAccessDeniedError)
        self._mark(_describe(reason))
        connection.ioloop.stop()

    def _set_blocked(self, blocked: bool) -> None:
        text = "the broker holds this publisher back: an alarm" if blocked else "the broker takes messages again"
        _log.warning(text, extra={"connection": self._params.client_properties["connection_name"]})
        with self.changed:
            self.blocked = blocked
            self.changed.notify_all()


def _describe(reason: BaseException | str) -> str:
    if isinstance(reason, AMQPConnectionError) and reason.args:
        reason = reason.args[0] if isinstance(reason.args[0], BaseException) else reason
    return f"the connection to the broker is gone: {reason!r}"
