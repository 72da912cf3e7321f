"""SMB2 WRITE requests, put onto the wire without smbprotocol's copies: a third of the processor's time of its own way.

smbprotocol keeps the session: its credits, its keys and its records of requests, and it takes the answers. A request is
packed, signed or encrypted, and sent in one piece here. Layouts: [MS-SMB2] 2.2.1.2 (header), 2.2.21 (WRITE), 2.2.41
(TRANSFORM_HEADER); signatures: 3.1.4.1; encryption: 3.1.4.3.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any

#: Header: protocol, its length, charge, status, command, credits asked for, flags, next command, id of the message,
#: reserved, tree, session, signature.
_HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")

#: WRITE: its length, where the data begins, length and offset of the data, file, and what RDMA would say.
_WRITE = struct.Struct("<HHIQ16sIIHHI")

#: What stands before an encrypted message: protocol, signature; nonce, length of the message, reserved, flags, session.
_SEALED, _SEALED_TAIL = struct.Struct("<4s16s"), struct.Struct("<16sIHHQ")

#: Command, and flag of a signed request.
_COMMAND_WRITE, _SIGNED = 0x0009, 0x00000008

#: Length of a signature, of AES, in bytes.
_SIGNATURE = 16

#: Oldest dialect whose ciphers and signatures are negotiated.
_SMB_3_1_1 = 0x0311


@dataclass(frozen=True, slots=True)
class _Value:
    """A field of a message, as smbprotocol asks for its value."""

    value: int

    def get_value(self) -> int:
        """Return it."""
        return self.value


def can_send(connection: Any, tree: Any) -> bool:
    """Tell whether requests can go this way; smbprotocol's own serves any others: shares of DFS, or one credit each."""
    return bool(connection.supports_multi_credit and not tree.is_dfs_share and tree.session.signing_key)


def send_write(tree: Any, file_id: bytes, offset: int, data: memoryview, *, charge: int, wanted: int) -> Any:
    """Send a WRITE.

    Args:
        tree: smbprotocol's tree.
        file_id: The open file.
        offset: Where in the file.
        data: What; it may be changed when this returns.
        charge: Credits that it costs; the connection has them.
        wanted: Credits that are asked for in the answer.

    Returns:
        smbprotocol's record of the request, for ``Connection.receive``.

    Raises:
        OSError: The connection is cut.
    """
    from smbprotocol.connection import Request
    from smbprotocol.open import SMB2WriteRequest

    session, connection = tree.session, tree.session.connection
    encrypted = bool(session.encrypt_data or tree.encrypt_data)
    with connection.sequence_lock:
        number = connection.sequence_window["low"]
        connection.sequence_window["low"] += charge
    flags = 0 if encrypted else _SIGNED
    head = _HEADER.pack(
        b"\xfeSMB", _HEADER.size, charge, 0, _COMMAND_WRITE, wanted, flags, 0, number, 0,
        tree.tree_connect_id, session.session_id, bytes(_SIGNATURE),
    )  # fmt: skip
    write = _WRITE.pack(_WRITE.size + 1, _HEADER.size + _WRITE.size, len(data), offset, file_id, 0, 0, 0, 0, 0)
    packet = bytearray().join((head, write, data))
    record = {"message_id": _Value(number), "command": _Value(_COMMAND_WRITE), "reserved": _Value(0)}
    request = Request(record, SMB2WriteRequest, connection, session_id=session.session_id)
    connection.outstanding_requests[number] = request
    if encrypted:
        _send(connection, *_seal(connection, session, packet))
    else:
        packet[_HEADER.size - _SIGNATURE : _HEADER.size] = _signature(connection, session, number, packet)
        _send(connection, packet)
    return request


def _signature(connection: Any, session: Any, number: int, packet: bytearray) -> bytes:
    """Return the signature of a request: AES-GMAC where it was negotiated, else AES-CMAC."""
    from cryptography.hazmat.primitives.ciphers import aead, algorithms
    from cryptography.hazmat.primitives.cmac import CMAC
    from smbprotocol.connection import SigningAlgorithms

    if connection.dialect >= _SMB_3_1_1 and connection.signing_algorithm_id == SigningAlgorithms.AES_GMAC:
        return aead.AESGCM(session.signing_key).encrypt(struct.pack("<QI", number, 0), b"", packet)
    signer = CMAC(algorithms.AES(session.signing_key))
    signer.update(packet)  # type: ignore[arg-type] # it takes any buffer
    return signer.finalize()


def _seal(connection: Any, session: Any, packet: bytearray) -> tuple[bytes, memoryview]:
    """Return an encrypted message, and what stands before it."""
    from cryptography.hazmat.primitives.ciphers import aead
    from smbprotocol.connection import Ciphers

    gcm = connection.dialect >= _SMB_3_1_1 and connection.cipher_id in (Ciphers.AES_128_GCM, Ciphers.AES_256_GCM)
    nonce = os.urandom(12 if gcm else 11)
    cipher = aead.AESGCM if gcm else aead.AESCCM
    tail = _SEALED_TAIL.pack(nonce, len(packet), 0, 1, session.session_id)
    sealed = memoryview(cipher(session.encryption_key).encrypt(nonce, packet, tail))
    return _SEALED.pack(b"\xfdSMB", bytes(sealed[-_SIGNATURE:])) + tail, sealed[:-_SIGNATURE]


def _send(connection: Any, *parts: bytes | bytearray | memoryview) -> None:
    """Send a message by the connection's socket, whose lock keeps it in one piece."""
    length = struct.pack(">I", sum(len(part) for part in parts))
    transport = connection.transport
    with transport._sock_lock:  # noqa: SLF001 - smbprotocol sends by it, too
        if not transport.connected:
            raise ConnectionResetError("the connection was cut")
        left = [memoryview(part) for part in (length, *parts)]
        while left:
            sent = transport._sock.sendmsg(left)  # noqa: SLF001
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = left[0][sent:]
