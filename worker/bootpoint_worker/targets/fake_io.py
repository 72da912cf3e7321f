"""Writing and reading layers of the fake host."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.base import PIECE
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.fake_layer import FakeLayer
from bootpoint_worker.targets.fake_machine import Hold


class FakeWriter:
    """One claim's hold on one layer; see `LayerWriter`.

    Every call looks under the host's lock whether the hold still stands, and acts under the same lock: a late
    writer can't slip in between.
    """

    def __init__(self, host: FakeHost, layer: FakeLayer, hold: Hold) -> None:
        self._host = host
        self._layer = layer
        self._hold = hold

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset; visible at once, durable after `flush`."""
        self._call("write", offset, len(data), bytes(data))

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zero, hiding what a lower layer holds there."""
        self._call("zero", offset, length, None)

    def read(self, offset: int, length: int) -> bytes:
        """Read what the layer shows."""
        self._host.fire("read", "called", self._hold.session)
        with self._host.lock:
            self._check(offset, length)
            data = self._layer.read(offset, length)
        self._host.fire("read", "done", self._hold.session)
        return data

    def flush(self) -> None:
        """Return when everything written before survives a power cut."""
        self._host.fire("flush", "called", self._hold.session)
        with self._host.lock:
            self._check(0, 0)
            self._layer.flush()
        self._host.fire("flush", "done", self._hold.session)

    def close(self) -> None:
        """Let go of the layer; what wasn't flushed stays in the host's cache."""
        self._host.release(self._hold)

    def _call(self, verb: str, offset: int, length: int, data: bytes | None) -> None:
        self._host.fire(verb, "called", self._hold.session)
        with self._host.lock:
            self._check(offset, length)
            if data is not None:
                needed = self._layer.needs(offset, length)
                if needed and needed > self._host.free_bytes(self._layer.storage):
                    raise self._host.full(self._layer.storage, needed)
            self._layer.write(offset, length, data)
        self._host.fire(verb, "done", self._hold.session)

    def _check(self, offset: int, length: int) -> None:
        if self._hold.ended is not None:
            raise self._hold.ended()
        if not self._host.reachable:
            raise self._host.unreachable()
        check_range(self._host, self._layer, offset, length)


class FakeReader:
    """A read-only view of a layer; see `LayerReader`."""

    def __init__(self, host: FakeHost, layer: FakeLayer, session: object) -> None:
        self.size_bytes = layer.size_bytes
        self._host = host
        self._layer = layer
        self._session = session
        self._boot = host.boot

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes; the range lies inside the disk."""
        self._host.fire("read", "called", self._session)
        with self._host.lock:
            self._check(offset, length)
            data = self._layer.read(offset, length)
        self._host.fire("read", "done", self._session)
        return data

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, zero) over the range in order."""
        with self._host.lock:
            self._check(offset, length)
            extents = list(self._layer.extents(offset, length))
        for extent in extents:
            yield extent.offset, extent.length, extent.zero

    def stream(self, ranges: Iterable[tuple[int, int]]) -> Generator[tuple[int, memoryview], None, None]:
        """Read ranges piece by piece."""
        for offset, length in ranges:
            for at in range(offset, offset + length, PIECE):
                yield at, memoryview(self.read(at, min(PIECE, offset + length - at)))

    def close(self) -> None:
        """Let go; may be called twice."""

    def _check(self, offset: int, length: int) -> None:
        if not self._host.reachable or self._boot != self._host.boot:
            raise self._host.unreachable()
        if self._host.layers.get(self._layer.identity) is not self._layer:
            raise self._host.layer_lost(self._layer.identity)
        check_range(self._host, self._layer, offset, length)


def check_range(host: FakeHost, layer: FakeLayer, offset: int, length: int) -> None:
    """Refuse a range that doesn't lie inside the disk.

    Raises:
        RetryableError: ``target_write_error``, as a server answers that is asked for such a range.
    """
    if offset < 0 or length < 0 or offset + length > layer.size_bytes:
        message = f"{length} bytes at {offset} do not lie inside {layer.identity} on host {host.name}"
        raise error(Code.TARGET_WRITE_ERROR, message, host=host.name)
