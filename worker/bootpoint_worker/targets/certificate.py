"""The certificate that a host shows: fetched at the first contact, and compared before a byte is sent ever after.

ESXi and Hyper-V hosts sign their own certificates, so no authority vouches for them: what was confirmed at the first
contact is the only thing to trust. pyVmomi's own comparison isn't used: it compares only where the verification by
authorities failed, and then leaves its context without any for all further connections.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from datetime import UTC, datetime
from typing import cast

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.host import HostAccess, unreachable

#: Seconds for the TCP connection, and again for the handshake.
CONNECT_TIMEOUT = 15.0

#: Hexadecimal digits of a fingerprint -> its algorithm. A host's console shows SHA-1, openssl shows either.
ALGORITHMS = {40: "sha1", 64: "sha256"}

#: Setting of a host whose TLS may be older than 1.2: vSphere 5.1 to 6.0.
LEGACY_SETTING = "legacy_tls"

#: The way out where a host of VMware is too old.
LEGACY_HINT = "vSphere 5.1 to 6.0 may speak TLS 1.0 only: `bootpoint host set NAME --legacy-tls` accepts that"

#: In OpenSSL's words for an error: both sides have no version, cipher or kind of signature in common.
_NOTHING_IN_COMMON = re.compile("unsupported.protocol|version|cipher|handshake.failure|too.small|legacy", re.IGNORECASE)


def fingerprint_of(certificate: bytes, algorithm: str = "sha256") -> str:
    """Return the fingerprint of a certificate in DER, as ``openssl x509 -fingerprint`` prints it: ``4F:0A:…``."""
    return hashlib.new(algorithm, certificate).digest().hex(":").upper()


def normalised(fingerprint: str, *, key: str = "--fingerprint") -> str:
    """Return a fingerprint that somebody typed in the form that `fingerprint_of` gives.

    Args:
        fingerprint: SHA-256 or SHA-1 in hexadecimal digits, with or without colons or hyphens, and with or without the
            name of the algorithm before it.
        key: The option that it was given by.

    Raises:
        UsageError: ``spec_invalid``: it is neither.
    """
    digits = re.sub(r"^sha-?(1|256)( fingerprint)?[:=]|[-:\s]", "", fingerprint.strip().lower())
    if len(digits) not in ALGORITHMS or re.fullmatch("[0-9a-f]+", digits) is None:
        raise error(
            Code.SPEC_INVALID,
            f"{fingerprint!r} is no fingerprint of a certificate",
            key=key,
            value=fingerprint,
            hint="give SHA-256 or SHA-1 as `openssl x509 -noout -fingerprint -sha256` prints it: 4F:0A:…",
        )
    return bytes.fromhex(digits).hex(":").upper()


class PinnedContext(ssl.SSLContext):
    """Settings of TLS under which only one certificate is accepted; `pinned` makes it.

    Attributes:
        access: The host, with the fingerprint recorded.
        shown: The certificate in DER that was accepted; empty before the first connection.
        dated: Whether one that isn't valid at this time is refused.
    """

    access: HostAccess
    shown: bytes = b""
    dated: bool = False

    def accept(self, certificate: bytes) -> None:
        """Compare the certificate of a new connection with the one recorded.

        Raises:
            RefusedError: ``host_key_changed``.
            FatalError: ``tls_refused``: it has expired, or isn't valid yet.
        """
        recorded = self.access.fingerprint
        algorithm = ALGORITHMS.get(len(recorded.replace(":", "")), "sha256") if recorded else "sha256"
        found = fingerprint_of(certificate, algorithm)
        if found != recorded:
            raise error(
                Code.HOST_KEY_CHANGED,
                f"host {self.access.name} shows the certificate {found}; recorded is {recorded or 'none yet'}",
                key="fingerprint",
                value=found,
                host=self.access.name,
            )
        if self.dated:
            _require_valid(self.access.name, certificate)
        self.shown = certificate


class _PinnedSocket(ssl.SSLSocket):
    """A connection whose certificate is compared at the end of the handshake: nothing is sent before."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, and look at the certificate."""
        super().do_handshake(block)
        try:
            cast("PinnedContext", self.context).accept(self.getpeercert(binary_form=True) or b"")
        except BootpointError:
            self.close()
            raise


def pinned(access: HostAccess, *, dated: bool = False) -> PinnedContext:
    """Make settings of TLS that accept nothing but the certificate recorded for a host.

    Args:
        access: The host.
        dated: Whether it is refused when it has expired. ESXi's own outlive the host; Windows' are renewed.
    """
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.access = access
    context.dated = dated
    context.sslsocket_class = _PinnedSocket
    _unverified(context, legacy=bool(access.settings.get(LEGACY_SETTING)))
    return context


def fetch_fingerprint(address: str, port: int = 443, *, legacy: bool = False) -> str:
    """Ask a host for its certificate, before anything is trusted or sent.

    Returns:
        Its SHA-256 fingerprint, to be shown to and confirmed by a person.

    Raises:
        RetryableError: ``host_unreachable``.
        FatalError: ``tls_refused``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _unverified(context, legacy=legacy)
    try:
        with (
            socket.create_connection((address, port), timeout=CONNECT_TIMEOUT) as connection,
            context.wrap_socket(connection, server_hostname=address) as wrapped,
        ):
            return fingerprint_of(wrapped.getpeercert(binary_form=True) or b"")
    except OSError as exc:
        raise refusal(address, exc) from exc


def refusal(host: str, exc: OSError, hint: str = LEGACY_HINT) -> BootpointError:
    """Return the error of a connection that couldn't be made, or broke.

    Args:
        host: Name of the host.
        exc: What was raised.
        hint: The way out where both have no version of TLS in common.
    """
    if not isinstance(exc, ssl.SSLError) or not _NOTHING_IN_COMMON.search(str(exc)):
        return unreachable(host, exc)
    return error(
        Code.TLS_REFUSED,
        f"host {host} and bootpoint have no version of TLS in common: {exc}",
        host=host,
        hint=hint,
    )


def _require_valid(host: str, certificate: bytes) -> None:
    from cryptography import x509

    found, now = x509.load_der_x509_certificate(certificate), datetime.now(UTC)
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    if begins <= now <= ends:
        return
    said = f"has expired at {ends:%Y-%m-%d %H:%M} UTC" if now > ends else f"is valid only from {begins:%Y-%m-%d} on"
    raise error(
        Code.TLS_REFUSED,
        f"the certificate of host {host} {said}",
        key="fingerprint",
        value=fingerprint_of(certificate),
        host=host,
        hint="give the host a new one, and record it: `bootpoint host set NAME --fingerprint FP`; or mend a clock",
    )


def _unverified(context: ssl.SSLContext, *, legacy: bool) -> None:
    """Switch off the verification by authorities and, for an old host, the lower bounds of versions and keys."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if legacy:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        # Level 1 would already refuse TLS 1.0, whose handshake signs SHA-1; the fingerprint is compared all the same.
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
