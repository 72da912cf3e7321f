"""What ``thin_delta`` says about two thin volumes, from its XML.

::

    <superblock uuid="" time="1" transaction="2" data_block_size="128" nr_data_blocks="0">
      <diff left="1" right="2">
        <same begin="0" length="100"/>
        <different begin="100" length="10"/>
        <left_only begin="110" length="1"/>
        <right_only begin="120" length="4"/>
      </diff>
    </superblock>

All numbers are blocks of the pool. A volume's disk is read by this: whatever isn't exactly of this form is refused,
for a difference that is overlooked is a block of the replica that stays old.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from bootpoint_common.extent import Extent
from bootpoint_common.units import SECTOR

#: Where the volumes differ, or one of them has nothing.
_DIFFERENT = ("different", "left_only", "right_only")

#: Bytes that are parsed at a time.
_PIECE = 1 << 20

#: Blocks of a volume at most: far more than a pool's metadata can map.
_MOST_BLOCKS = 1 << 36


def read_delta(printed: BinaryIO, *, left: int, right: int, block_bytes: int) -> Iterator[Extent]:
    """Yield where two volumes differ, or may, ascending.

    Args:
        printed: What ``thin_delta`` printed.
        left: Number of the one volume.
        right: Number of the other.
        block_bytes: Size of the pool's blocks.

    Raises:
        ValueError: It is incomplete, about something else, or of another form.
    """
    reader = _Reader(left, right, block_bytes)
    try:
        while piece := printed.read(_PIECE):
            reader.parser.Parse(piece, False)
            yield from reader.found
            reader.found.clear()
        reader.parser.Parse(b"", True)
    except expat.ExpatError as broken:
        raise ValueError(f"what thin_delta printed is broken: {broken}") from broken
    if not reader.compared:
        raise ValueError("thin_delta compared nothing")


class _Reader:
    """Hears of every element; a tree of them would need more memory than the agent may."""

    def __init__(self, left: int, right: int, block_bytes: int) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._element
        self.parser.StartDoctypeDeclHandler = self._document_type
        self.found: list[Extent] = []
        self.compared = False
        self._left, self._right, self._block_bytes = left, right, block_bytes
        self._end = 0

    def _document_type(self, *_: object) -> None:
        raise ValueError("thin_delta printed a document type")  # entities can make much of little

    def _element(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "superblock":
            _expect(attributes, "data_block_size", self._block_bytes // SECTOR)
        elif tag == "diff":
            _expect(attributes, "left", self._left)
            _expect(attributes, "right", self._right)
            self.compared = True
        elif tag == "same" or tag in _DIFFERENT:
            begin, length = _number(attributes, "begin"), _number(attributes, "length")
            if begin < self._end or not length or not self.compared:
                raise ValueError(f"thin_delta names {length} blocks from {begin} on after block {self._end}")
            self._end = begin + length
            if tag != "same":
                self.found.append(Extent(begin * self._block_bytes, length * self._block_bytes))
        else:
            raise ValueError(f"thin_delta says {tag!r}, which nobody here understands")


def _number(attributes: dict[str, str], name: str) -> int:
    text = attributes.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) < _MOST_BLOCKS):
        raise ValueError(f"thin_delta says {name}={text[:40]!r}")
    return int(text)


def _expect(attributes: dict[str, str], name: str, value: int) -> None:
    if _number(attributes, name) != value:
        raise ValueError(f"thin_delta says {name}={attributes[name]!r} where it is {value}")
