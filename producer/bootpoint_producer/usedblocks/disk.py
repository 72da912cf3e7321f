"""What of one disk needn't be read: the ranges that its file systems call free, and what a job leaves out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from bootpoint_common.extent import Extent
from bootpoint_common.units import SECTOR, MiB, format_size
from bootpoint_producer.probe import signature
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.sources.base import Source
from bootpoint_producer.usedblocks import swap, unixfs, windowsfs, xfslog
from bootpoint_producer.usedblocks.facts import DoubtError, Facts, Read, demand
from bootpoint_producer.usedblocks.free import FreeGrains, without
from bootpoint_producer.usedblocks.layout import Place, places
from bootpoint_producer.usedblocks.loop import loop_device
from bootpoint_producer.usedblocks.lvm import volumes
from bootpoint_producer.usedblocks.partclone import free_ranges

#: Bytes at either end of a file system's place that are used whatever its map says: boot loaders embed themselves at
#: its beginning (Btrfs leaves them 1 MiB), and RAID and copies of boot sectors have what they need at its end.
_EDGE = MiB

_FILE_SYSTEMS: dict[str, Callable[[Read], Facts]] = {
    "ext2": unixfs.ext,
    "ext3": unixfs.ext,
    "ext4": unixfs.ext,
    "xfs": unixfs.xfs,
    "btrfs": unixfs.btrfs,
    "ntfs": windowsfs.ntfs,
    "vfat": windowsfs.fat,
    "exfat": windowsfs.exfat,
}
#: What is raised where something on a disk is not as it should be; a disk that can't be read is another matter.
_NOT_UNDERSTOOD = (DoubtError, OSError, struct.error, KeyError, TypeError, ValueError)
#: What a job must name in ``skip`` for a kind of area to be left out.
_AREAS = {"swap": "swap", "swsuspend": "hibernation"}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What of a disk isn't read.

    Attributes:
        extents: Whole grains, ascending, without overlap; at most `MOST_LEFT_OUT`.
        reasons: A sentence for each place, for the log.
    """

    extents: tuple[Extent, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes that aren't read."""
        return sum(extent.length for extent in self.extents)


def left_out(path: str, source: Source, skip: Collection[str] = (), *, still: Sequence[Still] | None = None) -> LeftOut:
    """Find out what of a disk needn't be read. In every doubt: nothing.

    Args:
        path: The picture, for programs.
        source: The same, open; what its `read` raises ends the search.
        skip: ``swap``, ``hibernation``: what else is left out.
        still: What of it is held still, and where; by default all of it, where ``path`` says. Elsewhere the maps of
            file systems are not of one instant with what is read, and aren't used; swap areas hold nothing that
            matters at any instant.
    """
    free = FreeGrains()
    reasons = []
    try:
        found = places(path, source.size_bytes)
    except _NOT_UNDERSTOOD as doubt:
        return LeftOut(reasons=(f"everything is read: {doubt}",))
    held = sorted([Still(0, None, path)] if still is None else still, key=lambda each: each.offset)
    look = _Look(path, source, frozenset(skip), held)
    for place in found:
        for part, outcome in look.parts(place):
            name = f"{part.kind or 'unknown content'} at {part.start}"
            if isinstance(outcome, str):
                reasons.append(f"{name}: everything is read: {outcome}")
                continue
            free.take(outcome)
            told = f"{format_size(outcome.told_bytes)} of {format_size(part.size)}"
            reasons.append(f"{name}: {told} are free")
    return LeftOut(free.extents(), tuple(reasons))


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at one disk."""

    path: str
    source: Source
    skip: frozenset[str]
    still: list[Still]

    def parts(self, place: Place) -> Iterator[tuple[Place, FreeGrains | str]]:
        """Return each thing in a place with its free ranges, or with why it has none."""
        if place.kind != "LVM2_member":
            yield place, self._outcome(place)
            return
        try:
            inner = [
                Place(place.start + each.start, each.size, None) for each in volumes(self._read(place), place.size)
            ]
            demand(all(part.end <= place.end for part in inner), "a volume reaches beyond it")
        except _NOT_UNDERSTOOD as doubt:
            yield place, str(doubt)
            return
        for part in inner:
            path, start = self._shown(part) or (self.path, part.start)
            known = Place(part.start, part.size, signature(path, start, part.size).get("TYPE"))
            yield known, self._outcome(known)

    def _outcome(self, place: Place) -> FreeGrains | str:
        try:
            if place.kind in _AREAS:
                return self._area(place)
            if place.kind not in _FILE_SYSTEMS:
                return "it is no file system that is known here"
            shown = self._shown(place)
            if shown is None:
                return "nothing holds it still, so its map would be of another instant than what is read"
            return self._file_system(place, place.kind, *shown)
        except _NOT_UNDERSTOOD as doubt:
            return str(doubt) or type(doubt).__name__

    def _shown(self, place: Place) -> tuple[str, int] | None:
        """Return where a place is shown in one piece that is held still: path and first byte there."""
        found, at = None, place.start
        for each in self.still:
            end = self.source.size_bytes if each.length is None else each.offset + each.length
            if not each.offset <= at < end:
                continue
            found = found or (each.path, each.start + at - each.offset)
            if (each.path, each.start + at - each.offset) != (found[0], found[1] + at - place.start):
                return None
            at = end
            if at >= place.end:
                return found
        return None

    def _area(self, place: Place) -> FreeGrains:
        kind = str(place.kind)
        demand(_AREAS[kind] in self.skip, f"the job doesn't leave out {_AREAS[kind]}")
        start, end = swap.area(self._read(place), kind)
        demand(end <= place.size, "it is larger than its place")
        free = FreeGrains()
        free.add(place.start + start, place.start + end)
        return free

    def _file_system(self, place: Place, kind: str, path: str, start: int) -> FreeGrains:
        facts = _FILE_SYSTEMS[kind](self._read(place))
        demand(0 < facts.size_bytes <= place.size, f"it has {facts.size_bytes} bytes, its place has {place.size}")
        last = facts.size_bytes - _EDGE
        demand(last > _EDGE, "it is too small to have much that is free")
        free = FreeGrains()
        within = [each for each in facts.always_used if each.end <= last]
        kept = [Extent(0, _EDGE), *within, Extent(last, _EDGE)]
        with loop_device(path, start, place.size) as device:
            demand(
                not facts.logged or xfslog.settled(device), "its log was not replayed: it was mounted, or lost power"
            )
            for first, end in free_ranges(kind, device, goes_on=lambda: self.source.read(0, SECTOR)):
                for piece in without((Extent(first, end - first),), kept):
                    if piece.end > facts.size_bytes:
                        raise DoubtError("its map reaches beyond it")
                    free.add(place.start + piece.offset, place.start + piece.end)
        told = facts.free_bytes is None or free.told_bytes <= facts.free_bytes
        demand(told, f"its map calls {free.told_bytes} bytes free, it counts {facts.free_bytes} itself")
        return free

    def _read(self, place: Place) -> Read:
        def read(offset: int, length: int) -> bytes:
            demand(offset >= 0 and offset + length <= place.size, "it points beyond its place")
            return self.source.read(place.start + offset, length)

        return read
