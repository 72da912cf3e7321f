"""From chunks to encoded bundles: one thread scans, a few compress, and the order stays.

::

    scan (thread) ──► budget ──► compress (threads) ──► in the scan's order ──► the caller
                        ▲                                                          │
                        └───────────────── bytes given back ◄──────────────────────┘

The budget counts a chunk's raw bytes from before it is compressed until the caller asks for the next one, so
a caller that waits for credit holds the scan back, and memory is bounded whatever the disk's size.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bootpoint_common import bundle
from bootpoint_common.units import MiB
from bootpoint_producer.chunk import Chunk

#: Threads that compress; zstd is what limits a run, and a third one gains nothing on two cores.
COMPRESSORS = 2
#: Raw bytes that may be on their way at once: enough to hide a slow read, small beside an agent's memory.
IN_FLIGHT = 32 * MiB
#: Bytes that an extent counts for in the budget, so that chunks of tiny zero extents are bounded as well.
_EXTENT_COST = 128


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk that is ready to be sealed.

    Attributes:
        chunk: What it holds.
        body: The encoded bundle.
    """

    chunk: Chunk
    body: bytes


def encode_chunk(chunk: Chunk) -> bytes:
    """Encode a chunk as a bundle of data."""
    return bundle.encode(bundle.Kind.DATA, chunk.extents, chunk.payload)


class Pipeline:
    """Encodes chunks ahead of its caller. A context manager; iterated once, by one thread.

    Leaving the context early ends the threads; it waits for a read that is under way.

    Args:
        chunks: What `scan` yields; iterated, and closed, by a thread of the pipeline.
        encode: Makes the bundle of a chunk; called by several threads.
        compressors: Threads that call it.
        in_flight_bytes: Raw bytes that may be on their way; a single larger chunk still passes.
    """

    def __init__(
        self,
        chunks: Iterable[Chunk],
        *,
        encode: Callable[[Chunk], bytes] = encode_chunk,
        compressors: int = COMPRESSORS,
        in_flight_bytes: int = IN_FLIGHT,
    ) -> None:
        self._chunks = chunks
        self._encode = encode
        self._compressors = compressors
        self._limit = in_flight_bytes
        self._changed = threading.Condition()
        self._queue: deque[tuple[Chunk, Future[bytes]]] = deque()
        self._in_flight = 0
        self._closed = False
        self._ended = False
        self._failure: BaseException | None = None
        self._reader = threading.Thread(target=self._read, name="scan", daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._reader.join()

    def __iter__(self) -> Iterator[Encoded]:
        """Return the encoded chunks in order.

        Raises:
            Exception: What the scan or the encoder raised, after all that came before it.
        """
        while (taken := self._next()) is not None:
            chunk, future = taken
            yield Encoded(chunk, future.result())
            self._give_back(_cost(chunk))

    def _next(self) -> tuple[Chunk, Future[bytes]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended)
            if self._queue:
                return self._queue.popleft()
        if self._failure is not None:
            raise self._failure
        return None

    def _give_back(self, cost: int) -> None:
        with self._changed:
            self._in_flight -= cost
            self._changed.notify_all()

    def _admit(self, cost: int) -> bool:
        """Wait for room; return False when the pipeline was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._in_flight == 0 or self._in_flight + cost <= self._limit
            )
            self._in_flight += cost
            return not self._closed

    def _read(self) -> None:
        failure: BaseException | None = None
        try:
            with ThreadPoolExecutor(self._compressors, thread_name_prefix="compress") as pool:
                chunks = iter(self._chunks)
                try:
                    for chunk in chunks:
                        if not self._admit(_cost(chunk)):
                            break
                        future = pool.submit(self._encode, chunk)
                        with self._changed:
                            self._queue.append((chunk, future))
                            self._changed.notify_all()
                finally:
                    if close := getattr(chunks, "close", None):
                        close()
        except BaseException as raised:  # noqa: BLE001 - the thread's edge; the caller gets it
            failure = raised
        with self._changed:
            self._failure = failure
            self._ended = True
            self._changed.notify_all()


def _cost(chunk: Chunk) -> int:
    return len(chunk.payload) + len(chunk.extents) * _EXTENT_COST
