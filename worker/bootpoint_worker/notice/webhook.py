"""Notices by webhook: a POST of the row's facts, signed as Standard Webhooks describes it.

The signature covers id, time and body, so that nobody can change one of them, or send an old request again unnoticed:
``webhook-id`` stays the same when a request is repeated, ``webhook-timestamp`` is when this one was sent
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import json
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib import request
from urllib.parse import urlsplit

from bootpoint_common.errors import BootpointError
from bootpoint_common.notice import NoticeSettings
from bootpoint_common.store.delivery import Notice

from .deadline import Deadline
from .trust import tls_context
from .undelivered import Undelivered

#: Seconds that the other side may take to be reached, and for its answer.
TIMEOUT = 10.0

#: Seconds that a request may take in all: others wait behind it.
LONGEST = 30.0

#: What a secret in the form of Standard Webhooks starts with; base64 follows.
_ENCODED = "whsec_"


class Webhook:
    """Sends requests.

    Args:
        settings: Whose certificates are trusted.
        timeout: Seconds that the other side may take for each of its answers.
        longest: Seconds that it may take in all.
        clock: Seconds since 1970, for the time that is signed.
    """

    def __init__(
        self,
        settings: NoticeSettings,
        *,
        timeout: float = TIMEOUT,
        longest: float = LONGEST,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._authorities = settings.authorities
        self._timeout = timeout
        self._longest = longest
        self._clock = clock

    def check(self) -> None:
        """Look at what can be looked at beforehand.

        Raises:
            UsageError: ``spec_invalid``: the authorities' file can't be used.
        """
        tls_context(self._authorities)

    def send(self, notice: Notice) -> None:
        """Send a request; an answer of 200 to 299 says that it arrived, whatever else is in it.

        Raises:
            Undelivered: No such answer came.
        """
        where = _origin(notice.address)
        asked = self._request(notice)
        cut = Deadline(self._longest)
        try:
            opener = self._opener(cut)
        except BootpointError as exc:
            raise Undelivered(exc.message, elsewhere=True) from exc
        try:
            with cut, opener.open(asked, timeout=self._timeout) as answer:
                status = answer.status
        except (OSError, http.client.HTTPException) as exc:
            cause = cut.why or getattr(exc, "reason", None) or exc
            raise Undelivered(f"{where} does not answer: {cause}", away=True) from exc
        except ValueError as exc:
            raise Undelivered(f"{where}: the URL can't be used: {exc}", final=True) from exc
        if cut.why is not None:  # what came until then may look like an answer
            raise Undelivered(f"{where} does not answer: {cut.why}", away=True)
        if not 200 <= status < 300:
            more = ", and redirects are not followed" if 300 <= status < 400 else ""
            raise Undelivered(f"{where} answered {status}{more}")

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""

    def _request(self, notice: Notice) -> request.Request:
        body, now = body_of(notice), int(self._clock())
        headers = {
            "content-type": "application/json",
            "user-agent": "bootpoint",
            "webhook-id": str(notice.id),
            "webhook-timestamp": str(now),
        }
        if notice.secret_file is not None:
            headers["webhook-signature"] = signature(_secret(notice.secret_file), str(notice.id), now, body)
        try:
            return request.Request(notice.address, data=body, headers=headers, method="POST")  # noqa: S310 - see _opener
        except ValueError as exc:
            raise Undelivered(f"the URL can't be used: {exc}", final=True) from exc

    def _opener(self, cut: Deadline) -> request.OpenerDirector:
        """Return what knows HTTP and HTTPS, and neither other schemes nor redirects."""
        opener = request.OpenerDirector()
        for handler in (
            request.ProxyHandler(),
            _Handler(cut),
            _TlsHandler(cut, context=tls_context(self._authorities)),
            request.UnknownHandler(),
        ):
            opener.add_handler(handler)
        return opener


class _Connection(http.client.HTTPConnection):
    """A connection that the deadline holds from when it stands, before TLS says its first word."""

    cut: Deadline

    def connect(self) -> None:
        super().connect()
        self.cut.hold(self.sock)


class _TlsConnection(http.client.HTTPSConnection, _Connection):
    """Likewise: `HTTPSConnection.connect` calls the one above for what is below TLS."""


class _Handler(request.HTTPHandler):
    def __init__(self, cut: Deadline) -> None:
        super().__init__()
        self._cut = cut

    def http_open(self, req: request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)

    def _connect(self, host: str, /, **more: Any) -> http.client.HTTPConnection:
        made = _Connection(host, **more)
        made.cut = self._cut
        return made


class _TlsHandler(request.HTTPSHandler):
    def __init__(self, cut: Deadline, *, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._cut, self._tls = cut, context

    def https_open(self, req: request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)

    def _connect(self, host: str, /, **more: Any) -> http.client.HTTPConnection:
        made = _TlsConnection(host, context=self._tls, **more)
        made.cut = self._cut
        return made


def body_of(notice: Notice) -> bytes:
    """Return the body of a notice: the same bytes each time."""
    return json.dumps({"id": str(notice.id), **notice.facts}, ensure_ascii=False, sort_keys=True).encode()


def signature(secret: bytes, notice_id: str, timestamp: int, body: bytes) -> str:
    """Return ``v1,`` and base64 of the HMAC-SHA256 over ``id.timestamp.body``.

    Args:
        secret: The key.
        notice_id: ``webhook-id``.
        timestamp: ``webhook-timestamp``, in seconds.
        body: The request's body, byte for byte.
    """
    signed = f"{notice_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def _secret(path: str) -> bytes:
    """Read a secret: base64 after ``whsec_``, or the bytes of the file's only line."""
    try:
        found = Path(path).read_bytes().strip()
    except OSError as exc:
        text = f"{path} can't be read on {os.uname().nodename}: {exc.strerror}"
        raise Undelivered(text, elsewhere=True) from exc
    if found.startswith(_ENCODED.encode()):
        try:
            found = base64.b64decode(found.removeprefix(_ENCODED.encode()), validate=True)
        except binascii.Error as exc:
            raise Undelivered(f"{path} holds {_ENCODED} and no base64 behind it", elsewhere=True) from exc
    if not found:
        raise Undelivered(f"{path} is empty on {os.uname().nodename}", elsewhere=True)
    return found


def _origin(url: str) -> str:
    """Return what may be shown of a URL: a path can be as good as a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
