"""Metrics over HTTPS, for those who show a certificate of the authority.

Each connection shakes hands in its own thread, within a limit, and reads the files anew: one client that connects and
says nothing keeps no other out, and a renewed certificate is shown without a restart.
"""

from __future__ import annotations

import logging
import socket
import ssl
from pathlib import Path

from bootpoint_common.errors import BootpointError
from bootpoint_common.tls import server_context

_log = logging.getLogger(__name__)


def shake_hands(plain: socket.socket, folder: Path, client: str, patience: float) -> ssl.SSLSocket | None:
    """Return a client's connection, encrypted; None, and a line in the log, where it may not come in.

    Args:
        plain: The connection, accepted; the encrypted one takes it over.
        folder: What is shown, and whose certificates are believed.
        client: Its address, for the log.
        patience: Seconds that the client may keep silent.
    """
    plain.settimeout(patience)
    try:
        return server_context(folder).wrap_socket(plain, server_side=True)
    except BootpointError as exc:
        cause = exc.message
    except OSError as exc:
        cause = _words(exc)
    _log.warning("metrics refused", extra={"client": client, "cause": cause})
    return None


def _words(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLError) and "HTTP_REQUEST" in str(exc):
        return "the client spoke HTTP; only HTTPS with a client certificate is served here"
    if isinstance(exc, ssl.SSLError) and "did not return a certificate" in str(exc):
        return "the client showed no certificate"
    return str(exc)
