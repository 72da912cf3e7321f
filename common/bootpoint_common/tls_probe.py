"""Why a TLS connection can't be made: asked of the peer itself, since clients' libraries lose the reason on the way.

A probe connects, shakes hands as the real connection does, and waits a moment: with TLS 1.3 a server says only after
the handshake that it doesn't take the client's certificate.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bootpoint_common.errors import BootpointError
from bootpoint_common.tls import Trust, fingerprint_of, refused

#: Seconds for each step of a probe.
PROBE_TIMEOUT = 5.0

#: Seconds that a server has to refuse our certificate after a handshake that went well.
ALERT_SECONDS = 1.0

#: What a PostgreSQL client says to have TLS begin (protocol 3.0, SSLRequest), and the answer of a server that has it.
_POSTGRES_REQUEST, _POSTGRES_YES = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big"), b"S"

_RENEW = "renew it where the authority is (`bootpoint tls init DIR --renew`) and let its user take the new file"
_CLOCKS = "compare the clocks of both machines"
_FOLDER = "give this side a folder that `bootpoint tls init` made: docs/tls.md"

#: Words of OpenSSL about a certificate that we refuse, what that means of the peer, and the way out.
_OURS = (
    ("certificate has expired", "shows a certificate that has expired", _RENEW),
    ("certificate is not yet valid", "shows a certificate that is not yet valid", _CLOCKS),
    (
        "Hostname mismatch|IP address mismatch",
        "shows a certificate of another host",
        "name the peer as its certificate does, or make one with this name: `bootpoint tls init`",
    ),
    (
        "self.signed certificate|unable to get (local )?issuer|unable to verify the first|signature failure",
        "shows a certificate of another authority",
        "if the peer is the right one, take the ca.pem of its authority",
    ),
    ("certificate verify failed", "shows a certificate that can't be accepted", "make it with `bootpoint tls init`"),
)

#: Likewise about our certificate, which the peer refuses.
_THEIRS = (
    ("certificate required|peer did not return a certificate", "demands a client certificate, and got none", _FOLDER),
    ("alert certificate expired", "says that our certificate has expired or is not yet valid", f"{_RENEW}; {_CLOCKS}"),
    (
        "alert unknown ca",
        "doesn't know the authority of our certificate",
        "use a certificate of the authority in the peer's ca.pem",
    ),
    (
        "alert (bad|unsupported|revoked) certificate|alert certificate (unknown|revoked)|alert access denied",
        "refuses our certificate",
        "use the certificate that `bootpoint tls init` made for this program, and compare the clocks",
    ),
    (
        "handshake failure|alert internal error|alert protocol version|no shared cipher|unsupported protocol",
        "can't agree on a way to encrypt",
        "the peer needs TLS 1.2 or later; where it demands a certificate, give this side a folder: docs/tls.md",
    ),
)

#: Likewise where the peer speaks something else.
_NO_TLS = "wrong version number|record layer failure|packet length too long|http request"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server.

    Attributes:
        what: What it is, for messages, such as ``the broker``.
        host: Its name or address.
        port: Its TCP port.
    """

    what: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.what} {self.host}:{self.port}"


def why(peer: Peer, trust: Trust, *, begin: Callable[[socket.socket], bool] | None = None) -> BootpointError | None:
    """Find out why TLS with a server fails.

    Args:
        peer: The server.
        trust: What the failed connection used.
        begin: Says what must be said before TLS begins; False if the server won't have it.

    Returns:
        The reason; None where TLS works, or nobody answers at all: then it isn't TLS that fails.
    """
    try:
        context = trust.context()
        with socket.create_connection((peer.host, peer.port), PROBE_TIMEOUT) as plain:
            if begin is not None and not begin(plain):
                return _no_tls(peer)
            with context.wrap_socket(plain, server_hostname=peer.host) as secure:
                secure.settimeout(ALERT_SECONDS)
                secure.recv(1)
    except TimeoutError:
        return None
    except ssl.SSLError as exc:
        return explain(str(exc), peer, trust)
    except OSError:
        return None
    except BootpointError as problem:
        return problem
    return None


def explain(text: str, peer: Peer, trust: Trust) -> BootpointError | None:
    """Put OpenSSL's words as a message with a way out; None where they are about something else."""
    for pattern, meaning, hint in _OURS:
        if re.search(pattern, text, re.IGNORECASE):
            believed = f"; believed are the authorities of {trust.ca or 'the system'}" if "authority" in meaning else ""
            return refused(f"{peer} {meaning}{believed}", file=trust.ca, hint=hint)
    for pattern, meaning, hint in _THEIRS:
        if re.search(pattern, text, re.IGNORECASE):
            shown = "no certificate" if trust.certificate is None else str(trust.certificate)
            return refused(f"{peer} {meaning} (shown: {shown})", file=trust.certificate, hint=hint)
    return _no_tls(peer) if re.search(_NO_TLS, text, re.IGNORECASE) else None


def speaks_tls(peer: Peer) -> bool:
    """Tell whether a server begins TLS; for connections that were tried without it. Nothing is sent to it but that."""
    context = _unbelieving()
    try:
        with (
            socket.create_connection((peer.host, peer.port), PROBE_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=peer.host),
        ):
            return True
    except ssl.SSLError as exc:
        return re.search(_NO_TLS, str(exc), re.IGNORECASE) is None
    except OSError:
        return False


def postgres_begins(plain: socket.socket) -> bool:
    """Ask a PostgreSQL server to begin TLS."""
    plain.sendall(_POSTGRES_REQUEST)
    return plain.recv(1) == _POSTGRES_YES


def authority_of(peer: Peer, wanted: str) -> str:
    """Fetch the authority with a fingerprint from a server that sends it behind its own certificate.

    Nothing else of this connection is used: the real one is made by whoever believes that authority, and checks all.

    Args:
        peer: The server.
        wanted: The authority's fingerprint.

    Returns:
        The authority's certificate in PEM.

    Raises:
        FatalError: ``tls_refused``: the server speaks no TLS, or doesn't send it.
        OSError: Nobody answers.
    """
    try:
        with (
            socket.create_connection((peer.host, peer.port), PROBE_TIMEOUT) as plain,
            _unbelieving().wrap_socket(plain, server_hostname=peer.host) as secure,
        ):
            chain = _chain(secure)
    except ssl.SSLError as exc:
        raise explain(str(exc), peer, Trust()) or refused(f"{peer}: {exc}") from exc
    for der in chain:
        if fingerprint_of(der) == wanted:
            return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
    shown = ", ".join(map(fingerprint_of, chain))
    raise refused(
        f"{peer} shows no certificate of the authority {wanted} that the token names; it shows {shown}", key="token",
        hint="if this is the right broker, let it send its whole chain (the cert.pem of `bootpoint tls init` holds it),"
        " or name a folder by `tls` in agent.toml; else somebody is in between",
    )  # fmt: skip


def _unbelieving() -> ssl.SSLContext:
    """Return what shakes hands with anybody, for a look at what he shows; nothing is ever sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _chain(secure: ssl.SSLSocket) -> list[bytes]:
    """Return the certificates that the server sent, in DER."""
    if hasattr(secure, "get_unverified_chain"):  # Python 3.13 and later
        return list(secure.get_unverified_chain())
    # Python 3.10 to 3.12 have it in here only.
    sent = secure._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined] # noqa: SLF001 - as said
    return [certificate.public_bytes(_ssl_der()) for certificate in sent]


def _ssl_der() -> int:
    import _ssl

    return int(_ssl.ENCODING_DER)


def _no_tls(peer: Peer) -> BootpointError:
    hint = "name the port on which it speaks TLS, or turn TLS on there; nothing was sent in the clear"
    return refused(f"{peer} speaks no TLS on this port", hint=hint)
