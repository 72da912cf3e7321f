"""A private authority in a directory, and a folder of certificate and key for each program that uses TLS.

::

    DIR/authority/servers.pem, servers.key   vouches for our servers, hosts and processes
    DIR/authority/agents.pem, agents.key     vouches for agents
    DIR/broker/ca.pem, cert.pem, key.pem     one folder for each program: database, metrics, host-NAME, client-NAME,
    DIR/agent-NAME/…                         agent-NAME

There are two authorities, because an agent runs on a machine of others: its certificate opens the broker and nothing
else, whatever its name is. Only the broker's ca.pem holds both; database, metrics and hosts believe the first alone.

Keys are NIST P-256, which OpenSSL, GnuTLS and Erlang all take.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from bootpoint_common.errors import Code, error
from bootpoint_common.tls import (
    CA_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    ends,
    fingerprint,
    names_of,
    read_certificates,
)
from bootpoint_ops.certificate import Purpose, Wish, is_address, leaf_builder, root_builder

#: Longest name in a certificate (RFC 5280, ub-common-name).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")

_PRIVATE, _PUBLIC = 0o600, 0o644


class State(enum.StrEnum):
    """What became of a folder."""

    MADE = "made"
    KEPT = "kept"
    RENEWED = "renewed"


@dataclass(frozen=True, slots=True)
class Issued:
    """A folder as it is now.

    Attributes:
        folder: Where.
        state: What was done about it.
        names: DNS names and addresses in its certificate.
        expires_at: Until when it is valid.
    """

    folder: Path
    state: State
    names: tuple[str, ...]
    expires_at: datetime


class Authority:
    """The authorities in a directory; made where there are none.

    Args:
        directory: Where everything lies.
        now: The present.

    Raises:
        UsageError: ``spec_invalid``: an authority's key isn't there although certificates of it are.
    """

    def __init__(self, directory: Path, *, now: datetime | None = None) -> None:
        self.directory = directory
        self._now = now or datetime.now(UTC)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "authority").mkdir(mode=0o700, exist_ok=True)
        self._servers, self._servers_key = self._root("servers")
        self._agents, self._agents_key = self._root("agents")

    @property
    def fingerprint(self) -> str:
        """Of the authority that vouches for the broker, as tokens carry it."""
        return fingerprint(self._servers)

    @property
    def expires_at(self) -> datetime:
        """When the first of the two ends."""
        return min(ends(self._servers), ends(self._agents))

    def require(self, wish: Wish, *, renew_within: timedelta | None = None) -> Issued:
        """See that a folder is there with this certificate: made, kept, or renewed where its names are others.

        Args:
            wish: What for.
            renew_within: Renew what ends sooner than that; None renews nothing for its age.
        """
        folder = self.directory / wish.folder
        if not _whole(folder):
            return self._issue(folder, wish, State.MADE)
        shown = read_certificates(folder / CERTIFICATE_FILE)[0]
        old = renew_within is not None and ends(shown) - self._now < renew_within
        if old or names_of(shown) != wish.names:
            return self._issue(folder, wish, State.RENEWED)
        return Issued(folder, State.KEPT, wish.names, ends(shown))

    def present(self) -> Iterator[Wish]:
        """Yield what the folders that are there were made for."""
        for file in sorted(self.directory.glob(f"*/{CERTIFICATE_FILE}")):
            purpose, _, name = file.parent.name.partition("-")
            if purpose in list(Purpose):
                yield Wish(Purpose(purpose), name or purpose, names_of(read_certificates(file)[0]))

    def _root(self, name: str) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
        file, key_file = (self.directory / "authority" / f"{name}{suffix}" for suffix in (".pem", ".key"))
        if key_file.exists() and file.exists():
            key = load_pem_private_key(key_file.read_bytes(), None)
            assert isinstance(key, EllipticCurvePrivateKey)  # noqa: S101 - we made it
            return read_certificates(file)[0], key
        if file.exists() or any(self.directory.glob(f"*/{CERTIFICATE_FILE}")):
            raise error(
                Code.SPEC_INVALID, f"the authority's key {key_file} isn't here", key="DIR", value=str(self.directory),
                hint="bring DIR/authority back from where it was put away, or begin anew in another directory",
            )  # fmt: skip
        key = generate_private_key(SECP256R1())
        root = self._sign(root_builder(name, key, self._now), key)
        _write(key_file, _pem(key), _PRIVATE)
        _write(file, root.public_bytes(Encoding.PEM), _PUBLIC)
        return root, key

    def _issue(self, folder: Path, wish: Wish, state: State) -> Issued:
        """Write a new key with a new certificate: the key first, for a reader takes what goes with the certificate."""
        key = generate_private_key(SECP256R1())
        of_agents = wish.purpose is Purpose.AGENT
        issuer, issuer_key = (self._agents, self._agents_key) if of_agents else (self._servers, self._servers_key)
        made = self._sign(leaf_builder(wish, key, issuer, self._now), issuer_key)
        believed = [self._servers, self._agents] if wish.purpose is Purpose.BROKER else [self._servers]
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / CA_FILE, b"".join(one.public_bytes(Encoding.PEM) for one in believed), _PUBLIC)
        _write(folder / KEY_FILE, _pem(key), _PRIVATE)
        _write(folder / CERTIFICATE_FILE, made.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM), _PUBLIC)
        return Issued(folder, state, wish.names, ends(made))

    @staticmethod
    def _sign(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
        return builder.sign(key, hashes.SHA256())


def check_wish(wish: Wish) -> Wish:
    """Return a wish that can be put into a certificate.

    Raises:
        UsageError: ``spec_invalid``: a name is none, or a server has none.
    """
    for name in (wish.name, *wish.names):
        if _NAME.fullmatch(name) is None and not is_address(name):
            hint = "use DNS names and IP addresses, or for clients and agents letters, digits, _ and -"
            raise error(Code.SPEC_INVALID, f"{name!r} is no name", key=f"--{wish.purpose}", value=name, hint=hint)
    if wish.purpose.serves and not wish.names:
        hint = "say the DNS names and addresses by which it is reached"
        raise error(Code.SPEC_INVALID, f"{wish.folder} needs a name", key=f"--{wish.purpose}", hint=hint)
    return wish


def _whole(folder: Path) -> bool:
    """Tell whether a folder has its three files and the key fits: not so where their writing was cut off."""
    if not all((folder / name).exists() for name in (CA_FILE, CERTIFICATE_FILE, KEY_FILE)):
        return False
    key = load_pem_private_key((folder / KEY_FILE).read_bytes(), None)
    return key.public_key() == read_certificates(folder / CERTIFICATE_FILE)[0].public_key()


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(file: Path, data: bytes, mode: int) -> None:
    """Write a file that appears whole, readable by nobody else from its first moment where that matters."""
    made = file.with_name(f".{file.name}.new")
    made.unlink(missing_ok=True)
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    made.chmod(mode)
    made.replace(file)


def wishes(purpose: Purpose, said: Sequence[str]) -> list[Wish]:
    """Read what was said on the command line about a purpose.

    Args:
        purpose: What for.
        said: For the broker, database and metrics DNS names and addresses; for hosts ``NAME`` or ``NAME=NAMES``; for
            clients and agents their names. Several names are separated by commas.

    Raises:
        UsageError: ``spec_invalid``, as `check_wish` does.
    """
    if not purpose.named:
        names = tuple(name for text in said for name in text.split(","))
        return [check_wish(Wish(purpose, str(purpose), names))] if names else []
    found = []
    for text in said:
        name, _, reached_by = text.partition("=")
        reached = tuple((reached_by or name).split(",")) if purpose.serves else ()
        found.append(check_wish(Wish(purpose, name, reached)))
    return found
