"""One claim's hold on one layer: requests to its NBD server, several in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeVar

from bootpoint_common.errors import BootpointError, Code, Fenced, error
from bootpoint_common.units import MiB
from bootpoint_worker.targets.nbdclient import Client, Disconnected, broken, refused

if TYPE_CHECKING:
    import nbd

_Answer = TypeVar("_Answer")

#: Requests in flight: beyond it the throughput to qemu-nbd doesn't grow.
DEPTH = 8

#: Largest data request in bytes; NBD servers take 32 MiB, beyond 1 MiB nothing is won.
LARGEST_WRITE = 8 * MiB

#: Largest zero request in bytes: its length is a 32-bit number.
LARGEST_ZERO = 512 * MiB


@dataclass(frozen=True, slots=True)
class _Request:
    """A request in flight; the data is kept here, for libnbd reads it until the request is done."""

    cookie: int
    start: int
    end: int
    data: bytes | memoryview
    what: str


class NbdWriter:
    """A writer; see `LayerWriter`.

    Args:
        client: The connection to the layer's server.
        explain: Finds out why the connection ended, and raises that.
        host: The host's name.
        size_bytes: Size of the disk.
    """

    def __init__(self, *, client: Client, explain: Callable[[], NoReturn], host: str, size_bytes: int) -> None:
        self._size = size_bytes
        self._client: Client | None = client
        self._explain = explain
        self._host = host
        self._flying: deque[_Request] = deque()
        self._failure: BootpointError | Fenced | None = None

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Send data; see `LayerWriter.write`."""
        import nbd

        view = memoryview(data)
        if not view.readonly:
            # Its owner may fill it anew before libnbd has sent it.
            view = memoryview(bytes(view))
        view = view.cast("B")
        for start in range(0, len(view), LARGEST_WRITE):
            piece = view[start : start + LARGEST_WRITE]
            at = offset + start
            self._submit(at, len(piece), piece, partial(nbd.NBD.aio_pwrite, buf=piece, offset=at))

    def zero(self, offset: int, length: int) -> None:
        """Send a request for zeros, which hide what is beneath (a trim would reveal it); see `LayerWriter.zero`."""
        import nbd

        end = offset + length
        for at in range(offset, end, LARGEST_ZERO):
            size = min(LARGEST_ZERO, end - at)
            self._submit(at, size, b"", partial(nbd.NBD.aio_zero, count=size, offset=at))

    def read(self, offset: int, length: int) -> bytes:
        """Read after all that was written; see `LayerWriter.read`."""
        self._land(0)
        buffer = bytearray(length)
        self._now(lambda handle: handle.aio_pread(buffer, offset), f"read {length} bytes at {offset}")
        return bytes(buffer)

    def flush(self) -> None:
        """Land everything and make it durable; see `LayerWriter.flush`."""
        self._land(0)
        self._now(lambda handle: handle.aio_flush(), "flush")

    def close(self) -> None:
        """Let go; the server ends with its only client; see `LayerWriter.close`."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        self._flying.clear()

    def _submit(self, offset: int, length: int, data: bytes | memoryview, send: Callable[[nbd.NBD], int]) -> None:
        if offset < 0 or offset + length > self._size:
            raise error(
                Code.TARGET_WRITE_ERROR,
                f"{length} bytes at {offset} lie outside a disk of {self._size}",
                host=self._host,
            )
        # A server may carry out requests in any order: ranges that overlap must not be in flight together.
        while any(request.start < offset + length and offset < request.end for request in self._flying):
            self._land(len(self._flying) - 1)
        self._land(DEPTH - 1)
        what = f"write {length} bytes at {offset}"
        cookie = self._guarded(lambda: send(self._handle), what)
        self._flying.append(_Request(cookie, offset, offset + length, data, what))

    def _land(self, left: int) -> None:
        """Wait until at most ``left`` requests are in flight, oldest first."""
        while len(self._flying) > left:
            request = self._flying.popleft()
            self._guarded(partial(self._connected.finish, request.cookie), request.what)

    def _now(self, send: Callable[[nbd.NBD], int], what: str) -> None:
        self._guarded(lambda: self._connected.finish(send(self._handle)), what)

    def _guarded(self, work: Callable[[], _Answer], what: str) -> _Answer:
        """Do a part of the work; once something failed, everything fails: a later flush must not hide it."""
        import nbd

        if self._failure is not None:
            raise self._failure
        try:
            return work()
        except nbd.Error as exc:
            if self._connected.alive and not broken(exc):
                self._failure = self._refusal(exc, what)
                raise self._failure from exc
        except Disconnected:
            pass
        try:
            self._explain()
        except (BootpointError, Fenced) as why:
            self._failure = why
            raise

    def _refusal(self, exc: nbd.Error, what: str) -> BootpointError:
        """Return the error for a request that the server refused."""
        return refused(self._host, exc, what)

    @property
    def _connected(self) -> Client:
        if self._client is None:
            raise ValueError("the writer is closed")
        return self._client

    @property
    def _handle(self) -> nbd.NBD:
        return self._connected.handle
