"""Planning the still picture of a whole disk that physical volumes lie on (see `picture`).

What isn't covered is refused by name, and the disk is held by something weaker: a thin pool, a mirror, a cache or
another RAID of LVM's, an encrypted or a RAID device beneath the physical volume, snapshots of somebody else, and a
file system that is mounted from a partition of its own and too large to be left unwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_common.units import GiB, MiB
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.snapshots.lvm.guarded import GuardedSource
from bootpoint_producer.snapshots.lvm.mapper import above, table
from bootpoint_producer.snapshots.lvm.picture import Memory, PictureSource, Piece
from bootpoint_producer.snapshots.lvm.report import Disk, Volume, is_volume, mapper_id
from bootpoint_producer.snapshots.lvm.stretch import Area, Stretch, areas, content, stretches
from bootpoint_producer.snapshots.lvm.survey import PLAIN, Refused, Survey, name_of
from bootpoint_producer.snapshots.program import ProgramError, run
from bootpoint_producer.snapshots.usage import Mount, Usage, device_counter, device_usage
from bootpoint_producer.sources import Source, open_source

#: File systems of partitions up to this size are expected to stay unwritten while they are read (/boot, an ESP): they
#: are flushed, and their counters tell. A larger one would be read for long and in vain.
QUIET_MOST = 2 * GiB
#: What lies behind the last extent of a physical volume is kept in memory up to this size: LVM's second metadata.
_TAIL_MOST = 64 * MiB


class Kept(Part):
    """LVM's own areas of a disk, kept in memory as they were before the snapshots were made; a part."""

    def __init__(self, path: Path, ranges: list[tuple[int, int]]) -> None:
        self._path = path
        self._ranges = ranges
        self.pieces: list[Piece] = []

    def prepare(self) -> None:
        """See `Part.prepare`."""
        source = open_source(self._path)
        try:
            self.pieces = [
                Piece(offset, length, Memory(source.read(offset, length))) for offset, length in self._ranges
            ]
        finally:
            source.close()

    def release(self) -> None:
        """See `Part.release`."""
        self.pieces = []


class Flushed(Part):
    """Mounted file systems that are expected to stay unwritten; a part that flushes them."""

    def __init__(self, points: list[str]) -> None:
        self._points = points

    def prepare(self) -> None:
        """See `Part.prepare`."""
        for point in self._points:
            try:
                run("sync", "--file-system", point)
            except ProgramError as failure:
                raise error(Code.SNAPSHOT_FAILED, f"{point} can't be flushed: {failure}", value=point) from failure


@dataclass(slots=True)
class _Found:
    """What planning a disk has found so far."""

    stretches: list[Stretch] = field(default_factory=list)
    kept: list[tuple[int, int]] = field(default_factory=list)
    free: list[tuple[int, int]] = field(default_factory=list)
    watched: dict[int, str] = field(default_factory=dict)
    flushed: list[Mount] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class PictureHold:
    """A whole disk, held by the snapshots of the volumes on it.

    Args:
        path: The disk.
        use: Who uses it.
        survey: LVM's volumes.

    Raises:
        Refused: It can't be held so.
    """

    kind = "lvm"
    live = True

    def __init__(self, path: Path, device: int, use: Usage, survey: Survey) -> None:
        self._path = path
        self._survey = survey
        self._found = found = _Found()
        users = set(use.others)
        found_areas = areas(device)
        if not any(is_volume(each) for area in found_areas for each in above(area.device)):
            raise Refused("no volume of LVM's lies on it")
        for area in found_areas:
            users -= set(self._plan(area))
        if not found.stretches:
            raise Refused("no volume on it is in use")
        self.reasons = [*found.reasons, *(f"{path} is {words}" for words in sorted(users))]
        self._snapshots = {id(each.snapshot): each.snapshot for each in found.stretches}
        self._kept = Kept(path, found.kept)
        flushed = Flushed([mount.point for mount in found.flushed])
        self.parts: list[Part] = [self._kept, flushed, *self._snapshots.values()]
        self._counters: dict[int, tuple[int, ...]] = {}

    @property
    def settled(self) -> bool:
        """See `Hold.settled`; what is only flushed goes on."""
        return not self._found.flushed

    @property
    def unfrozen(self) -> set[Mount]:
        """Mounts that are to stay as they are."""
        return set(self._found.flushed)

    def instant(self) -> None:
        """See `Hold.instant`."""
        self._counters = {device: self._counter(device) for device in self._found.watched}

    def source(self) -> Source:
        """See `Hold.source`."""
        pieces = [Piece(offset, length, None) for offset, length in self._found.free]
        opened: dict[int, Source] = {}
        disk = open_source(self._path)
        try:
            for each in self._found.stretches:
                key = id(each.snapshot)
                if key not in opened:
                    opened[key] = open_source(each.snapshot.path)
                pieces.append(Piece(each.offset, each.length, content(each, opened[key])))
        except BaseException:
            for source in (disk, *opened.values()):
                source.close()
            raise
        picture = PictureSource(disk, [*pieces, *self._kept.pieces])
        return GuardedSource(picture, tuple(self._snapshots.values()), path=str(self._path))

    def path(self) -> str:
        """See `Hold.path`; the picture has none, so this is the disk itself."""
        return str(self._path)

    def still(self) -> Sequence[Still]:
        """See `Hold.still`; of striped volumes no program could make anything."""
        return [
            Still(each.offset, each.length, str(each.snapshot.path), each.start)
            for each in self._found.stretches
            if each.stripes == 1
        ]

    def moved(self) -> str:
        """See `Hold.moved`."""
        for device, before in self._counters.items():
            if self._counter(device) != before:
                return f"somebody wrote to {self._found.watched[device]} on {self._path} while it was read"
        return ""

    def _counter(self, device: int) -> tuple[int, ...]:
        try:
            return device_counter(device)
        except OSError as failure:
            text = f"{self._found.watched[device]} on {self._path} is gone: {failure.strerror}"
            raise error(Code.DISK_MISSING, text, value=str(self._path)) from failure

    # --- planning

    def _plan(self, area: Area) -> tuple[str, ...]:
        """Plan one area; returns its users that a freeze doesn't hold."""
        use = device_usage(area.device)
        physical = self._survey.disks.get(area.device)
        if physical is not None:
            own = set(use.others) - self._physical(area, physical)
            self._found.reasons += [f"{name_of(area.device)} is {words}" for words in sorted(own)]
        elif use.mounts or use.others:
            self._quiet(area, use)
        return use.others

    def _quiet(self, area: Area, use: Usage) -> None:
        name = name_of(area.device)
        if use.others:
            raise Refused(f"{name} is {'; '.join(use.others)}")
        points = ", ".join(mount.point for mount in use.mounts)
        if any(mount.device != area.device for mount in use.mounts):
            raise Refused(f"{name} holds what is mounted at {points} by way of another device")
        if area.length > QUIET_MOST:
            raise Refused(f"{name} is mounted at {points}, and is no volume of LVM's")
        self._found.flushed += use.mounts
        self._found.watched[area.device] = points

    def _physical(self, area: Area, physical: Disk) -> set[str]:
        """Plan a physical volume; returns the users of the volumes on it that a freeze doesn't hold."""
        found = self._found
        found.kept.append((area.offset, physical.start))
        tail = area.length - physical.end
        if 0 < tail <= _TAIL_MOST:
            found.kept.append((area.offset + physical.end, tail))
        found.free += [(area.offset + start, length) for start, length in physical.free]
        return {words for device in above(area.device) for words in self._holder(area, device)}

    def _holder(self, area: Area, device: int) -> tuple[str, ...]:
        """Plan what a device that stands on the area has of it; returns its users that a freeze doesn't hold."""
        volume = self._volume(device)
        use = device_usage(volume.device) if volume.device is not None else Usage()
        if not use.mounts and not use.others:
            if not use.swaps and volume.device is not None:
                self._found.watched[volume.device] = volume.full_name
            return ()
        self._found.reasons += [f"{volume.full_name} is {words}" for words in use.others]
        snapshot = self._survey.snapshot(volume)
        for line in table(device):
            self._found.stretches += stretches(area, line, snapshot)
        return use.others

    def _volume(self, device: int) -> Volume:
        key, _, layer = mapper_id(device).removeprefix("LVM-").partition("-")
        volume = self._survey.volumes.get(key) if mapper_id(device).startswith("LVM-") else None
        if volume is None:
            raise Refused(f"{name_of(device)} stands on it, which is no volume of LVM's")
        if layer == "cow" or volume.origin:
            raise Refused(f"{volume.full_name} is a snapshot, whose room can't be held still")
        if volume.hidden or volume.kind not in PLAIN or layer not in ("", "real"):
            kind = volume.kind if volume.kind not in PLAIN else f"a part of {volume.name.rpartition('_')[0]}"
            raise Refused(f"{volume.full_name} on it is of the type {kind}")
        return volume
