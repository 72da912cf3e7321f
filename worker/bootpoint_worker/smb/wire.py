"""SMB2 WRITE requests, put onto the wire without smbprotocol's copies: a third of the processor's time of its own way.

smbprotocol keeps the session: its credits, its keys and its records of requests. A request is packed, signed or
encrypted, and sent in one piece here; `answer` reads what comes back. Layouts: [MS-SMB2] 2.2.1.2 (header), 2.2.21
(WRITE), 2.2.41 (TRANSFORMHEADER); signatures: 3.1.4.1; encryption: 3.1.4.3.
"""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass
from typing import Any

#: Header: protocol, its length, charge, status, command, credits asked for, flags, next command, id of the message,
#: reserved, tree, session, signature.
HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")

#: WRITE: its length, where the data begins, length and offset of the data, file, and what RDMA would say.
_WRITE = struct.Struct("<HHIQ16sIIHHI")

#: What stands before an encrypted message: protocol, signature; nonce, length of the message, reserved, flags, session.
_SEALED, _SEALED_TAIL = struct.Struct("<4s16s"), struct.Struct("<16sIHHQ")

#: What an encrypted message begins with.
SEALED = b"\xfdSMB"

#: Length of a signature, of AES, in bytes.
_SIGNATURE = 16

#: Oldest dialect whose ciphers and signatures are negotiated.
_SMB_3_1_1 = 0x0311


class Command(enum.IntEnum):
    """What a message is about ([MS-SMB2] 2.2.1)."""

    NEGOTIATE = 0x0000
    """Dialect, ciphers and signatures are agreed on."""
    SESSION_SETUP = 0x0001
    """The login."""
    WRITE = 0x0009
    """Bytes of a file."""


class Flag(enum.IntFlag):
    """What else a header says ([MS-SMB2] 2.2.1)."""

    ASYNC = 0x00000002
    """Its request took time; another answer came before, and the tree's place is another id's."""
    SIGNED = 0x00000008
    """It is signed."""


@dataclass(frozen=True, slots=True)
class Value:
    """A field of a message, as smbprotocol asks for its value."""

    value: Any

    def get_value(self) -> Any:
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
    flags = 0 if encrypted else Flag.SIGNED
    head = HEADER.pack(
        b"\xfeSMB", HEADER.size, charge, 0, Command.WRITE, wanted, flags, 0, number, 0,
        tree.tree_connect_id, session.session_id, bytes(_SIGNATURE),
    )  # fmt: skip
    write = _WRITE.pack(_WRITE.size + 1, HEADER.size + _WRITE.size, len(data), offset, file_id, 0, 0, 0, 0, 0)
    packet = bytearray().join((head, write, data))
    record = {"message_id": Value(number), "command": Value(Command.WRITE), "reserved": Value(0)}
    request = Request(record, SMB2WriteRequest, connection, session_id=session.session_id)
    connection.outstanding_requests[number] = request
    if encrypted:
        _send(connection, *_seal(connection, session, packet))
    else:
        packet[HEADER.size - _SIGNATURE : HEADER.size] = signature(connection, session, number, packet)
        _send(connection, packet)
    return request


def signature(connection: Any, session: Any, number: int, packet: bytes | bytearray, *, answer: bool = False) -> bytes:
    """Return the signature of a message: AES-GMAC where it was negotiated, else AES-CMAC.

    Args:
        connection: smbprotocol's connection.
        session: smbprotocol's session.
        number: The message's id.
        packet: The message, with zeros where its signature goes.
        answer: Whether the host has sent it.
    """
    from cryptography.hazmat.primitives.ciphers import aead, algorithms
    from cryptography.hazmat.primitives.cmac import CMAC
    from smbprotocol.connection import SigningAlgorithms

    if connection.dialect >= _SMB_3_1_1 and connection.signing_algorithm_id == SigningAlgorithms.AES_GMAC:
        return aead.AESGCM(session.signing_key).encrypt(struct.pack("<QI", number, answer), b"", packet)
    signer = CMAC(algorithms.AES(session.signing_key))
    signer.update(packet)  # type: ignore[arg-type] # it takes any buffer
    return signer.finalize()


def unsigned(packet: bytes) -> bytes:
    """Return a message with zeros where its signature is."""
    return packet[: HEADER.size - _SIGNATURE] + bytes(_SIGNATURE) + packet[HEADER.size :]


def unseal(connection: Any, message: bytes) -> bytes:
    """Decrypt a message.

    Raises:
        InvalidTag: It was changed on the way.
    """
    nonce, _, _, _, session_id = _SEALED_TAIL.unpack_from(message, _SEALED.size)
    session = connection.session_table[session_id]
    cipher, length = _cipher(connection)
    begin = _SEALED.size + _SEALED_TAIL.size
    sealed = message[begin:] + message[_SEALED.size - _SIGNATURE : _SEALED.size]
    opened: bytes = cipher(session.decryption_key).decrypt(nonce[:length], sealed, message[_SEALED.size : begin])
    return opened


def _seal(connection: Any, session: Any, packet: bytearray) -> tuple[bytes, memoryview]:
    """Return an encrypted message, and what stands before it."""
    cipher, length = _cipher(connection)
    nonce = os.urandom(length)
    tail = _SEALED_TAIL.pack(nonce, len(packet), 0, 1, session.session_id)
    sealed = memoryview(cipher(session.encryption_key).encrypt(nonce, packet, tail))
    return _SEALED.pack(SEALED, bytes(sealed[-_SIGNATURE:])) + tail, sealed[:-_SIGNATURE]


def _cipher(connection: Any) -> tuple[Any, int]:
    """Return the cipher that was negotiated, and how many bytes its nonce has."""
    from cryptography.hazmat.primitives.ciphers import aead
    from smbprotocol.connection import Ciphers

    gcm = connection.dialect >= _SMB_3_1_1 and connection.cipher_id in (Ciphers.AES_128_GCM, Ciphers.AES_256_GCM)
    return (aead.AESGCM, 12) if gcm else (aead.AESCCM, 11)


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


def set_information(file_id: bytes, information: Any) -> Any:
    """Return the request that changes what a host knows of an open file ([MS-SMB2] 2.2.39)."""
    from smbprotocol.open import SMB2SetInfoRequest

    message = SMB2SetInfoRequest()
    message["info_type"] = information.INFO_TYPE
    message["file_info_class"] = information.INFO_CLASS
    message["file_id"] = file_id
    message["buffer"] = information
    return message
