"""A disk composed of pieces reads like the disk that its pieces were cut from."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from bootpoint_common.extent import Extent
from bootpoint_producer.snapshots.lvm.picture import Linear, Memory, PictureSource, Piece, Striped


class Bytes:
    """A source in memory."""

    path = "bytes"

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)
        self.closed = False

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size_bytes
        return self._content[offset : offset + length]

    def data_extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length)

    def close(self) -> None:
        self.closed = True


def test_every_range_comes_from_where_it_lies(rng: Random) -> None:
    disk, volume = Bytes(rng.randbytes(1000)), Bytes(rng.randbytes(300))
    pieces = [
        Piece(400, 200, Linear(volume, 50)),
        Piece(100, 50, Memory(rng.randbytes(50))),
        Piece(150, 100, None),
        Piece(900, 100, Linear(volume, 0)),
    ]
    memory = pieces[1].content
    assert memory is not None
    whole = disk.read(0, 100) + memory.read(0, 50) + bytes(100) + disk.read(250, 150) + volume.read(50, 200)
    whole += disk.read(600, 300) + volume.read(0, 100)
    picture = PictureSource(disk, pieces)
    assert picture.size_bytes == len(whole)
    for _ in range(500):
        offset = rng.randrange(1001)
        length = rng.randrange(1001 - offset)
        assert picture.read(offset, length) == whole[offset : offset + length], (offset, length)
        extents = list(picture.data_extents(offset, length))
        assert sum(extent.length for extent in extents) == length
        assert all(not any(whole[extent.offset : extent.end]) for extent in extents if extent.zero)
    assert [(e.offset, e.end) for e in picture.data_extents(0, 1000) if e.zero] == [(150, 250)]
    picture.close()
    assert disk.closed
    assert volume.closed


def test_stripes_are_put_where_they_lie(rng: Random) -> None:
    chunk, stripes, rows = 64, 3, 5
    volume = Bytes(rng.randbytes(32 + chunk * stripes * rows))
    for number in range(stripes):
        striped = Striped(volume, 32, stripes=stripes, number=number, chunk=chunk)
        there = b"".join(volume.read(32 + (row * stripes + number) * chunk, chunk) for row in range(rows))
        for _ in range(100):
            offset = rng.randrange(len(there))
            length = rng.randrange(len(there) - offset)
            assert striped.read(offset, length) == there[offset : offset + length]
