"""The block devices as /sys has them, in the form in which lsblk would tell them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bootpoint_common.units import SECTOR
from bootpoint_producer.probe import line_of

_SYS = Path("/sys/block")

#: Kinds of device mapper's devices, by the beginning of their uuid.
_MAPPED = {"LVM-": "lvm", "CRYPT-": "crypt", "mpath-": "mpath"}


def tree() -> list[dict[str, Any]]:
    """Return the devices that lie on no other one, with those that lie on them."""
    return [_node(folder, _kind(folder)) for folder in _folders(_SYS) if not _folders(folder / "slaves")]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # none, or gone in this moment
        return []


def _node(folder: Path, kind: str) -> dict[str, Any]:
    name = folder.name.replace("!", "/")
    mapped = line_of(folder / "dm" / "name")
    real = folder.resolve()
    return {
        "name": name,
        "kname": folder.name,
        "path": f"/dev/mapper/{mapped}" if mapped else f"/dev/{name}",
        "maj:min": line_of(folder / "dev"),
        "type": kind,
        "size": int(line_of(folder / "size") or 0) * SECTOR,  # /sys counts in 512 bytes on every disk
        "log-sec": line_of(folder / "queue" / "logical_block_size"),
        "phy-sec": line_of(folder / "queue" / "physical_block_size"),
        "state": line_of(folder / "device" / "state"),
        "rm": line_of(folder / "removable"),
        "tran": "usb" if any(part.startswith("usb") for part in real.parts) else None,
        "children": list(_children(folder)),
    }


def _children(folder: Path) -> Iterator[dict[str, Any]]:
    for part in _folders(folder):
        if (part / "partition").exists():
            yield _node(part, "part")
    for holder in _folders(folder / "holders"):
        above = _SYS / holder.name
        yield _node(above, _kind(above))


def _kind(folder: Path) -> str:
    level = line_of(folder / "md" / "level")
    if level is not None:
        return level
    uuid = line_of(folder / "dm" / "uuid") or ""
    if (folder / "dm").exists():
        return next((kind for start, kind in _MAPPED.items() if uuid.startswith(start)), "dm")
    for start, kind in (("loop", "loop"), ("sr", "rom")):
        if folder.name.startswith(start):
            return kind
    return "disk"
