"""The partition table of a disk, as it stands on the disk: the kernel may know an older one, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bootpoint_common.units import SECTOR
from bootpoint_producer.diskmap.device import Device, plain_type
from bootpoint_producer.diskmap.name import BLOCK
from bootpoint_producer.diskmap.question import Questions
from bootpoint_producer.probe import line_of

#: Types of partitions of an MBR that only hold others.
EXTENDED = ("5", "f", "85")


@dataclass(frozen=True, slots=True)
class Part:
    """An entry of a table.

    Attributes:
        number: As the table counts.
        path: Path of its node; of a partition in a file the file's.
        start_bytes: Its first byte.
        size_bytes: Its size.
        type: MBR number or GPT GUID, in lower case; None where nobody says.
        device: What the kernel knows of it; None where it knows nothing.
    """

    number: int
    path: str
    start_bytes: int
    size_bytes: int
    type: str | None
    device: Device | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A partition table: its kind (``gpt``, ``dos`` …), None where there is none; and its partitions."""

    table: str | None
    parts: tuple[Part, ...]


def layout_of(path: str, asked: Questions, disk: Device | None = None) -> Layout:
    """Read the table of a disk.

    Args:
        path: Path of the device or of the raw file.
        asked: Whom to ask.
        disk: What the kernel knows of the device; None for a file.

    Returns:
        The partitions of the table, each with its device; then those that only the kernel knows.
    """
    children = [child for child in (disk.children if disk is not None else ()) if child.kind == "part"]
    known = {_start(child): child for child in children}
    whole = asked.content(path)
    # A file system for a whole disk begins with what sfdisk may take for a table; blkid knows better.
    bare = "TYPE" in whole and "PTTYPE" not in whole and not children
    table = None if bare else asked.table(path)
    parts = [] if table is None else [_read(path, table, entry, known) for entry in _entries(table)]
    found = [part for part in parts if part is not None]
    told = {part.device.name for part in found if part.device is not None}
    found += [_kernels(child) for child in children if child.name not in told]
    kind = table.get("label") if table is not None else None
    if not isinstance(kind, str):
        kind = (disk.table if disk is not None else None) or whole.get("PTTYPE")
    return Layout(kind, tuple(sorted(found, key=lambda part: (part.start_bytes, -part.size_bytes))))


def _entries(table: Mapping[str, Any]) -> list[Any]:
    listed = table.get("partitions")
    return listed if isinstance(listed, list) else []


def _read(path: str, table: Mapping[str, Any], entry: Any, known: Mapping[int, Device]) -> Part | None:
    try:
        sector = int(table.get("sectorsize", SECTOR))
        start, size, node = int(entry["start"]) * sector, int(entry["size"]) * sector, str(entry["node"])
        kind = plain_type(str(entry["type"]))
    except (KeyError, TypeError, ValueError):
        return None
    # The node's name ends in the number that the table gives it, which may leave some out.
    digits = node.removeprefix(path).lstrip("p")
    device = known.get(start)
    number = int(digits) if digits.isascii() and digits.isdigit() else 0
    shown = path if not path.startswith("/dev/") else node
    return Part(number, device.path if device else shown, start, size, kind, device)


def _kernels(child: Device) -> Part:
    digits = line_of(BLOCK / child.name / "partition") or child.name[len(child.name.rstrip("0123456789")) :]
    return Part(int(digits or 0), child.path, _start(child), child.size_bytes, child.type, child)


def _start(child: Device) -> int:
    told = line_of(BLOCK / child.name / "start")
    return child.start_bytes if told is None else int(told) * SECTOR  # /sys counts in 512 bytes on every disk
