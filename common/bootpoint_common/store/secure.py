"""PostgreSQL over TLS: what a URL has to say so that libpq checks certificate and name, and shows a certificate."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from bootpoint_common.errors import BootpointError
from bootpoint_common.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Trust, check_folder, refused
from bootpoint_common.tls_probe import Peer, postgres_begins, why

#: The setting that names the folder.
KEY = "BOOTPOINT_DATABASE_TLS"

#: PostgreSQL's port where a URL names none.
PORT = 5432

#: The only mode that checks certificate and name (libpq, "SSL Mode Descriptions").
MODE = "verify-full"


def secured(url: str, folder: Path) -> str:
    """Return the URL of a connection that is encrypted and checked, or isn't made.

    Args:
        url: ``postgresql://user@host:port/name``; over TCP, for libpq ignores all of this on a unix socket.
        folder: The folder with ca.pem, cert.pem and key.pem.

    Raises:
        FatalError: ``tls_refused``: the folder can't be used, or the URL asks for something weaker.
    """
    check_folder(folder)
    parts = urlsplit(url)
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.hostname or "/" in said.get("host", "") or parts.hostname.lower().startswith("%2f"):
        text = "the database's URL names no host, so it is reached by a unix socket, which has no TLS"
        raise refused(text, file=folder, key=KEY, hint="name the server's host as its certificate does, or unset it")
    if said.get("sslmode", MODE) != MODE:
        text = f"the database's URL says sslmode={said['sslmode']}, and {KEY} asks for {MODE}"
        raise refused(text, file=folder, key=KEY, hint="take sslmode out of the URL")
    said.update(
        sslmode=MODE,
        sslrootcert=str(folder / CA_FILE),
        sslcert=str(folder / CERTIFICATE_FILE),
        sslkey=str(folder / KEY_FILE),
        # Else libpq would rather encrypt by Kerberos where it finds a ticket, and look at no certificate.
        gssencmode="disable",
    )
    return SplitResult(parts.scheme, parts.netloc, parts.path, urlencode(said, quote_via=quote), "").geturl()


def refusal(url: str, folder: Path) -> BootpointError | None:
    """Ask a server, with which no connection could be made, whether TLS is why; None if it isn't."""
    parts = urlsplit(url)
    peer = Peer("the database", parts.hostname or "", parts.port or PORT)
    return why(peer, Trust(folder=folder), begin=postgres_begins)
