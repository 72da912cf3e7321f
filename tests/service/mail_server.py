"""A mail server: it keeps what it takes, refuses whom it is told to, and can break off when it shouldn't."""

from __future__ import annotations

import email
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from bootpoint_common.notice import MailServer, Security
from tests.service.process import free_port


@dataclass(frozen=True, slots=True)
class Letter:
    """What the server took.

    Attributes:
        to: Who gets it.
        content: Byte for byte.
        encrypted: Whether it came over TLS.
        user: Who had logged in.
    """

    to: str
    content: bytes
    encrypted: bool
    user: str | None

    @property
    def message(self) -> EmailMessage:
        """The letter, read."""
        found = email.message_from_bytes(self.content, policy=POLICY)
        assert isinstance(found, EmailMessage)
        return found

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.message.get_content()).replace("\r\n", "\n")


@dataclass
class MailBox:
    """What a server has, and how it behaves.

    Attributes:
        letters: What it took, in order; also what it never said that it took.
        refused: Its answer to recipients.
        break_off: How many times it ends the connection between a letter's last line and its answer.
        port: Where it listens; the same after a restart.
    """

    letters: list[Letter] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    break_off: int = 0
    security: Security = Security.PLAIN
    port: int = field(default_factory=free_port)
    logins: dict[str, str] = field(default_factory=dict)
    context: ssl.SSLContext | None = None
    starttls: bool = True
    _controller: Controller | None = None

    @property
    def server(self) -> MailServer:
        """How it is reached."""
        user = next(iter(self.logins), None)
        return MailServer(security=self.security, host="127.0.0.1", port=self.port, user=user)

    def start(self) -> None:
        """Start it."""
        arguments: dict[str, Any] = {}
        if self.security is Security.TLS:
            arguments |= {"ssl_context": self.context, "auth_require_tls": False}
        elif self.security is Security.STARTTLS and self.starttls:
            arguments |= {"tls_context": self.context, "require_starttls": True}
        else:
            arguments |= {"auth_require_tls": False}
        self._controller = Controller(
            self, hostname="127.0.0.1", port=self.port, server_hostname="mail.test", authenticator=self._login,
            **arguments,
        )  # fmt: skip
        self._controller.start()

    def stop(self) -> None:
        """End it; may be called twice."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def to(self, address: str) -> list[Letter]:
        """Return what somebody has."""
        return [letter for letter in self.letters if letter.to == address]

    def _login(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword
    ) -> AuthResult:
        known = self.logins.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=known, handled=False, auth_data=data.login.decode())

    # --- what aiosmtpd asks of a handler

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - likewise
        content = envelope.content
        assert isinstance(content, bytes)
        encrypted = session.ssl is not None or self.security is Security.TLS
        user = session.auth_data if session.authenticated else None
        self.letters += [Letter(to, content, encrypted, user) for to in envelope.rcpt_tos]
        if self.break_off:
            self.break_off -= 1
            assert server.transport is not None
            server.transport.abort()  # type: ignore[attr-defined] # it is the transport of a socket
        return "250 OK"


@contextmanager
def mail_server(**arguments: Any) -> Iterator[MailBox]:
    """Run a mail server; the arguments are `MailBox`'s."""
    box = MailBox(**arguments)
    box.start()
    try:
        yield box
    finally:
        box.stop()
