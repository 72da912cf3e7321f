"""A gate before a management API, over TLS where it is told so: it lets calls through until it is to cut one off."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Gate:
    """What came, and how many calls may still pass.

    Attributes:
        url: The API's URL through the gate.
        calls: Method and path of each call, in order.
        passing: Calls that are let through before one is cut off without an answer; None: all.
    """

    url: str = ""
    calls: list[str] = field(default_factory=list)
    passing: int | None = None


@contextmanager
def gate(behind: str, context: ssl.SSLContext | None = None) -> Iterator[Gate]:
    """Run a gate before the API at a URL."""
    kept, parts = Gate(), urlsplit(behind)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kept.calls.append(f"{self.command} {self.path}")
            if kept.passing is not None:
                kept.passing -= 1
                if kept.passing < 0:
                    self.close_connection = True
                    return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            api = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
            headers = {name: self.headers[name] for name in ("authorization", "content-type") if name in self.headers}
            api.request(self.command, self.path, body, headers)
            answer = api.getresponse()
            content = answer.read()
            api.close()
            self.send_response(answer.status)
            if content:
                self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing of a client that goes away, as one does that trusts no certificate."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    place = f"{parts.username}:{parts.password}@127.0.0.1:{server.server_address[1]}"
    kept.url = f"{'http' if context is None else 'https'}://{place}"
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
