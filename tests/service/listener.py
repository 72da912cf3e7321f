"""An HTTP server within the tests whose connections can be cut, over TLS where there is a context."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Listener(ThreadingHTTPServer):
    """A server with a thread for each connection.

    Args:
        place: Address and port.
        handler: What answers.
        context: For TLS; None for plain connections.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, place: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None
    ) -> None:
        self.context = context
        self._connections: set[socket.socket] = set()
        super().__init__(place, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        if self.context is not None:
            # The handshake is the handler's thread's, so that a client that says nothing holds up nobody.
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that ends."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that breaks off, or doesn't like the certificate: that is part of the tests."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def drop_all(self) -> None:
        """Cut every connection."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
