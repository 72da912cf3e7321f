"""A connection to one qemu-nbd, with a time limit on everything (libnbd's blocking calls have none)."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.kvm.nbdtls import TCP, TICK_MS, NbdTls
from bootpoint_worker.targets.kvm.session import Session, unreachable

if TYPE_CHECKING:
    import nbd

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
        session: The way to the host.
        path: The server's socket there, or ``tcp:`` and its port.
        tls: How a server on a port is reached.
        contexts: Metadata contexts to ask for.
    """

    def __init__(
        self, *, session: Session, path: str, contexts: tuple[str, ...] = (), tls: NbdTls | None = None
    ) -> None:
        self._session = session
        self._tls = tls
        self.handle = self._connect(path, contexts)

    def _connect(self, path: str, contexts: tuple[str, ...]) -> nbd.NBD:
        try:
            import nbd
        except ImportError as exc:
            raise error(
                Code.HOST_UNSUPPORTED,
                "this worker lacks libnbd's Python module: install the distribution's python3-libnbd",
                host=self._session.host,
            ) from exc
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while True:
            handle = nbd.NBD()
            for context in contexts:
                handle.add_meta_context(context)
            try:
                self._begin(handle, path)
                while handle.aio_is_connecting():
                    handle.poll(TICK_MS)
                    if time.monotonic() > deadline:
                        raise unreachable(self._session.host, f"the server at {path} says nothing")
                if handle.aio_is_ready():
                    return handle
                why: object = "it ended the connection"
            except (OSError, nbd.Error) as exc:
                why = exc
                if self._tls and isinstance(exc, nbd.Error) and (problem := self._tls.refusal(exc, self._session)):
                    raise problem from exc
            if time.monotonic() > deadline:
                raise unreachable(self._session.host, f"the server at {path}: {why}")
            time.sleep(0.05)

    def _begin(self, handle: nbd.NBD, path: str) -> None:
        if self._tls is not None and path.startswith(TCP):
            self._tls.connect(handle, int(path.removeprefix(TCP)), CONNECT_TIMEOUT)
        else:
            handle.aio_connect_socket(self._session.dial(path).detach())

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
