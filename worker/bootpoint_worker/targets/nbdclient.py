"""A connection to one NBD server, with a time limit on everything (libnbd's blocking calls have none)."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.host import unreachable

if TYPE_CHECKING:
    import nbd

#: Milliseconds that one wait in libnbd lasts at most, so that limits are looked at.
TICK_MS = 500

#: Seconds within which a started server must answer: its socket exists before it listens.
CONNECT_TIMEOUT = 15.0

#: Seconds within which a request must be answered; a flush may have to wait for a busy disk array.
REQUEST_TIMEOUT = 300.0

#: Seconds within which a server should take note of a goodbye; it ends with the connection in any case.
GOODBYE_TIMEOUT = 5.0


class Disconnected(Exception):  # noqa: N818 - the caller finds out why
    """The server ended the connection, or the way to it broke."""


class Client:
    """One NBD connection.

    Args:
        host: Name of the host, for messages.
        begin: Lets a handle that wasn't used yet begin to connect; called again while nobody listens.
        server: What is connected to, for messages.
        contexts: Metadata contexts to ask for.
        timeout: Seconds within which it must stand.
        refusal: Tells an error of the handle that trying again can't mend, as an error of ours; None for the others.
    """

    def __init__(
        self,
        *,
        host: str,
        begin: Callable[[nbd.NBD], None],
        server: str,
        contexts: tuple[str, ...] = (),
        timeout: float = CONNECT_TIMEOUT,
        refusal: Callable[[nbd.Error], BootpointError | None] = lambda _exc: None,
    ) -> None:
        self._host = host
        self._server = server
        self._timeout = timeout
        self.handle = self._connect(begin, contexts, refusal)

    def _connect(
        self,
        begin: Callable[[nbd.NBD], None],
        contexts: tuple[str, ...],
        refusal: Callable[[nbd.Error], BootpointError | None],
    ) -> nbd.NBD:
        try:
            import nbd
        except ImportError as exc:
            raise error(
                Code.HOST_UNSUPPORTED,
                "this worker lacks libnbd's Python module: install the distribution's python3-libnbd",
                host=self._host,
            ) from exc
        deadline = time.monotonic() + self._timeout
        while True:
            handle = nbd.NBD()
            for context in contexts:
                handle.add_meta_context(context)
            try:
                begin(handle)
                while handle.aio_is_connecting():
                    handle.poll(TICK_MS)
                    if time.monotonic() > deadline:
                        raise unreachable(self._host, f"the server at {self._server} says nothing")
                if handle.aio_is_ready():
                    return handle
                why: object = "it ended the connection"
            except (OSError, nbd.Error) as exc:
                why = exc
                if isinstance(exc, nbd.Error) and (problem := refusal(exc)):
                    raise problem from exc
            if time.monotonic() > deadline:
                raise unreachable(self._host, f"the server at {self._server}: {why}")
            time.sleep(0.05)

    def wait(self, done: Callable[[], bool]) -> None:
        """Serve the connection until ``done()``; it is asked after each event.

        Raises:
            Disconnected: The connection ended first, or nothing came within the limit.
        """
        deadline = time.monotonic() + REQUEST_TIMEOUT
        while not done():
            if not self.alive:
                raise Disconnected
            if self.handle.poll(TICK_MS) == 0 and time.monotonic() > deadline:
                raise Disconnected(f"no answer within {REQUEST_TIMEOUT:.0f} s")

    def finish(self, cookie: int) -> None:
        """Wait for one request.

        Raises:
            nbd.Error: The server refused it.
            Disconnected: The connection ended first.
        """
        self.wait(lambda: bool(self.handle.aio_command_completed(cookie)))

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return not (self.handle.aio_is_dead() or self.handle.aio_is_closed())

    def close(self) -> None:
        """Say goodbye; the socket is closed with the last reference to the handle. May be called twice."""
        import nbd

        # An error means that it is gone already, and that is what was asked for.
        with contextlib.suppress(nbd.Error):
            if self.handle.aio_is_ready():
                self.handle.aio_disconnect()
                deadline = time.monotonic() + GOODBYE_TIMEOUT
                while self.alive and time.monotonic() < deadline:
                    self.handle.poll(TICK_MS)


def refused(host: str, exc: nbd.Error, what: str) -> BootpointError:
    """Return the error for a request that the server refused."""
    if exc.errnum in (errno.ENOSPC, errno.EDQUOT):
        return error(Code.HOST_FULL, f"the storage of host {host} is full: {what}", host=host)
    return error(Code.TARGET_WRITE_ERROR, f"host {host} could not {what}: {exc.string}", host=host)


def broken(exc: nbd.Error) -> bool:
    """Tell whether an error of libnbd means that the connection ended, not that the request was refused."""
    return exc.errnum in (errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN)
