"""Messages that come from a host, before smbprotocol reads them.

Two things are done with each. One that is not protected as its session is to be is refused: smbprotocol checks the
signatures that are there, and takes an answer that has none, or isn't encrypted, for one ([MS-SMB2] 3.2.5.1.1 to
3.2.5.1.3 have the client discard it). And the answers to WRITE requests that succeeded are read here, at a tenth of the
processor's time of smbprotocol's own way: of what random writes take, that is a third.
"""

from __future__ import annotations

from typing import Any

from bootpoint_worker.smb.wire import HEADER, SEALED, Command, Flag, Value, signature, unseal, unsigned

#: Longest message that is looked into: an answer to a WRITE has 80 bytes, and 52 before them when it is encrypted. What
#: is longer isn't decrypted here, for smbprotocol would do it once more.
_LONGEST = 256

#: Status of an answer, and of one that only says that the true one will take time; it isn't signed.
_SUCCESS, _PENDING = 0x00000000, 0x00000103

#: Bytes of the answer to a WRITE behind its header ([MS-SMB2] 2.2.22).
_WRITTEN = 16


def watch(connection: Any) -> None:
    """Look at all that comes from a host from now on; to be called before the login.

    Args:
        connection: smbprotocol's connection, which has negotiated the dialect.
    """
    receive = connection.transport.recv

    def recv(timeout: float) -> bytes | None:
        """Return the next message that is smbprotocol's to read; see its ``Tcp.recv``, which this one stands for."""
        while True:
            message: bytes | None = receive(timeout)
            if not message or not _take(connection, message):
                return message

    connection.transport.recv = recv


def _take(connection: Any, message: bytes) -> bool:
    """Tell whether a message was read here, and is done with.

    Raises:
        SMBException: It isn't protected as it has to be.
    """
    sealed = message.startswith(SEALED)
    if not sealed:
        _require_signed(connection, message)
    if len(message) > _LONGEST:
        return False
    plain = unseal(connection, message) if sealed else message
    if len(plain) < HEADER.size + _WRITTEN:
        return False
    _, _, _, status, command, granted, flags, following, number, _, _, _, found = HEADER.unpack_from(plain)
    request = connection.outstanding_requests.get(number)
    if request is None or (status, command, following) != (_SUCCESS, Command.WRITE, 0) or flags & Flag.ASYNC:
        return False
    session = connection.session_table.get(request.session_id)
    if not sealed and found != signature(connection, session, number, unsigned(plain), answer=True):
        return False  # smbprotocol finds that, too, and ends the connection
    with connection.sequence_lock:
        connection.sequence_window["high"] += granted
    with request.response_event_lock:
        request.response = {"status": Value(status), "data": Value(plain[HEADER.size :])}
        request.response_event.set()
    return True


def _require_signed(connection: Any, message: bytes) -> None:
    """Refuse a message that has no signature, unless its request was about the login, or it only says to wait.

    What it says of its own command is not to be believed.
    """
    from smbprotocol.exceptions import SMBException

    following = -1
    while following and len(message) >= HEADER.size:
        _, _, _, status, _, _, flags, following, number, *_ = HEADER.unpack_from(message)
        request = connection.outstanding_requests.get(number)
        wanted = request.message["command"].get_value() if request else None
        if not flags & Flag.SIGNED and status != _PENDING and wanted not in (Command.NEGOTIATE, Command.SESSION_SETUP):
            raise SMBException("an answer came that is neither signed nor encrypted")
        message = message[following:]
