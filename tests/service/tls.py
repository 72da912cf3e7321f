"""Certificates of tests, good and bad, and servers that show them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bootpoint_ops.authority import Authority, Issued
from bootpoint_ops.certificate import Purpose, Wish
from tests.service.postgres import PostgresServer

#: Long enough ago for a certificate to have ended, and short enough for its authority not to have.
EXPIRED = timedelta(days=-400)

#: A clock that is off by a day.
TOMORROW = timedelta(days=1)

#: A server of tests, at two names.
HERE = ("localhost", "127.0.0.1")


def certificate(
    directory: Path, purpose: Purpose, name: str = "", *names: str, at: timedelta = timedelta()
) -> Path:
    """Make a certificate of the authority in a directory, as if it were made at another time; return its folder."""
    Authority(directory)
    made: Issued = Authority(directory, now=datetime.now(UTC) + at).require(Wish(purpose, name or str(purpose), names))
    return made.folder


def server_of(directory: Path, *, at: timedelta = timedelta(), names: tuple[str, ...] = HERE) -> Path:
    """Make a server's certificate, and return its folder."""
    return certificate(directory, Purpose.METRICS, "", *names, at=at)


@contextlib.contextmanager
def showing(folder: Path, *, demands: Path | None = None) -> Iterator[int]:
    """Run a server that shows a certificate, and says and takes nothing; gives its port.

    Args:
        folder: What it shows.
        demands: File with the authorities of which clients must have a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    if demands is not None:
        context.load_verify_locations(demands)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, context), daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain, contextlib.suppress(OSError):
            plain.settimeout(5.0)
            with context.wrap_socket(plain, server_side=True) as secure:
                secure.recv(1)


def encrypt(server: PostgresServer, folder: Path, lines: str) -> None:
    """Have a PostgreSQL server that isn't started yet speak TLS, with these lines before those of its pg_hba.conf."""
    server.configure(
        f"ssl = on\nssl_ca_file = '{folder}/ca.pem'\nssl_cert_file = '{folder}/cert.pem'\n"
        f"ssl_key_file = '{folder}/key.pem'\n",
        lines,
        keys=folder,
    )


@contextlib.contextmanager
def terminating(folder: Path, behind: int) -> Iterator[int]:
    """Run what ends TLS before a plain server of this machine, as a proxy would, for clients without certificates.

    Args:
        folder: What it shows.
        behind: The plain server's port.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def carry(plain: socket.socket) -> None:
        with (
            plain,
            contextlib.suppress(OSError),
            context.wrap_socket(plain, server_side=True) as near,
            socket.create_connection(("127.0.0.1", behind)) as far,
        ):
            back = threading.Thread(target=pump, args=(far, near), daemon=True)
            back.start()
            pump(near, far)
            back.join()

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(plain,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
