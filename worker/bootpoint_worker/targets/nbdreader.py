"""A read-only view of one disk of a point."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress

from bootpoint_common.errors import BootpointError
from bootpoint_common.units import MiB
from bootpoint_worker.targets.base import PIECE, PIECES_KEPT
from bootpoint_worker.targets.host import unreachable
from bootpoint_worker.targets.nbdclient import Client, Disconnected, broken, refused

#: Metadata context that tells which ranges read as zero (NBD protocol, "base:allocation").
ALLOCATION = "base:allocation"

#: NBD_STATE_ZERO of that context.
STATE_ZERO = 2

#: Largest read request in bytes.
LARGEST_READ = 8 * MiB

#: Read requests under way at a time in a stream: while one is answered the server reads for the next ones. More than
#: eight gained nothing, over a socket of this machine and over SSH.
DEPTH = 8

#: Largest range in bytes that one status request asks about.
LARGEST_STATUS = 1024 * MiB


class NbdReader:
    """A reader; see `LayerReader`.

    Args:
        client: The connection to the reader's server.
        size_bytes: Size of the disk.
        host: The host's name.
        release: Ends the server for certain.
    """

    def __init__(self, *, client: Client, size_bytes: int, host: str, release: Callable[[], None]) -> None:
        self.size_bytes = size_bytes
        self._client: Client | None = client
        self._host = host
        self._release = release

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes; see `LayerReader.read`."""
        import nbd

        buffer = bytearray(length)
        for start in range(0, length, LARGEST_READ):
            # Never an nbd.Buffer: libnbd 1.14 keeps each of them, with all its bytes, until the process ends.
            part = memoryview(buffer)[start : start + LARGEST_READ]
            self._ask("read", nbd.NBD.aio_pread, part, offset + start)
        return bytes(buffer)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Ask what reads as zero; see `LayerReader.extents`."""
        end = offset + length
        while offset < end:
            found = self._status(offset, min(end - offset, LARGEST_STATUS))
            for described, flags in zip(found[::2], found[1::2], strict=True):
                # The last answer may reach beyond what was asked for.
                part = min(described, end - offset)
                if part:
                    yield offset, part, bool(flags & STATE_ZERO)
                offset += part

    def stream(self, ranges: Iterable[tuple[int, int]]) -> Generator[tuple[int, memoryview], None, None]:
        """Read ahead; see `LayerReader.stream`."""
        pieces = (
            (at, min(PIECE, offset + length - at))
            for offset, length in ranges
            for at in range(offset, offset + length, PIECE)
        )
        # As many as are under way, and as many as were taken and may still be looked at.
        ring = deque(memoryview(bytearray(PIECE)) for _ in range(DEPTH + PIECES_KEPT))
        waiting: deque[tuple[int, memoryview, int]] = deque()
        try:
            for offset, length in pieces:
                ring.rotate(-1)
                with self._explained("read") as client:
                    waiting.append((offset, ring[0][:length], client.handle.aio_pread(ring[0][:length], offset)))
                if len(waiting) == DEPTH:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)
        finally:
            # The server still answers into the buffers: they must outlive its answers, wherever the caller went.
            with suppress(BootpointError):
                while waiting:
                    self._next(waiting)

    def _next(self, waiting: deque[tuple[int, memoryview, int]]) -> tuple[int, memoryview]:
        offset, data, cookie = waiting.popleft()
        with self._explained("read") as client:
            client.finish(cookie)
        return offset, data

    def _status(self, offset: int, length: int) -> list[int]:
        """Return lengths and flags, by turns."""
        import nbd

        found: list[int] = []

        def keep(_context: str, _offset: int, entries: list[int], _failed: object) -> int:
            found.extend(entries)
            return 0

        self._ask("map", nbd.NBD.aio_block_status, length, offset, keep)
        return found

    def close(self) -> None:
        """Let go; see `LayerReader.close`."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self._release()

    def _ask(self, what: str, send: Callable[..., int], *arguments: object) -> None:
        with self._explained(what) as client:
            client.finish(send(client.handle, *arguments))

    @contextmanager
    def _explained(self, what: str) -> Iterator[Client]:
        """Lend the connection, and raise what it meets as an error of ours."""
        import nbd

        if self._client is None:
            raise ValueError("the reader is closed")
        try:
            yield self._client
        except nbd.Error as exc:
            if self._client.alive and not broken(exc):
                raise refused(self._host, exc, what) from exc
            raise unreachable(self._host, "the server of a point ended") from exc
        except Disconnected as exc:
            raise unreachable(self._host, f"the server of a point ended: {exc}") from exc
