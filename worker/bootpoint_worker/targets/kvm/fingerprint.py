"""The key that a host shows: its fingerprint in OpenSSH's form, fetched at the first contact."""

from __future__ import annotations

import base64
import hashlib
import socket
from typing import TYPE_CHECKING

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.kvm.session import unreachable

if TYPE_CHECKING:
    from paramiko import Transport

#: Seconds for the TCP connection, and again for the key exchange.
CONNECT_TIMEOUT = 15.0

#: Preferred first: hardware does AES-GCM at several times the speed of the other ciphers.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")

#: Kinds of host keys, in the order in which they are asked for.
KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "rsa-sha2-512")

#: TCP_USER_TIMEOUT in milliseconds: a peer that is silently gone ends the connection after it.
USER_TIMEOUT_MS = 30_000


def fingerprint_of(key: bytes) -> str:
    """Return ``SHA256:…`` of a public key in SSH's wire form, as ``ssh-keygen -l`` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def fetch_fingerprint(address: str, port: int = 22) -> str:
    """Ask a host for its key, before anything is trusted or sent.

    Returns:
        Its fingerprint, to be shown to and confirmed by a person.

    Raises:
        RetryableError: ``host_unreachable``.
    """
    transport = negotiate(address, address, port)
    try:
        return shown(transport)
    finally:
        transport.close()


def shown(transport: Transport) -> str:
    """Return the fingerprint of the key that the host showed."""
    return fingerprint_of(transport.get_remote_server_key().asbytes())


def negotiate(host: str, address: str, port: int, key_types: tuple[str, ...] = KEY_TYPES) -> Transport:
    """Connect and exchange keys; nobody is authenticated yet.

    Raises:
        RetryableError: ``host_unreachable``.
        FatalError: ``host_unsupported``: paramiko is missing.
    """
    try:
        import paramiko
    except ImportError as exc:
        raise error(Code.HOST_UNSUPPORTED, "SSH needs paramiko: pip install 'bootpoint[kvm]'", host=host) from exc
    connection = None
    try:
        connection = socket.create_connection((address, port), timeout=CONNECT_TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        transport = paramiko.Transport(connection)
        options = transport.get_security_options()
        options.ciphers = _preferring(CIPHERS, options.ciphers)
        options.key_types = tuple(kind for kind in key_types if kind in options.key_types)
        transport.banner_timeout = CONNECT_TIMEOUT
        transport.start_client(timeout=CONNECT_TIMEOUT)
    except (OSError, EOFError, paramiko.SSHException) as exc:
        if connection is not None:
            connection.close()
        raise unreachable(host, f"{address} port {port}: {exc}") from exc
    return transport


def _preferring(wanted: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    first = tuple(name for name in wanted if name in known)
    return first + tuple(name for name in known if name not in first)
