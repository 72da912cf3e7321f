"""One open file of a Windows host, read and written at any offset, with requests under way ahead of their answers.

::

    write_at ──► SMB2 WRITE ≤ 1 MiB ──► under way, at most 8 MiB ──► its answer
                     │                        │
                     │ waits for credits      └─ one that overlaps is answered first: a server may carry out
                     │ ([MS-SMB2] 3.2.4.1.5)     requests in any order
    flush ───► waits for all of them, then SMB2 FLUSH: the host's disk has what was written
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.units import MiB
from bootpoint_worker.smb.fault import mapped
from bootpoint_worker.smb.path import share_of
from bootpoint_worker.smb.session import SmbSession
from bootpoint_worker.smb.wire import can_send, send_write, set_information

#: Most bytes of one request. Windows Server 2012 takes no more; larger ones are hardly faster.
PIECE = MiB

#: Most bytes of requests under way, as a bound of memory: enough to keep 10 Gbit/s with a round trip of 5 ms busy.
UNDER_WAY = 8 * MiB

#: Bytes that a credit pays for ([MS-SMB2] 3.1.5.2).
CREDIT = 65536

#: Credits that are kept for other requests of the connection: those about names are sent in fives.
RESERVE = 16

#: Credits that are asked for: `UNDER_WAY` of some disks at a time. Windows grants 512 without being set up.
WANTED_CREDITS = 512

#: Seconds for an answer: a flush of a busy disk array takes some.
ANSWER_TIMEOUT = 120.0

#: Access to a file's bytes: read; read and write ([MS-SMB2] 2.2.13.1.1), attributes and SYNCHRONIZE included.
_READ, _WRITE = 0x00120089, 0x0012019F

#: Others may read, and no more ([MS-SMB2] 2.2.13): nobody changes what is read or written here.
_SHARE_READ = 0x1

#: What is done where it is there, or isn't ([MS-SMB2] 2.2.13): OPEN, CREATE, OVERWRITE_IF.
OPEN, CREATE, REPLACE = 1, 2, 5


#: Of the answer to a WRITE ([MS-SMB2] 2.2.22): how many bytes were written.
_COUNT = struct.Struct("<4xI")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request under way: the bytes that it is about, and smbprotocol's record of it."""

    offset: int
    length: int
    request: Any


class SmbFile:
    r"""An open file; see `bootpoint_worker.vhdx.file.RandomAccess`. Its handle is lost with the connection.

    Args:
        session: The connection; used by nobody else meanwhile but by this thread.
        path: Where the file is on the host: ``D:\vm\a.vhdx``.
        writable: Whether it may be changed.
        disposition: `OPEN`, `CREATE` (it must not be there yet) or `REPLACE`.

    Raises:
        BootpointError: ``layer_lost``: it isn't there; ``busy``: another program of the host has it open;
            ``host_permission``, ``host_unreachable``, ``host_unsupported``, …: see `smb.fault`.
    """

    def __init__(self, session: SmbSession, path: str, *, writable: bool = False, disposition: int = OPEN) -> None:
        self.name = path
        self._host = session.access.host
        self._failed = False
        self._sent: deque[_Sent] = deque()
        self._starts: list[int] = []  # of the writes under way, sorted; they don't overlap
        self._ends: list[int] = []
        self._bytes = 0
        tree = session.tree(path)
        with mapped(self._host, f"open {path}"):
            from smbprotocol.open import CreateOptions, FileAttributes, ImpersonationLevel, Open

            self._open = Open(tree, share_of(path)[1])
            self._connection = tree.session.connection
            self._open.create(
                ImpersonationLevel.Impersonation,
                _WRITE if writable else _READ,
                FileAttributes.FILE_ATTRIBUTE_NORMAL,
                _SHARE_READ,
                disposition,
                CreateOptions.FILE_NON_DIRECTORY_FILE,
            )
            self._size = int(self._open.end_of_file)
            self._most_read = min(PIECE, self._connection.max_read_size)
            self._most_written = min(PIECE, self._connection.max_write_size)

    def size(self) -> int:
        """Return its length, in bytes; nobody else changes it."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Read; see `RandomAccess.read_at`."""
        return next(self.read_many([(offset, length)]))

    def read_many(self, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Read with requests ahead; see `RandomAccess.read_many`."""
        waiting: deque[list[_Sent]] = deque()
        self.settle()
        try:
            for offset, length in ranges:
                waiting.append(self._begin_read(offset, length))
                while len(waiting) > 1 and self._bytes >= UNDER_WAY:
                    yield self._read(waiting.popleft())
            while waiting:
                yield self._read(waiting.popleft())
        finally:
            self._drop(each for pieces in waiting for each in pieces)

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write; see `RandomAccess.write_at`."""
        self._require_sound()
        view = memoryview(data).cast("B")
        for start in range(0, len(view), self._most_written):
            piece = view[start : start + self._most_written]
            at = offset + start
            while self._bytes + len(piece) > UNDER_WAY or self._overlaps(at, len(piece)):
                self._settle()
            self._sent.append(self._begin_write(at, piece))
            place = bisect_left(self._starts, at)
            self._starts.insert(place, at)
            self._ends.insert(place, at + len(piece))
            self._size = max(self._size, at + len(piece))

    def settle(self) -> None:
        """Return when the host has taken everything written; only after `flush` it survives a power cut."""
        self._require_sound()
        while self._sent:
            self._settle()

    def flush(self) -> None:
        """Make it durable; see `RandomAccess.flush`."""
        self.settle()
        message, _ = self._open.flush(send=False)
        self._ask(message, f"flush {self.name}")

    def resize(self, size: int) -> None:
        """Set the length; see `RandomAccess.resize`."""
        from smbprotocol.file_info import FileEndOfFileInformation

        self.settle()
        information = FileEndOfFileInformation()
        information["end_of_file"] = size
        message = set_information(self._open.file_id, information)
        self._ask(message, f"set {self.name} to {size} bytes")
        self._size = size

    def close(self) -> None:
        """Close it; see `RandomAccess.close`."""
        if not self._open.connected:
            return
        sent, self._sent = list(self._sent), deque()
        self._drop(sent)
        # A handle that can't be closed went with its connection.
        with contextlib.suppress(BootpointError), mapped(self._host, f"close {self.name}"):
            self._open.close()

    def _begin_write(self, offset: int, data: memoryview) -> _Sent:
        if can_send(self._connection, self._open.tree_connect):
            request = partial(send_write, self._open.tree_connect, self._open.file_id, offset, data)
            return self._send(lambda charge, wanted: request(charge=charge, wanted=wanted), offset, len(data))
        message, _ = self._open.write(bytes(data), offset, send=False)
        return self._send(partial(self._request, message), offset, len(data))

    def _begin_read(self, offset: int, length: int) -> list[_Sent]:
        end = min(offset + length, max(self._size, offset))
        pieces = []
        for at in range(offset, end, self._most_read):
            message, _ = self._open.read(at, min(self._most_read, end - at), send=False)
            pieces.append(self._send(partial(self._request, message), at, min(self._most_read, end - at)))
        return pieces

    def _read(self, pieces: list[_Sent]) -> bytes:
        from smbprotocol.open import SMB2ReadResponse

        found = []
        for piece in pieces:
            response = SMB2ReadResponse()
            response.unpack(self._answer(piece, "read"))
            found.append(response["buffer"].get_value())
            self._require_whole(piece, "read only", len(found[-1]))
        return found[0] if len(found) == 1 else b"".join(found)

    def _overlaps(self, offset: int, length: int) -> bool:
        place = bisect_left(self._starts, offset + length)
        return place > 0 and self._ends[place - 1] > offset

    def _settle(self) -> None:
        """Take the answer to the oldest write under way."""
        sent = self._sent.popleft()
        place = bisect_left(self._starts, sent.offset)
        del self._starts[place], self._ends[place]
        (count,) = _COUNT.unpack_from(self._answer(sent, "write"))
        self._require_whole(sent, "wrote only", count)

    def _require_whole(self, sent: _Sent, verb: str, count: int) -> None:
        if count != sent.length:
            self._failed = True
            text = f"host {self._host}: {verb} {count} of {sent.length} bytes at {sent.offset} of {self.name}"
            raise error(Code.TARGET_WRITE_ERROR, text, host=self._host)

    def _require_sound(self) -> None:
        if self._failed:
            text = f"host {self._host}: {self.name} isn't durable: a request has failed before"
            raise error(Code.TARGET_WRITE_ERROR, text, host=self._host)

    def _send(self, request: Callable[[int, int], Any], offset: int, length: int) -> _Sent:
        """Send a request, which is told its charge and what to ask for, when there are credits for it."""
        charge = 1 + (length - 1) // CREDIT
        with self._judged(f"reach {self.name}"):
            sent = _Sent(offset, length, request(charge, self._make_room(charge)))
        self._bytes += length
        return sent

    def _request(self, message: Any, _charge: int = 1, wanted: int = 1) -> Any:
        tree = self._open.tree_connect
        return self._connection.send(message, tree.session.session_id, tree.tree_connect_id, credit_request=wanted)

    def _make_room(self, charge: int) -> int:
        """Wait until there are credits for a request; each answer brings some, whoever's it is.

        Returns:
            How many to ask for with the request.
        """
        while self._credits() < charge + RESERVE:
            requests = list(self._connection.outstanding_requests.values())
            waiting = [request for request in requests if not request.response_event.is_set()]
            if waiting:
                waiting[0].response_event.wait(ANSWER_TIMEOUT)
                continue
            session = self._open.tree_connect.session.session_id
            if not self._connection.echo(session, ANSWER_TIMEOUT, WANTED_CREDITS):
                raise OSError("it grants no credits")
        return max(charge, WANTED_CREDITS - self._credits())

    def _credits(self) -> int:
        window = self._connection.sequence_window
        return int(window["high"] - window["low"])

    def _answer(self, sent: _Sent, verb: str) -> bytes:
        self._bytes -= sent.length
        with self._judged(f"{verb} {sent.length} bytes at {sent.offset} of {self.name}"):
            answer = self._connection.receive(sent.request, timeout=ANSWER_TIMEOUT)
            return bytes(answer["data"].get_value())

    def _ask(self, message: Any, what: str) -> None:
        with self._judged(what):
            self._connection.receive(self._request(message), timeout=ANSWER_TIMEOUT)

    def _drop(self, sent: Iterable[_Sent]) -> None:
        """Take the answers to requests that nobody wants any more."""
        for each in sent:
            try:
                self._answer(each, "drop")
            except BootpointError:
                if not self._connection.transport.connected:
                    return

    @contextlib.contextmanager
    def _judged(self, what: str) -> Iterator[None]:
        from smbprotocol.exceptions import SMBResponseException

        try:
            with mapped(self._host, what):
                yield
        except BootpointError as problem:
            self._failed = True
            if not isinstance(problem.__cause__, SMBResponseException):
                # No answer came: what one that is late would be taken for, nobody knows.
                with contextlib.suppress(OSError):
                    self._connection.disconnect(close=False)
            raise
