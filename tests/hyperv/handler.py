"""HTTP of the WinRM service: the login, messages that NTLM or Kerberos encrypts, and faults as status 500.

Sources: [MS-NTHT] (NTLM over HTTP), [MS-WSMV] 2.2.9.1 (encrypted messages), RFC 4559 (Negotiate), RFC 5929 4
(tls-server-end-point, the channel that a login is bound to).
"""

from __future__ import annotations

import base64
import contextlib
import os
import struct
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import spnego

from tests.hyperv import wsman

if TYPE_CHECKING:
    from tests.hyperv.server import WinRm

#: Type of a plain envelope.
SOAP = "application/soap+xml;charset=UTF-8"

#: What is around an encrypted one.
BOUNDARY = b"--Encrypted Boundary"

#: Type of an encrypted one.
ENCRYPTED = 'multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"'

#: pyspnego finds its users' file, and Kerberos its keys, by environment variables; one login at a time has them.
_ENVIRONMENT = threading.Lock()

#: How a token of Kerberos begins behind its length: with the mechanism's object identifier (RFC 1964 1.1).
_KERBEROS = bytes.fromhex("06092a864886f712010202")

#: Flag of a login that was bound to the channel it came by: GSS_C_CHANNEL_BOUND_FLAG (krb5's gssapi_ext.h).
_BOUND = 2048


class Handler(BaseHTTPRequestHandler):
    """One connection: a login holds for it, as its keys do."""

    protocol_version = "HTTP/1.1"
    # A reply goes in one piece: the second of two would wait for the client's delayed acknowledgement.
    wbufsize = -1
    service: WinRm
    timeout = 120

    def setup(self) -> None:
        """Begin without a login."""
        super().setup()
        self._context: Any = None
        self._user: str | None = None
        self._proof: dict[str, str] = {}

    def do_POST(self) -> None:
        """Take one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._user is None and not self._log_in():
            return
        if not body:
            self._reply(200, b"")
            return
        encrypted = (self.headers.get("Content-Type") or "").startswith("multipart/encrypted")
        if not encrypted and not self.service.tls:
            # AllowUnencrypted is false by default, and such a request gets a status 500 (diyan/pywinrm issue 129).
            self._reply(500, b"")
            return
        status, said = self._answer(self._open(body) if encrypted else body)
        if self.service.trouble.loses_answer():
            self.close_connection = True
            return
        if encrypted:
            self._reply(status, self._seal(said), ENCRYPTED)
        else:
            self._reply(status, said, SOAP)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    # --- the login

    def _log_in(self) -> bool:
        """Go on with the login; tell whether it is done with this request, which is answered otherwise."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme not in ("Negotiate", "NTLM"):
            self._refuse()
            return False
        try:
            said = self._step(base64.b64decode(token))
        except (spnego.exceptions.SpnegoError, AttributeError):
            # It asks a context of Kerberos for its flags even where that has refused its client and has none.
            said = None
            self._context = None
        if self._context is None:
            self._refuse()
            return False
        answer = {"WWW-Authenticate": f"{scheme} {base64.b64encode(said or b'').decode()}"}
        if not self._context.complete:
            self._reply(401, b"", headers=answer)
            return False
        # The last token proves to the client who this is; it goes with the first reply.
        self._proof = answer if said else {}
        self._user = self._context.client_principal or ""
        return True

    def _step(self, token: bytes) -> bytes | None:
        with _ENVIRONMENT:
            os.environ |= self.service.environment
            try:
                if self._context is None:
                    self._context = self._begin(token)
                said: bytes | None = self._context.step(token)
                if self._context.complete and self._context.negotiated_protocol == "kerberos":
                    self._admit()
                return said
            finally:
                for name in self.service.environment:
                    del os.environ[name]

    def _begin(self, token: bytes) -> Any:
        """Return the server's side of a login, by the client's first token."""
        protocol, bindings = "negotiate", None
        if token.startswith(b"NTLMSSP"):
            protocol = "ntlm"
        elif token[: len(_KERBEROS) + 4].find(_KERBEROS) > 0:
            protocol = "kerberos"
            if self.service.tls:
                channel = b"tls-server-end-point:" + bytes.fromhex(self.service.fingerprint)
                bindings = spnego.channel_bindings.GssChannelBindings(application_data=channel)
        options = spnego.NegotiateOptions.wrapping_winrm
        return spnego.server(protocol=protocol, options=options, channel_bindings=bindings)

    def _admit(self) -> None:
        """Refuse a login by Kerberos that isn't bound to its channel where it has to be; try how far it goes."""
        login, member = self._context._context, self.service.member
        assert member is not None  # or it would have no keys
        if self.service.bound and not int(login.actual_flags) & _BOUND:
            self._context = None
            return
        self.service.trouble.second_hop = goes_on(login.delegated_creds, member.name)

    def _refuse(self) -> None:
        self._reply(401, b"", headers={"WWW-Authenticate": "Negotiate"})

    # --- messages

    def _open(self, body: bytes) -> bytes:
        """Return what an encrypted message holds: length of the signature, signature, sealed bytes."""
        part = body.split(b"Content-Type: application/octet-stream\r\n", 1)[1]
        part = part[: part.rindex(BOUNDARY)]
        (length,) = struct.unpack_from("<I", part)
        opened: bytes = self._context.unwrap_winrm(part[4 : 4 + length], part[4 + length :])
        return opened

    def _seal(self, said: bytes) -> bytes:
        """Return an encrypted message; Windows begins its lines with a tab, by which clients find them."""
        sealed = self._context.wrap_winrm(said)
        header: bytes = sealed.header
        data: bytes = sealed.data
        return (
            BOUNDARY + b"\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n" % len(said)
            + BOUNDARY + b"\r\n\tContent-Type: application/octet-stream\r\n"
            + struct.pack("<I", len(header)) + header + data + BOUNDARY + b"--\r\n"
        )  # fmt: skip

    def _answer(self, message: bytes) -> tuple[int, bytes]:
        """Return status and envelope."""
        message_id = ""
        try:
            request = wsman.parse(message)
            message_id = request.message_id
            return 200, self.service.answer(request)
        except wsman.FaultError as wrong:
            return 500, wsman.fault(message_id, wrong)

    def _reply(self, status: int, body: bytes, kind: str = SOAP, headers: dict[str, str] | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in (headers or self._proof).items():
                self.send_header(name, value)
            self._proof = {}
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()


def goes_on(ticket: Any, name: str) -> bool:
    """Tell whether a ticket that a client forwarded lets the host log in elsewhere as that client.

    Args:
        ticket: Credentials of the client; None where it forwarded nothing.
        name: DNS name of the computer that is logged in to.
    """
    import gssapi

    if ticket is None:
        return False
    service = gssapi.Name(f"host@{name}", gssapi.NameType.hostbased_service)
    return bool(gssapi.SecurityContext(name=service, creds=ticket, usage="initiate").step())
