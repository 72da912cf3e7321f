"""The WinRM service of a host: its port, its certificate, and how it comes and goes."""

from __future__ import annotations

import hashlib
import ssl
import threading
from pathlib import Path

from tests.hyperv import wsman
from tests.hyperv.handler import Handler
from tests.hyperv.shell import Execute, Shells
from tests.hyperv.trouble import Trouble
from tests.hyperv.wsman import Request
from tests.service.certificate import self_signed
from tests.service.listener import Listener
from tests.service.process import free_port
from tests.service.realm import Member


class WinRm:
    """A service that runs in this process.

    Args:
        directory: Where its certificate and its users' file are.
        execute: Carries out what is run in its shells.
        trouble: What is to go wrong.
        address: Of this machine, where it listens.
        name: The host's.
        tls: Whether it listens by TLS; else messages have to be encrypted by the login's keys.
        member: The computer of a domain that it is, if it is one: it takes tickets of Kerberos, too.

    Attributes:
        bound: Whether a login by Kerberos has to be bound to the connection's TLS (CbtHardeningLevel Strict).
        shells: What runs on it.
        port: Where it listens; the same after a restart.
    """

    def __init__(
        self,
        directory: Path,
        execute: Execute,
        trouble: Trouble,
        *,
        address: str,
        name: str,
        tls: bool = False,
        member: Member | None = None,
    ) -> None:
        self.shells = Shells(execute)
        self.trouble = trouble
        self.address = address
        self.name = name
        self.tls = tls
        self.port = free_port()
        self.member = member
        self.bound = False
        self.users_file = directory / "ntlm-users"
        self.environment = {"NTLM_USER_FILE": str(self.users_file)}
        if member is not None:
            self.environment["KRB5_KTNAME"] = f"FILE:{member.keytab}"
        self._chain = directory / "winrm.pem"
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None
        self.renew_certificate()

    def set_password(self, username: str, password: str) -> None:
        """Let a user in by a password, as one of the host, of its workgroup, or without a domain."""
        domains = ("", self.name, "WORKGROUP")
        self.users_file.write_text("".join(f"{domain}:{username}:{password}\n" for domain in domains))

    def renew_certificate(self, days: int = 30) -> None:
        """Give it another certificate, which new connections are shown.

        Args:
            days: How long it is valid; negative for one that has expired.
        """
        self._chain.write_bytes(self_signed(self.name, days=days))
        if self._listener is not None and self._listener.context is not None:
            self._listener.context.load_cert_chain(self._chain)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hexadecimal."""
        der = ssl.PEM_cert_to_DER_cert(self._chain.read_text().partition("-----END PRIVATE KEY-----\n")[2])
        return hashlib.sha256(der).hexdigest()

    def start(self) -> None:
        """Start it."""
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._chain)
        self._listener = Listener((self.address, self.port), type("Handler", (Handler,), {"service": self}), context)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it with all connections and processes; may be called twice."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._listener.drop_all()
        self._listener.server_close()
        self._thread.join()
        self._listener = None
        self.shells.kill()
        self.shells.join()

    def answer(self, request: Request) -> bytes:
        """Answer a request.

        Raises:
            FaultError: It is refused.
        """
        if self.trouble.filtered:
            raise wsman.access_denied()
        return self.shells.answer(request)
