"""The host's only port: its certificate, TLS, and how the host comes and goes."""

from __future__ import annotations

import hashlib
import ssl
import threading
import warnings
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.esxi.handler import Handler
from tests.esxi.world import World
from tests.service.certificate import self_signed
from tests.service.listener import Listener
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
        self._server: Listener | None = None
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
        self._chain.write_bytes(self_signed("esx.test"))
        if self._server is not None and self._server.context is not None:
            self._server.context.load_cert_chain(self._chain)

    def start(self) -> None:
        """Start it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.world.guise.old_tls:
            speak_old_tls(context)
        context.load_cert_chain(self._chain)
        self._server = Listener((ADDRESS, self.port), type("Handler", (Handler,), {"world": self.world}), context)
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
