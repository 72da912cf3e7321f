"""Whoever listens between a client and a server."""

from __future__ import annotations

import contextlib
import socket
import threading

from bootpoint_common.units import MiB


class Wire:
    """Passes one connection on, and keeps all that goes by.

    Args:
        address: The server's.
        port: Its port.

    Attributes:
        port: Where clients come to instead.
        heard: What was sent, by either side.
    """

    def __init__(self, address: str, port: int) -> None:
        self.heard = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._there = (address, port)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        here, _ = self._listener.accept()
        with here, socket.create_connection(self._there) as there:
            back = threading.Thread(target=self._pass, args=(there, here))
            back.start()
            self._pass(here, there)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(MiB):
                self.heard += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Return when the connection has ended."""
        self._thread.join()
        self._listener.close()
