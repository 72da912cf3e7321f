"""TLS as every part of bootpoint uses it: a folder of three files for each program, and whom they make it believe.

::

    DIR/ca.pem     the authorities, of one of which the other side's certificate must be
    DIR/cert.pem   the certificate that this side shows, with the authority's behind it
    DIR/key.pem    its key, for its user alone

The files are read for each new connection, so a renewed certificate is taken without a restart. Nothing here can turn
verification off, and no connection that should have been encrypted is made in the clear.
"""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bootpoint_common.errors import BootpointError, Code, error

#: Names of the files of a folder.
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "cert.pem", "key.pem"

#: What a fingerprint begins with: SHA-256 over the certificate in DER, in base64 without padding, as ssh shows keys.
FINGERPRINT_PREFIX = "SHA256:"

_RENEW = "renew it where the authority is (`bootpoint tls init DIR --renew`), and copy the folder here anew"
_COPY = "copy the folder that `bootpoint tls init` made for this program, with all three files"


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a connection believes, and what it shows of itself.

    Attributes:
        folder: A folder as above; None to show nothing.
        authority: File with the authorities to believe where there is no folder; None for the system's.
    """

    folder: Path | None = None
    authority: Path | None = None

    @property
    def ca(self) -> Path | None:
        """The file with the authorities; None for the system's."""
        return self.authority if self.folder is None else self.folder / CA_FILE

    @property
    def certificate(self) -> Path | None:
        """What is shown to the other side; None for nothing."""
        return None if self.folder is None else self.folder / CERTIFICATE_FILE

    def context(self) -> ssl.SSLContext:
        """Return what connects: it checks the other side's certificate and name, always.

        Raises:
            FatalError: ``tls_refused``: a file is missing or unreadable, or our own certificate isn't valid now.
        """
        if self.folder is not None:
            check_folder(self.folder)
        elif self.authority is not None:
            read_certificates(self.authority)
        context = ssl.create_default_context(cafile=self.ca)
        if self.folder is not None:
            _load(context, self.folder)
        return context


#: The system's authorities, and no certificate of ours: what an ``amqps://`` URL alone asks for.
NOTHING_OF_OURS = Trust()


def server_context(folder: Path) -> ssl.SSLContext:
    """Return what serves: it demands a certificate of one of the folder's authorities from whoever connects.

    Raises:
        FatalError: ``tls_refused``, as `Trust.context` does.
    """
    check_folder(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / CA_FILE)
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, folder)
    return context


def check_folder(folder: Path, *, now: datetime | None = None) -> None:
    """See that a folder can be used, so that a refusal names the file and not the other side.

    Raises:
        FatalError: ``tls_refused``: a file is missing, unreadable or no PEM, or the certificate isn't valid now.
    """
    read_certificates(folder / CA_FILE)
    _read(folder / KEY_FILE)
    file = folder / CERTIFICATE_FILE
    shown = read_certificates(file)[0]
    present = now or datetime.now(UTC)
    if present >= ends(shown):
        raise refused(f"the certificate {file} expired at {ends(shown):%Y-%m-%d %H:%M} UTC", file=file, hint=_RENEW)
    if present < begins(shown):
        raise refused(
            f"the certificate {file} is not yet valid: it is from {begins(shown):%Y-%m-%d %H:%M} UTC on, and this"
            f" machine's clock says {present:%Y-%m-%d %H:%M}",
            file=file, hint="set this machine's clock",
        )  # fmt: skip


def read_certificates(file: Path) -> list[x509.Certificate]:
    """Read a file of certificates in PEM; at least one.

    Raises:
        FatalError: ``tls_refused``: it is missing, unreadable, or holds none.
    """
    try:
        return x509.load_pem_x509_certificates(_read(file))
    except ValueError as exc:
        raise refused(f"{file} holds no certificate in PEM: {exc}", file=file, hint=_COPY) from exc


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the fingerprint of a certificate, as tokens carry it."""
    return fingerprint_of(certificate.public_bytes(Encoding.DER))


def fingerprint_of(der: bytes) -> str:
    """Return the fingerprint of a certificate in DER."""
    return FINGERPRINT_PREFIX + base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")


def begins(certificate: x509.Certificate) -> datetime:
    """Return from when on a certificate is valid, in UTC."""
    return certificate.not_valid_before_utc


def ends(certificate: x509.Certificate) -> datetime:
    """Return until when a certificate is valid, in UTC."""
    return certificate.not_valid_after_utc


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and addresses in a certificate, in their order."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(one.value) for one in found)


def refused(
    message: str, *, file: Path | None = None, hint: str | None = None, key: str | None = None
) -> BootpointError:
    """Return the error of a TLS connection that can't be made."""
    return error(Code.TLS_REFUSED, message, key=key, value=None if file is None else str(file), hint=hint)


def require_encryption(url: str, trust: Trust, *, key: str) -> None:
    """See that a broker's URL asks for TLS where certificates were given for it.

    Raises:
        FatalError: ``tls_refused``: the URL is plain.
    """
    if trust != NOTHING_OF_OURS and urlsplit(url).scheme != "amqps":
        raise refused(
            f"{trust.folder or trust.authority} is for an encrypted connection, and the broker's URL is a plain amqp://",
            key=key, hint="use amqps:// and the broker's TLS port, 5671",
        )  # fmt: skip


def _load(context: ssl.SSLContext, folder: Path) -> None:
    key = folder / KEY_FILE
    try:
        context.load_cert_chain(folder / CERTIFICATE_FILE, key, password=_no_password)
    except (ssl.SSLError, ValueError) as exc:
        text = f"the key {key} doesn't fit the certificate {folder / CERTIFICATE_FILE}, or is encrypted: {exc}"
        raise refused(text, file=key, hint=_COPY) from exc


def _no_password() -> str:
    """Stand for a password that nobody can type here: without it OpenSSL would ask the terminal."""
    raise ValueError("a password is asked for")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as exc:
        raise refused(f"there is no file {file}", file=file, hint=_COPY) from exc
    except OSError as exc:
        text = f"{file} can't be read by user {os.geteuid()}: {exc.strerror}"
        raise refused(text, file=file, hint="give the file to the user that this program runs as, mode 0600") from exc
