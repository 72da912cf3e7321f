"""Logical volumes that lie on one physical volume in one piece: there a file system is where it seems to be.

Source of the format: lvm2's format_text (labels, areas and the text of the metadata); see also `man 5 lvmraid` for
what isn't linear. Metadata that isn't understood whole, and volumes that aren't linear, are used.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bootpoint_common.units import SECTOR, MiB
from bootpoint_producer.usedblocks.facts import DoubtError, Read, demand

#: A label lies in one of the first sectors.
_LABEL_SECTORS = 4
#: The most of a metadata text that is read.
_MOST_TEXT = 16 * MiB
_MAGIC = b" LVM2 x[5A%r0N*>"
_CHECKSUM_BEGINS = 0xF597A6CF
_TOKEN = re.compile(r'\s+|#[^\n]*|("(?:[^"\\]|\\.)*")|([A-Za-z0-9_.+-]+)|([{}\[\]=,])')


@dataclass(frozen=True, slots=True)
class Volume:
    """A linear logical volume.

    Attributes:
        name: Its name.
        start: Its first byte on the physical volume.
        size: Its bytes.
    """

    name: str
    start: int
    size: int


def volumes(read: Read, size: int) -> list[Volume]:
    """Return the logical volumes that lie on a physical volume in one piece.

    Args:
        read: Reads from the physical volume.
        size: Its bytes.

    Raises:
        DoubtError: Its metadata isn't there, or not as known.
    """
    try:
        own, text = _metadata(read, size)
        groups = [value for value in _parsed(text).values() if isinstance(value, dict)]
        demand(len(groups) == 1, "its metadata isn't of one volume group")
        return list(_linear(groups[0], own))
    except (struct.error, KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as failure:
        raise DoubtError("its metadata makes no sense") from failure


def _metadata(read: Read, size: int) -> tuple[str, str]:
    """Return the physical volume's id, and the text of the volume group's metadata."""
    for number in range(_LABEL_SECTORS):
        label = read(number * SECTOR, SECTOR)
        if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001":
            break
    else:
        raise DoubtError("it has no label")
    (at,) = struct.unpack_from("<I", label, 20)
    own = label[at : at + 32].decode("ascii")
    at += 40
    lists: list[list[tuple[int, int]]] = []
    for _ in range(2):  # areas of data, then of metadata; each list ends with zeros
        areas = []
        while (area := struct.unpack_from("<2Q", label, at)) != (0, 0):
            areas.append(area)
            at += 16
        at += 16
        lists.append(areas)
    demand(len(lists[0]) == 1 and lists[1], "it has no metadata of its own")
    start, length = lists[1][0]
    head = read(start, SECTOR)
    demand(head[4:20] == _MAGIC, "its metadata isn't where it should be")
    offset, count, checksum, flags = struct.unpack_from("<2Q2I", head, 40)
    demand(offset and 0 < count <= _MOST_TEXT and not flags & 1 and start + length <= size, "it has no metadata")
    # The area is a ring: what doesn't fit before its end goes on behind its first sector.
    first = min(count, length - offset)
    text = read(start + offset, first) + (read(start + SECTOR, count - first) if count > first else b"")
    demand(_checksum(text) == checksum, "its metadata is damaged")
    return own, text.rstrip(b"\x00").decode()


def _checksum(text: bytes) -> int:
    """Return lvm2's checksum: CRC-32 with a beginning of its own, and no inversion at the end."""
    return ~zlib.crc32(text, ~_CHECKSUM_BEGINS & 0xFFFFFFFF) & 0xFFFFFFFF


def _parsed(text: str) -> dict[str, Any]:
    tokens = list(_tokens(text))
    found, at = _section(tokens, 0)
    demand(at == len(tokens), "its metadata isn't whole")
    return found


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"no token at {at}")
        at = match.end()
        if match.lastindex:
            yield match[match.lastindex]


def _section(tokens: list[str], at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while at < len(tokens) and tokens[at] != "}":
        name, sign = tokens[at], tokens[at + 1]
        at += 2
        if sign == "{":
            found[name], at = _section(tokens, at)
            at += 1
        elif sign == "=" and tokens[at] == "[":
            end = tokens.index("]", at)
            found[name] = [_value(each) for each in tokens[at + 1 : end] if each != ","]
            at = end + 1
        elif sign == "=":
            found[name] = _value(tokens[at])
            at += 1
        else:
            raise ValueError(f"{sign!r} after {name!r}")
    return found, at


def _value(token: str) -> str | int:
    return token[1:-1] if token.startswith('"') else int(token)


def _linear(group: dict[str, Any], own: str) -> Iterator[Volume]:
    extent = group["extent_size"] * SECTOR
    mine = [name for name, volume in group["physical_volumes"].items() if volume["id"].replace("-", "") == own]
    demand(len(mine) == 1, "its metadata doesn't name it")
    first = group["physical_volumes"][mine[0]]["pe_start"] * SECTOR
    logical = {name: list(_segments(volume)) for name, volume in group.get("logical_volumes", {}).items()}
    # What others stand on (an origin of snapshots, say) has blocks in use that its own file system calls free.
    beneath = {value for segments in logical.values() for segment in segments for value in segment.values()
               if isinstance(value, str)}  # fmt: skip
    for name, segments in logical.items():
        # Parts of others (a thin pool's data, one half of a mirror) are invisible, and only look like a file system.
        if name in beneath or "VISIBLE" not in group["logical_volumes"][name]["status"]:
            continue
        place = _one_piece(segments, mine[0])
        if place is not None:
            yield Volume(name, first + place[0] * extent, place[1] * extent)


def _segments(volume: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for number in range(volume["segment_count"]):
        yield volume[f"segment{number + 1}"]


def _one_piece(segments: list[dict[str, Any]], physical: str) -> tuple[int, int] | None:
    """Return first extent and number of extents of what lies in one piece on a physical volume."""
    start, count = 0, 0
    for segment in segments:
        if segment["type"] != "striped" or segment["stripe_count"] != 1 or segment["stripes"][0] != physical:
            return None
        at = segment["stripes"][1]
        start = start if count else at
        if segment["start_extent"] != count or at != start + count:
            return None
        count += segment["extent_count"]
    return (start, count) if count else None
