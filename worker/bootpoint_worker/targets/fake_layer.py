"""Layers of the fake host: sparse, stacked, and with a cache that a power cut drops at random.

A read goes down the stack to the first layer that holds the grain; ``ZERO`` holds it, and hides what is
below::

    open layer      [ .  D  .  Z  .  . ]      D data   Z reads as zero   . look below
    V20261203_…     [ .  D  D  .  .  . ]
    base            [ D  D  .  D  .  . ]      below the base everything reads as zero
    reads as          D  D  D  0  0  0

Of each layer there are two states. *Visible* is what every reader on the running host sees: the host's page
cache. *Durable* is what a power cut leaves. Writes go to the visible state and are remembered until a flush
makes them durable; a power cut keeps, drops or tears each of them on its own, whatever their order was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from bootpoint_common.extent import Extent, merge
from bootpoint_common.units import GRAIN, SECTOR

#: Content of a grain that reads as zero and hides the layers below.
ZERO = None

#: Most places at which one write is torn.
MAX_TEARS = 8

_EMPTY = bytes(GRAIN)


@dataclass(frozen=True, slots=True)
class _Write:
    """A write that is not durable yet; no data means zeros."""

    offset: int
    length: int
    data: bytes | None

    def part(self, start: int, end: int) -> _Write:
        return _Write(start, end - start, self.data and self.data[start - self.offset : end - self.offset])


class FakeLayer:
    """One file of the fake host: a disk's part of a point, an open layer, or a scratch layer.

    Not thread-safe; the host's lock guards it.

    Args:
        identity: Its name on the host.
        place: Storage, folder and VM name of the replica that it belongs to.
        size_bytes: Virtual size, at least the backing layer's.
        backing: The layer below; None for a base.
        thick: Whether it takes its full size from the start.
    """

    def __init__(
        self,
        *,
        identity: str,
        place: tuple[str, str, str],
        size_bytes: int,
        backing: FakeLayer | None = None,
        thick: bool = False,
    ) -> None:
        self.identity = identity
        self.place = place
        self.size_bytes = size_bytes
        self.backing = backing
        self.thick = thick
        self.immutable = False
        self.damaged = False
        self._visible: dict[int, bytes | None] = {}
        self._durable: dict[int, bytes | None] = {}
        self._unflushed: list[_Write] = []
        self._data_grains = 0

    @property
    def storage(self) -> str:
        """Storage that it takes room on."""
        return self.place[0]

    @property
    def stored_bytes(self) -> int:
        """Bytes that it takes on its storage."""
        return self.size_bytes if self.thick else self._data_grains * GRAIN

    @property
    def written(self) -> bool:
        """Whether anything was written into it."""
        return bool(self._visible)

    def needs(self, offset: int, length: int) -> int:
        """Return the bytes that a write of data would add to `stored_bytes`."""
        if self.thick:
            return 0
        grains = range(offset // GRAIN, -(-(offset + length) // GRAIN))
        return sum(GRAIN for number in grains if self._visible.get(number) is ZERO)

    def write(self, offset: int, length: int, data: bytes | None) -> None:
        """Write data, or zeros for None; visible at once, durable after `flush`.

        Raises:
            PermissionError: The layer belongs to a committed point: the caller has a bug.
        """
        if self.immutable:
            raise PermissionError(f"{self.identity} belongs to a committed point")
        write = _Write(offset, length, data)
        self._unflushed.append(write)
        self._apply(self._visible, write)

    def flush(self) -> None:
        """Make everything durable that was written before."""
        for write in self._unflushed:
            for number in range(write.offset // GRAIN, -(-(write.offset + write.length) // GRAIN)):
                self._durable[number] = self._visible[number]
        self._unflushed.clear()

    def lose(self, random: Random, *, power: bool) -> None:
        """Keep a random part of what wasn't flushed.

        Args:
            random: Decides which writes stay, go, or are torn between sectors.
            power: What is left is durable (the power was cut); else it stays to be flushed (a server process
                died with its own cache).
        """
        left = [part for write in self._unflushed for part in _survivors(write, random)]
        target = self._durable if power else dict(self._durable)
        for write in left:
            self._apply(target, write)
        self._visible = dict(target)
        self._unflushed = [] if power else left
        self._data_grains = sum(grain is not ZERO for grain in self._visible.values())

    def absorb(self, overlay: FakeLayer) -> None:
        """Take over what a layer above it holds; visible at once, durable after `flush`.

        The only write that a committed point's file ever sees: its point is no longer listed by then.
        """
        self.size_bytes = overlay.size_bytes
        for number, grain in overlay._visible.items():
            length = min(GRAIN, self.size_bytes - number * GRAIN)
            write = _Write(number * GRAIN, length, grain and grain[:length])
            self._unflushed.append(write)
            self._apply(self._visible, write)

    def read(self, offset: int, length: int) -> bytes:
        """Return what it shows; the range lies inside the disk."""
        parts = []
        position, end = offset, offset + length
        while position < end:
            number, start = divmod(position, GRAIN)
            piece = min(GRAIN - start, end - position)
            parts.append((self.grain(number) or _EMPTY)[start : start + piece])
            position += piece
        return b"".join(parts)

    def grain(self, number: int) -> bytes | None:
        """Return a grain as it is visible, padded to its full length; `ZERO` where it reads as zero."""
        if number in self._visible or self.backing is None:
            return self._visible.get(number, ZERO)
        return self.backing.grain(number)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """Yield the range as data and zero, in order, without a gap."""
        first, last = offset // GRAIN, -(-(offset + length) // GRAIN)
        held = self._held(first, last)
        yield from merge(_clipped(sorted(n for n in held if self.grain(n) is not ZERO), offset, offset + length))

    def rot(self, offset: int) -> None:
        """Flip a byte of what it holds, as a bad medium does; committed or not."""
        number, place = divmod(offset, GRAIN)
        rotten = bytearray(self.grain(number) or _EMPTY)
        rotten[place] ^= 0xFF
        self._put(self._visible, number, bytes(rotten))
        self._durable[number] = self._visible[number]

    def _held(self, first: int, last: int) -> set[int]:
        """Return the grains from ``first`` to before ``last`` that this layer or one below holds."""
        below = self.backing._held(first, last) if self.backing is not None else set()  # noqa: SLF001 - of its own kind
        return below.union(number for number in self._visible if first <= number < last)

    def _apply(self, grains: dict[int, bytes | None], write: _Write) -> None:
        position, end = write.offset, write.offset + write.length
        while position < end:
            number, start = divmod(position, GRAIN)
            length = min(GRAIN - start, end - position)
            whole = start == 0 and (length == GRAIN or position + length == self.size_bytes)
            self._put(grains, number, self._merged(grains, number, write.part(position, position + length), whole))
            position += length

    def _merged(self, grains: dict[int, bytes | None], number: int, write: _Write, whole: bool) -> bytes | None:
        """Return the grain after a write inside it; the rest of it comes from below, as in a qcow2 cluster."""
        if whole and (write.data is ZERO or write.length == GRAIN):
            return write.data
        below = self.backing.grain(number) if self.backing is not None else ZERO
        old = grains.get(number, below)
        if old is ZERO and write.data is None:
            return ZERO
        grain = bytearray(old or _EMPTY)
        start = write.offset % GRAIN
        grain[start : start + write.length] = write.data if write.data is not None else bytes(write.length)
        return bytes(grain)

    def _put(self, grains: dict[int, bytes | None], number: int, grain: bytes | None) -> None:
        if grains is self._visible:
            self._data_grains += (grain is not ZERO) - (grains.get(number) is not ZERO)
        grains[number] = grain


def _survivors(write: _Write, random: Random) -> Iterator[_Write]:
    """Yield what a cut leaves of a write: all of it, nothing, or some pieces between sector boundaries."""
    fate = random.randrange(3)
    if fate == 0:
        return
    if fate == 1:
        yield write
        return
    end = write.offset + write.length
    first, last = write.offset // SECTOR + 1, -(-end // SECTOR)
    tears = {random.randrange(first, last) * SECTOR for _ in range(MAX_TEARS)} if first < last else set()
    edges = [write.offset, *sorted(tears), end]
    for start, stop in pairwise(edges):
        if random.getrandbits(1):
            yield write.part(start, stop)


def _clipped(data_grains: list[int], offset: int, end: int) -> Iterator[Extent]:
    """Yield data for the grains and zero between them, clipped to the range."""
    position = offset
    for number in data_grains:
        start, stop = max(offset, number * GRAIN), min(end, (number + 1) * GRAIN)
        if position < start:
            yield Extent(position, start - position, zero=True)
        yield Extent(start, stop - start)
        position = stop
    if position < end:
        yield Extent(position, end - position, zero=True)
