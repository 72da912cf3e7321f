"""A door before a server: whoever comes while it is closed waits there, as at a name server that is slow."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Door:
    """Passes bytes between those who come and a server of this machine, once it is open.

    Args:
        port: The server's port.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._opened = threading.Event()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it is."""
        return int(self._listener.getsockname()[1])

    def knocked(self) -> bool:
        """Tell whether somebody waits."""
        return not self._opened.is_set() and bool(select.select([self._listener], [], [], 0)[0])

    def open(self) -> None:
        """Let in who waits, and all who come."""
        self._opened.set()

    def slam(self) -> None:
        """Cut off all who are in, and let nobody in any more."""
        self._opened.clear()
        for one in self._sockets:
            with suppress(OSError):  # the other side was first
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self.slam()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._opened.set()
        self._thread.join()
        self._listener.close()
        for one in self._sockets:
            one.close()

    def _serve(self) -> None:
        while True:
            select.select([self._listener], [], [])
            self._opened.wait()
            try:
                come, _ = self._listener.accept()
            except OSError:
                return
            behind = socket.create_connection(("127.0.0.1", self._behind))
            self._sockets += [come, behind]
            for pair in ((come, behind), (behind, come)):
                threading.Thread(target=_pass, args=pair, daemon=True).start()


def _pass(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
    with suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)


@contextmanager
def door(port: int) -> Iterator[Door]:
    """Run a closed door before a server."""
    made = Door(port)
    try:
        yield made
    finally:
        made.close()
