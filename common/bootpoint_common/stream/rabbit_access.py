"""How a connection to RabbitMQ is to be made: where to, with which login, and over TLS when the URL says so."""

from __future__ import annotations

import logging
import ssl
from urllib.parse import urlsplit

import pika
from pika.credentials import ExternalCredentials

from bootpoint_common.errors import BootpointError
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.tls import NOTHING_OF_OURS, Trust, require_encryption
from bootpoint_common.tls_probe import Peer, speaks_tls, why

#: Seconds between heartbeats; a peer that is silent for two of them is gone.
HEARTBEAT = 20

#: Seconds that the broker may hold a publisher back before the connection is given up and made anew.
BLOCKED_TIMEOUT = 60.0

#: Seconds for a connection to be made.
CONNECT_TIMEOUT = 10.0

#: A machine that vanished is noticed within half a minute, also while nothing is sent.
TCP_OPTIONS = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

_log = logging.getLogger(__name__)


class FreshOptions(pika.SSLOptions):  # type: ignore[misc]
    """TLS options whose context is made for each connection, so that renewed files are taken.

    Args:
        trust: Whom to believe, and what to show.
        host: The broker's name, as its certificate must have it.
    """

    def __init__(self, trust: Trust, host: str) -> None:
        self.trust = trust
        super().__init__(trust.context(), server_hostname=host)

    @property
    def context(self) -> ssl.SSLContext:
        """Read the files; where they can't be used at this moment, what they were will do, and the broker decides."""
        try:
            self._context = self.trust.context()
        except BootpointError as problem:
            _log.warning("certificates not read anew", extra={"cause": problem.message})
        return self._context

    @context.setter
    def context(self, value: ssl.SSLContext) -> None:
        self._context = value


def parameters(url: str, name: str, trust: Trust = NOTHING_OF_OURS) -> pika.URLParameters:
    """Read an AMQP URL.

    Without a user in the URL, and with certificates, the certificate is the login (SASL EXTERNAL).

    Args:
        url: ``amqp://user:password@host:port/vhost``, or ``amqps``.
        name: What the broker's own tools show for the connection.
        trust: Whom an encrypted connection believes, and what it shows.

    Raises:
        CarrierLost: The certificates can't be used, or the URL is plain although there are some.
    """
    made = pika.URLParameters(url)
    made.heartbeat = HEARTBEAT
    made.blocked_connection_timeout = BLOCKED_TIMEOUT
    made.connection_attempts = 1
    made.socket_timeout = CONNECT_TIMEOUT
    made.stack_timeout = CONNECT_TIMEOUT
    made.tcp_options = TCP_OPTIONS
    made.client_properties = {"connection_name": name, "product": "bootpoint"}
    return encrypted(made, url, trust)


def encrypted(params: pika.URLParameters, url: str, trust: Trust) -> pika.URLParameters:
    """Have a connection encrypted and checked, if its URL is ``amqps``; the parameters are changed, and returned.

    Raises:
        CarrierLost: As `parameters` does.
    """
    try:
        require_encryption(url, trust, key="broker")
        if params.ssl_options is not None:
            # Whatever the URL says of TLS: nothing in it may turn verification off.
            params.ssl_options = FreshOptions(trust, params.host)
    except BootpointError as problem:
        raise CarrierLost(_words(problem)) from problem
    if trust.folder is not None and urlsplit(url).username is None:
        params.credentials = ExternalCredentials()
    return params


def refusal(params: pika.ConnectionParameters) -> str | None:
    """Ask a broker, with which a connection could not be made, whether TLS is why; None if it isn't."""
    peer = Peer("the broker", params.host, params.port)
    if params.ssl_options is not None:
        problem = why(peer, params.ssl_options.trust)
        return None if problem is None else _words(problem)
    if speaks_tls(peer):
        return f"{peer} speaks TLS, and the URL is amqp://, without it (use amqps://)"
    return None


def _words(problem: BootpointError) -> str:
    return f"{problem.message} ({problem.hint})"
