"""What stands in a certificate: for whom, until when, and what it may be used for.

X.509 version 3 with the extensions that RFC 5280 and RFC 9525 ask for.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bootpoint_common.tls import ends

#: How long an authority is valid: longer than an installation's hardware lives.
AUTHORITY_LIFETIME = timedelta(days=3650)

#: How long a certificate is valid: a stolen one ends by itself, and renewing is a yearly habit.
LIFETIME = timedelta(days=365)

#: How far before its making a certificate begins, for clocks that are a little behind.
BACKDATE = timedelta(minutes=5)


class Purpose(enum.StrEnum):
    """What a certificate is for; with NAME for those of which there are several."""

    BROKER = "broker"  #: RabbitMQ
    DATABASE = "database"  #: PostgreSQL
    METRICS = "metrics"  #: workers and schedulers, as Prometheus sees them
    HOST = "host"  #: a target host's NBD servers
    CLIENT = "client"  #: a process of ours, or Prometheus
    AGENT = "agent"  #: an agent

    @property
    def serves(self) -> bool:
        """Whether others connect to it, by a name that the certificate must hold."""
        return self in (Purpose.BROKER, Purpose.DATABASE, Purpose.METRICS, Purpose.HOST)

    @property
    def named(self) -> bool:
        """Whether there are several, told apart by names."""
        return self in (Purpose.HOST, Purpose.CLIENT, Purpose.AGENT)


@dataclass(frozen=True, slots=True)
class Wish:
    """A certificate that there has to be.

    Attributes:
        purpose: What for.
        name: Its name; that of the purpose where there is only one.
        names: DNS names and addresses by which it is reached; none for clients.
    """

    purpose: Purpose
    name: str
    names: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.purpose}-{self.name}" if self.purpose.named else str(self.purpose)


def is_address(name: str) -> bool:
    """Tell whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def root_builder(name: str, key: EllipticCurvePrivateKey, now: datetime) -> x509.CertificateBuilder:
    """Return an authority's certificate, to be signed by its own key."""
    # A number in the name: two installations' authorities must not be taken for one another by their names.
    subject = _subject(f"bootpoint {name} {x509.random_serial_number():040x}"[:60])
    return (
        _builder(subject, subject, key, now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )


def leaf_builder(
    wish: Wish, key: EllipticCurvePrivateKey, issuer: x509.Certificate, now: datetime
) -> x509.CertificateBuilder:
    """Return the certificate that was wished for, to be signed by the issuer's key."""
    end = min(LIFETIME, ends(issuer) - now)
    builder = (
        _builder(_subject(wish.name), issuer.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False, old_qemu=wish.purpose is Purpose.HOST), critical=True)
        .add_extension(_extended(wish.purpose), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    if not wish.names:
        return builder
    names = [
        x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name) for name in wish.names
    ]
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool, old_qemu: bool = False) -> x509.KeyUsage:
    # QEMU before 10.1 refuses to show a certificate without key encipherment, which a key like ours never does.
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=old_qemu, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _extended(purpose: Purpose) -> x509.ExtendedKeyUsage:
    usage = ExtendedKeyUsageOID.SERVER_AUTH if purpose.serves else ExtendedKeyUsageOID.CLIENT_AUTH
    return x509.ExtendedKeyUsage([usage])
