"""A disk as a bar to scale: how wide each partition and each gap is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Smallest gap between partitions that is drawn, as a part of the disk: what alignment leaves free interests nobody.
_GAP = 1 / 500
#: Cells of the narrowest segment, its border not counted.
_NARROWEST = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a disk.

    Attributes:
        start_bytes: Its first byte.
        size_bytes: Its size.
        label: What is written into it.
        used: What part of it is in use for certain, from 0 to 1.
        known: Whether the rest is free for certain.
        free: Whether it belongs to no partition.
    """

    start_bytes: int
    size_bytes: int
    label: str
    used: float = 0.0
    known: bool = False
    free: bool = False

    @property
    def end_bytes(self) -> int:
        """The byte after its last one."""
        return self.start_bytes + self.size_bytes


def segments(item: Mapping[str, Any]) -> list[Segment]:
    """Return a disk's partitions and gaps in their order; partitions that only hold others are left out."""
    size = max(0, item["size_bytes"])
    parts = [_segment(part) for part in item.get("partitions") or ()]
    parts = [part for part in parts if not any(_within(other, part) for other in parts)]
    found: list[Segment] = []
    at = 0
    for part in sorted(parts, key=lambda part: part.start_bytes):
        if part.start_bytes - at > size * _GAP:
            found.append(Segment(at, part.start_bytes - at, "free", free=True))
        found.append(part)
        at = max(at, part.end_bytes)
    if size - at > size * _GAP or not found:
        found.append(Segment(at, max(0, size - at), "free" if item.get("table") else "", free=True))
    return found


def _segment(part: Mapping[str, Any]) -> Segment:
    words = [str(part["number"])] if part["number"] else []
    words += [str(part[name]) for name in ("fs", "mount") if part.get(name)]
    size = max(0, part["size_bytes"])
    places = [part, *(part.get("holds") or ())]
    beneath = {held.get("on") for held in places}
    told = [place.get("used_bytes") for place in places if place["path"] not in beneath]
    used = min(1.0, max(0.0, sum(each for each in told if each is not None) / size)) if size else 0.0
    return Segment(max(0, part["start_bytes"]), size, " ".join(words), used, known=None not in told)


def _within(inner: Segment, outer: Segment) -> bool:
    return inner is not outer and outer.start_bytes < inner.start_bytes and inner.end_bytes <= outer.end_bytes


def merged(found: Sequence[Segment], most: int) -> list[Segment]:
    """Join the smallest neighbours until there are at most so many: a bar has only so many cells."""
    left = list(found)
    while len(left) > max(1, most):
        at = min(range(len(left) - 1), key=lambda number: left[number].size_bytes + left[number + 1].size_bytes)
        first, second = left[at : at + 2]
        left[at : at + 2] = [Segment(first.start_bytes, first.size_bytes + second.size_bytes, "..")]
    return left


def widths(sizes: Iterable[int], cells: int) -> list[int]:
    """Share cells out in proportion to sizes, at least one for each: by largest remainders.

    Args:
        sizes: Bytes; no more of them than cells.
        cells: How many there are; all are given out.
    """
    wanted = list(sizes)
    total = sum(wanted) or 1
    left = max(0, cells - _NARROWEST * len(wanted))
    exact = [left * size / total for size in wanted]
    given = [int(share) for share in exact]
    order = sorted(range(len(wanted)), key=lambda number: given[number] - exact[number])
    for number in order[: left - sum(given)]:
        given[number] += 1
    if wanted and sum(given) < left:  # sizes of nothing
        given[-1] += left - sum(given)
    return [_NARROWEST + share for share in given]
