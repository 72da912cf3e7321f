"""The host's only port: its certificate, TLS, and how the host comes and goes."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.esxi.handler import Handler
from tests.esxi.world import World
from tests.service.process import free_port

#: Where the host is reached.
ADDRESS = "127.0.0.1"


class Esxi:
    """A host that runs in this process.

    Args:
        directory: Where all of it is.
        guise: A key of `tests.esxi.guise.GUISES`.
        options: Of `World`.

    Attributes:
        world: What it has.
        port: Where it listens; the same after a restart.
    """

    def __init__(self, directory: Path, guise: str = "8.0", **options: Any) -> None:
        self.world = World(directory, guise, **options)
        self.port = free_port()
        self._chain = directory / "rui.pem"
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.renew_certificate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def thumbprint(self) -> str:
        """SHA-1 of its certificate, as VMware's tools write it: pairs of capital digits with colons between."""
        certificate = x509.load_pem_x509_certificate(self._chain.read_bytes())
        digest = hashlib.sha1(certificate.public_bytes(serialization.Encoding.DER), usedforsecurity=False)
        return ":".join(f"{byte:02X}" for byte in digest.digest())

    def renew_certificate(self) -> None:
        """Give it another certificate, which new connections are shown."""
        self._chain.write_bytes(_self_signed())
        if self._server is not None:
            self._server.context.load_cert_chain(self._chain)

    def start(self) -> None:
        """Start it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.world.guise.old_tls:
            speak_old_tls(context)
        context.load_cert_chain(self._chain)
        self._server = _Server(self.world, context, self.port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, with all its tasks and guests; may be called twice."""
        self.cut()
        self.world.stop()

    def cut(self) -> None:
        """Let it be gone as by a power cut: connections and open disks end; `start` brings it back."""
        if self._server is None or self._thread is None:
            return
        self.world.leases.kill()
        self._server.shutdown()
        self._server.drop_all()
        self._server.server_close()
        self._thread.join()
        self._server = None
        self.world.sessions.expire()


def speak_old_tls(context: ssl.SSLContext) -> None:
    """Let a server or a client speak TLS 1.0 and nothing else, as hosts did before 6.5."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    # Python warns of what is wanted here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1


def _self_signed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "esx.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, world: World, context: ssl.SSLContext, port: int) -> None:
        self.context = context
        self._connections: set[socket.socket] = set()
        super().__init__((ADDRESS, port), type("Handler", (Handler,), {"world": world}))

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = super().get_request()
        # The handshake is the handler's thread's, so that a client that says nothing holds up nobody.
        secure = self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self._connections.add(secure)
        return secure, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that breaks off, or doesn't like the certificate: that is part of the tests."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def drop_all(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
