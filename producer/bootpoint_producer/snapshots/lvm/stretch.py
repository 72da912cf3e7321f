"""Which bytes of a disk belong to which volume."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import SECTOR
from bootpoint_producer.snapshots.lvm.mapper import number
from bootpoint_producer.snapshots.lvm.picture import Content, Linear, Striped
from bootpoint_producer.snapshots.lvm.survey import Refused
from bootpoint_producer.snapshots.lvm.volume import ThickSnapshot, ThinSnapshot
from bootpoint_producer.sources import Source

_SYS = Path("/sys/dev/block")


@dataclass(frozen=True, slots=True)
class Area:
    """A partition, or a disk without any.

    Attributes:
        device: Its number.
        offset: First byte on the disk.
        length: Bytes.
    """

    device: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a volume on the disk.

    Attributes:
        offset: First byte on the disk.
        length: Bytes.
        snapshot: What it is read from.
        start: First byte in the snapshot, of the first of all stripes.
        stripes: How many stripes it is one of.
        number: Which.
        chunk: Bytes of a stripe that follow each other.
    """

    offset: int
    length: int
    snapshot: ThickSnapshot | ThinSnapshot
    start: int
    stripes: int = 1
    number: int = 0
    chunk: int = 0


def areas(device: int) -> list[Area]:
    """Return the partitions of a disk, or the disk where it has none."""
    folder = _SYS / f"{os.major(device)}:{os.minor(device)}"
    # /sys counts in 512 bytes on every disk
    parts = [
        Area(
            number(part.parent),
            int((part.parent / "start").read_text()) * SECTOR,
            int((part.parent / "size").read_text()) * SECTOR,
        )
        for part in folder.glob("*/partition")
    ]
    return parts or [Area(device, 0, int((folder / "size").read_text()) * SECTOR)]


def stretches(area: Area, line: list[str], snapshot: ThickSnapshot | ThinSnapshot) -> list[Stretch]:
    """Return what one line of a volume's table puts on the area.

    Args:
        area: A physical volume.
        line: The words of the line.
        snapshot: The volume's.

    Raises:
        Refused: It is of a type that isn't dealt with.

    Tables: Linux, Documentation/admin-guide/device-mapper/linear.rst and striped.rst; all in sectors.
    """
    start, length, target, *rest = line
    here = f"{os.major(area.device)}:{os.minor(area.device)}"
    if target == "linear":
        places, chunk = [(rest[0], int(rest[1]))], 0
    elif target == "striped":
        chunk = int(rest[1]) * SECTOR
        places = [(rest[at], int(rest[at + 1])) for at in range(2, len(rest), 2)]
    else:
        raise Refused(f"{snapshot.volume.full_name} on it has a table of the type {target}")
    size = int(length) * SECTOR // len(places)
    return [
        Stretch(area.offset + at * SECTOR, size, snapshot, int(start) * SECTOR, len(places), number_, chunk)
        for number_, (device, at) in enumerate(places)
        if device == here
    ]


def content(each: Stretch, source: Source) -> Content:
    """Return what a stretch is read from, in the open picture of its volume."""
    if each.stripes == 1:
        return Linear(source, each.start)
    return Striped(source, each.start, stripes=each.stripes, number=each.number, chunk=each.chunk)
