"""What Prometheus reads over HTTP: the installation's metrics, those of a process, and where the workers are.

The installation's are a picture of the database that a thread takes again and again, so that a scrape costs the same
however many jobs there are, and several who read cost no more than one.
"""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from errno import EADDRINUSE
from http import HTTPStatus
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from bootpoint_common.config import Listen
from bootpoint_common.store import gauge
from bootpoint_common.store.database import Database
from bootpoint_common.tls import server_context
from bootpoint_ops.exposition_tls import shake_hands
from bootpoint_ops.gauge import StateCollector
from bootpoint_worker.loop import Loop

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: Shortest and longest pause between two pictures in seconds, and how many times longer than the last picture took it
#: is otherwise: at 10,000 jobs they take a tenth of one processor, and on a busy machine numbers are still fresh.
PAUSE_SECONDS, PAUSE_MOST, PAUSE_SHARE = 2.0, 20.0, 10.0

#: Longest wait of a scrape for the first picture, in seconds.
FIRST_SECONDS = 5.0

#: Age in seconds beyond which a picture isn't shown: the database doesn't answer, and numbers of before would say that
#: all is well.
STALE_SECONDS = 60.0

#: How many ports above the one that is named a worker or a scheduler tries.
PORTS = 100

#: Seconds that a client may take for its request.
_PATIENCE = 10.0

#: Level of gzip: the fastest makes a twentieth of it, the best a thirtieth in six times the time.
_LEVEL = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture: the text of the metrics, the same as gzip, and where workers serve theirs."""

    plain: bytes
    packed: bytes
    workers: bytes
    taken_at: float


class Picture:
    """The installation's metrics as they were a moment ago.

    Args:
        database: The truth.
        clock: Monotonic seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._clock = database, clock
        self._registry = CollectorRegistry()
        self._registry.register(StateCollector(database))
        self._shown: Shown | None = None
        self._there, self._stop = threading.Event(), threading.Event()
        self._loop = Loop("metrics", lambda _: self._again(), self._stop)

    def start(self) -> None:
        """Start the thread that takes pictures."""
        self._loop.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._loop.join(10.0)

    def take(self) -> float:
        """Take a picture; returns how long that took, in seconds.

        Raises:
            psycopg.Error: The database is away.
        """
        began = self._clock()
        plain = generate_latest(self._registry)
        with self._database.transaction() as connection:
            found = gauge.workers(connection)
        targets = json.dumps([{"targets": found, "labels": {}}]).encode()
        self._shown = Shown(plain, gzip.compress(plain, _LEVEL), targets, began)
        self._there.set()
        return self._clock() - began

    def _again(self) -> None:
        self._stop.wait(pause_after(self.take()))

    def latest(self) -> Shown | None:
        """Return the newest picture; None where there is none, or only one that is too old."""
        self._there.wait(FIRST_SECONDS)
        shown = self._shown
        return None if shown is None or self._clock() - shown.taken_at > STALE_SECONDS else shown


def pause_after(seconds: float) -> float:
    """Return how long to wait after a picture that took so many seconds."""
    return min(max(PAUSE_SECONDS, PAUSE_SHARE * seconds), PAUSE_MOST)


def process_registry() -> CollectorRegistry:
    """Return a registry with what can be said of this process: memory, processor time, files."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


def application(registry: CollectorRegistry, picture: Picture | None) -> WSGIApplication:
    """Make what answers requests.

    Args:
        registry: The metrics of the process.
        picture: Those of the installation, where this process serves them.
    """

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path, shown = environ["PATH_INFO"], None
        packed = "gzip" in environ.get("HTTP_ACCEPT_ENCODING", "")
        if path not in ("/metrics", "/workers") or (path == "/workers" and picture is None):
            return _say(start, HTTPStatus.NOT_FOUND, b"metrics are at /metrics\n")
        if picture is not None and (shown := picture.latest()) is None:
            return _say(start, HTTPStatus.SERVICE_UNAVAILABLE, b"the database does not answer\n")
        if path == "/workers":
            return _say(start, HTTPStatus.OK, shown.workers if shown else b"", "application/json")
        own = generate_latest(registry)
        if not packed:
            return _say(start, HTTPStatus.OK, (shown.plain if shown else b"") + own, CONTENT_TYPE_LATEST)
        # Members of gzip may follow each other (RFC 1952, section 2.2).
        body = (shown.packed if shown else b"") + gzip.compress(own, _LEVEL)
        return _say(start, HTTPStatus.OK, body, CONTENT_TYPE_LATEST, ("Content-Encoding", "gzip"))

    return answer


def _say(
    start: StartResponse, status: HTTPStatus, body: bytes, kind: str = "text/plain", *headers: tuple[str, str]
) -> Iterable[bytes]:
    lines = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Vary", "Accept-Encoding"), *headers]
    start(f"{status.value} {status.phrase}", lines)
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, none of which holds up the end of the process.

    Attributes:
        folder: Certificates for HTTPS; None for HTTP.
    """

    daemon_threads = True
    folder: Path | None = None

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands here, where a client that says nothing keeps only itself waiting."""
        if self.folder is not None:
            secure = shake_hands(request, self.folder, client_address[0], _PATIENCE)
            if secure is None:
                self.shutdown_request(request)
                return
            request = secure
        super().process_request_thread(request, client_address)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Log what went wrong with a client."""
        _log.warning("metrics not served", extra={"client": client_address[0]}, exc_info=True)


class _Handler(WSGIRequestHandler):
    """Answers without a line in the log for each scrape, and waits for nobody for ever."""

    timeout = _PATIENCE

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - named by the class above
        """Log nothing."""


def serve(
    app: WSGIApplication, listen: Listen, folder: Path | None = None, *, above: bool = False
) -> tuple[int, Callable[[], None]]:
    """Serve over HTTP from a thread, or over HTTPS to those who show a certificate.

    Args:
        app: What answers.
        listen: Where; port 0 is any free one.
        folder: Certificates for HTTPS; None for HTTP.
        above: Whether to take the first free port above the one that is named: several processes of a machine have one
            setting, and the port itself is the exporter's.

    Returns:
        The port, and what ends the server.

    Raises:
        FatalError: ``tls_refused``: the folder can't be used.
        OSError: The address is taken, or not ours.
    """
    if folder is not None:
        server_context(folder)
    server = _bind(app, listen, above=above)
    server.folder = folder
    thread = threading.Thread(target=server.serve_forever, name="metrics server", daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, close


def _bind(app: WSGIApplication, listen: Listen, *, above: bool) -> _Server:
    last = listen.port
    ports = range(last + 1, min(last + PORTS, 65535) + 1) if above and last else range(last, last + 1)
    for port in ports:
        try:
            return make_server(listen.address, port, app, _family(listen.address), _Handler)
        except OSError as problem:
            if problem.errno != EADDRINUSE or port == ports[-1]:
                raise
    raise OSError(EADDRINUSE, "there is no port above it")


def _family(address: str) -> type[_Server]:
    """Return the server for an address: IPv6 has colons."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return type("_Server", (_Server,), {"address_family": family})
