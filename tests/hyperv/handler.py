"""HTTP of the WinRM service: the login, messages that NTLM encrypts, and faults as status 500.

Sources: [MS-NTHT] (NTLM over HTTP), [MS-WSMV] 2.2.9.1 (encrypted messages), RFC 4559 (Negotiate).
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

#: pyspnego reads its users' file by an environment variable; one login at a time has it.
_USERS_FILE = threading.Lock()


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
        except spnego.exceptions.SpnegoError:
            self._context = None
            self._refuse()
            return False
        if not self._context.complete:
            self._reply(401, b"", headers={"WWW-Authenticate": f"{scheme} {base64.b64encode(said or b'').decode()}"})
            return False
        self._user = self._context.client_principal or ""
        return True

    def _step(self, token: bytes) -> bytes | None:
        with _USERS_FILE:
            os.environ["NTLM_USER_FILE"] = str(self.service.users_file)
            if self._context is None:
                protocol = "ntlm" if token.startswith(b"NTLMSSP") else "negotiate"
                options = spnego.NegotiateOptions.wrapping_winrm
                self._context = spnego.server(protocol=protocol, options=options)
            try:
                said: bytes | None = self._context.step(token)
                return said
            finally:
                del os.environ["NTLM_USER_FILE"]

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
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
