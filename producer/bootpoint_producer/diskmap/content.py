"""What lies on a disk: partitions, file systems, and volumes and arrays on them, as ``disk list`` shows them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bootpoint_producer.diskmap.device import Device
from bootpoint_producer.diskmap.layout import Layout, Part
from bootpoint_producer.diskmap.question import Questions
from bootpoint_producer.probe import shown

#: What is said of a place where several things are recognised that contradict each other.
AMBIGUOUS = "ambiguous"


def partitions(
    path: str, size: int, layout: Layout, asked: Questions, disk: Device | None = None
) -> list[dict[str, Any]]:
    """Return the partitions of a disk, each with what it holds.

    A disk without a table that holds something known is shown as one partition with the number 0.

    Args:
        path: Path of the device or the file.
        size: Its bytes.
        layout: Its table.
        asked: Whom to ask.
        disk: What the kernel knows of a device.
    """
    if layout.parts:
        return [_partition(path, part, asked) for part in layout.parts]
    whole = _described(path, asked, disk, place=(0, 0))
    if whole["fs"] is None and whole["mount"] is None and not whole["holds"]:
        return []
    return [{"number": 0, "path": shown(path), "start_bytes": 0, "size_bytes": size, **whole}]


def _partition(path: str, part: Part, asked: Questions) -> dict[str, Any]:
    return {
        "number": part.number,
        "path": shown(part.path),
        "start_bytes": part.start_bytes,
        "size_bytes": part.size_bytes,
        **_described(
            path if part.device is None else part.device.path,
            asked,
            part.device,
            place=(part.start_bytes, part.size_bytes) if part.device is None else (0, 0),
        ),
    }


def _described(path: str, asked: Questions, device: Device | None, *, place: tuple[int, int]) -> dict[str, Any]:
    known = device is not None and device.fs is not None
    found = {} if known else asked.content(path, *place)
    return {
        "fs": _fs(device, found),
        "label": (device.label if device is not None else None) or shown(found.get("LABEL", "")),
        "uuid": (device.uuid if device is not None else None) or found.get("UUID"),
        "mount": device.mount if device is not None else None,
        "used_bytes": device.used_bytes if device is not None else None,
        "holds": [] if device is None else _holds(device, asked),
    }


def _holds(device: Device, asked: Questions) -> list[dict[str, Any]]:
    """Return what lies on a device, level by level; each once, though a thin pool stands on its data and metadata."""
    found: dict[str, dict[str, Any]] = {}
    for child in sorted(device.children, key=_is_metadata):
        for held in _held(child, device, asked):
            found.setdefault(held["path"], held)
    return list(found.values())


def _held(child: Device, below: Device, asked: Questions) -> Iterator[dict[str, Any]]:
    """Return a logical volume or the like, and what lies on it in turn; ``on`` names what each lies on."""
    if child.kind == "part" and below.kind == "disk":
        return
    found = {} if child.fs is not None else asked.content(child.path)
    kind = "luks" if child.kind == "crypt" and below.fs == "crypto_LUKS" else child.shown_kind
    yield {
        "kind": kind,
        "path": shown(child.shown_path),
        "fs": _fs(child, found),
        "size_bytes": child.size_bytes,
        "mount": child.mount,
        "used_bytes": child.used_bytes,
        "on": shown(below.shown_path),
    }
    for above in sorted(child.children, key=_is_metadata):
        yield from _held(above, child, asked)


def _is_metadata(device: Device) -> bool:
    """Say whether it only describes another volume: what stands on both is shown with the other one."""
    return device.path.endswith(("_tmeta", "_cmeta")) or "_rmeta_" in device.path


def _fs(device: Device | None, found: Mapping[str, str]) -> str | None:
    """Return what lies somewhere: as lsblk says, as blkid finds, else as the kernel mounted it."""
    told = (device.fs or found.get("TYPE") or device.mounted_fs) if device is not None else found.get("TYPE")
    return told or (AMBIGUOUS if "AMBIVALENT" in found else None)


def used(found: list[dict[str, Any]]) -> int | None:
    """Return the bytes that mounted file systems use of a disk; None when nothing is known.

    What lies on several partitions counts once, and nothing uses more of a partition than there is.
    """
    total: int | None = None
    seen: set[str] = set()
    for partition in found:
        fresh = [held for held in partition["holds"] if held["path"] not in seen]
        seen.update(held["path"] for held in fresh)
        known = [each["used_bytes"] for each in (partition, *fresh) if each["used_bytes"] is not None]
        if known:
            total = (total or 0) + min(sum(known), partition["size_bytes"])
    return total


def is_there(path: str | Path) -> bool:
    """Say whether a disk's node still exists: disks go while they are looked at."""
    return os.path.lexists(path)
