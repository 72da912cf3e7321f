"""The block devices of this machine as a tree: what lies on what.

::

    disk ─► partition ─► md array ─► LUKS ─► physical volume ─► logical volume ─► file system

lsblk tells it; where that can't be asked, /sys does (`sysfs`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bootpoint_common.units import SECTOR
from bootpoint_producer.diskmap.mount import Mounts, used_bytes
from bootpoint_producer.probe import shown

#: Kinds of what lies on a partition, as lsblk calls them and as we do.
_KINDS = {"lvm": "lv", "linear": "md"}
#: Parts of logical volumes, which have no name below /dev/VG: lvmreport(7), "hidden LVs".
_HIDDEN = re.compile(r"_(tmeta|tdata|cdata|cmeta|cvol|corig|mlog|pmspare|vdata|r(image|meta)_\d+|mimage_\d+)$")
#: Deepest tree that is followed; real ones have about six levels.
_DEEPEST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A block device.

    Attributes:
        name: The kernel's name, such as ``sda1``.
        path: Path of its node.
        kind: ``disk``, ``part``, ``lvm``, ``crypt``, ``raid1`` … as lsblk calls it.
        size_bytes: Its size.
        start_bytes: Where a partition begins, as lsblk says (newer ones do).
        logical_sector_bytes: Smallest part that it addresses.
        physical_sector_bytes: Smallest part that it writes without reading first.
        serial: Serial number, where lsblk says it.
        wwn: World wide name, likewise.
        state: The SCSI layer's or NVMe's word, such as ``running``.
        removable: Whether it, or what is in it, is made to be taken out.
        usb: Whether it is plugged in by USB.
        table: Kind of its partition table, where lsblk says it.
        type: Type of a partition: an MBR number or a GPT GUID, in lower case.
        fs: What lies on it, where lsblk says it.
        label: Label of its file system.
        uuid: Id of its file system.
        mount: Where it is mounted.
        mounted_fs: Type of the file system that is mounted from it.
        used_bytes: What its mounted file system has in use.
        children: What lies on it.
    """

    name: str
    path: str
    kind: str
    size_bytes: int = 0
    start_bytes: int = 0
    logical_sector_bytes: int = SECTOR
    physical_sector_bytes: int = SECTOR
    serial: str | None = None
    wwn: str | None = None
    state: str | None = None
    removable: bool = False
    usb: bool = False
    table: str | None = None
    type: str | None = None
    fs: str | None = None
    label: str | None = None
    uuid: str | None = None
    mount: str | None = None
    mounted_fs: str | None = None
    used_bytes: int | None = None
    children: tuple[Device, ...] = field(default=())

    @property
    def shown_kind(self) -> str:
        """What it is, as ``holds`` says it: ``lv``, ``md``, ``crypt``, ``part`` …"""
        return "md" if self.kind.startswith("raid") else _KINDS.get(self.kind, self.kind)

    @property
    def shown_path(self) -> str:
        """Its path; of a logical volume the one below its volume group, which people know."""
        names = re.fullmatch(r"/dev/mapper/((?:[^-]|--)+)-((?:[^-]|--)+)", self.path)
        if self.kind != "lvm" or names is None or _HIDDEN.search(self.path):
            return self.path
        return "/dev/{}/{}".format(*(name.replace("--", "-") for name in names.groups()))


def read(node: object, mounts: Mounts, depth: int = 0) -> Device | None:
    """Read a device of lsblk's JSON, of any version: numbers and flags were strings once.

    Returns:
        The device; None for what has no name or no path.
    """
    if not isinstance(node, Mapping) or depth > _DEEPEST:
        return None
    name, path = _text(node, "kname") or _text(node, "name"), _text(node, "path")
    if not name or (path is None and "/" in name):
        return None
    mount, used = _mounted(node, mounts)
    sector = _number(node, "log-sec") or SECTOR
    listed = node.get("children")
    children = (read(child, mounts, depth + 1) for child in (listed if isinstance(listed, list) else ()))
    return Device(
        name=name,
        path=path or f"/dev/{name}",
        kind=_text(node, "type") or "disk",
        size_bytes=_number(node, "size") or 0,
        start_bytes=(_number(node, "start") or 0) * SECTOR,
        logical_sector_bytes=sector,
        physical_sector_bytes=_number(node, "phy-sec") or sector,
        serial=_text(node, "serial"),
        wwn=_text(node, "wwn"),
        state=_text(node, "state"),
        removable=node.get("rm") in (True, 1, "1"),
        usb=_text(node, "tran") == "usb",
        table=_text(node, "pttype"),
        type=plain_type(_text(node, "parttype")),
        fs=_text(node, "fstype"),
        label=_text(node, "label"),
        uuid=_text(node, "uuid"),
        mount=mount,
        mounted_fs=mounts.kind_of(_text(node, "maj:min")),
        used_bytes=used,
        children=tuple(child for child in children if child is not None),
    )


def plain_type(value: str | None) -> str | None:
    """Return a partition's type as all programs mean it: ``42`` for ``0x42``, GUIDs in lower case."""
    return None if value is None else value.strip().lower().removeprefix("0x") or None


def _mounted(node: Mapping[str, Any], mounts: Mounts) -> tuple[str | None, int | None]:
    """Return where a device is mounted, and what is used there; the kernel knows names better than lsblk."""
    point = mounts.of(_text(node, "maj:min"))
    if point is not None:
        used = _number(node, "fsused")
        return shown(point.decode(errors="surrogateescape")), used_bytes(point) if used is None else used
    listed = node.get("mountpoints")
    names = listed if isinstance(listed, list) else [node.get("mountpoint")]
    points = [name for name in names if isinstance(name, str) and name.startswith("/")]
    return (shown(min(points, key=len)) if points else None), _number(node, "fsused")


def _text(node: Mapping[str, Any], name: str) -> str | None:
    value = node.get(name)
    return shown(value).strip() or None if isinstance(value, str) else None


def _number(node: Mapping[str, Any], name: str) -> int | None:
    value = node.get(name)
    try:
        return None if isinstance(value, bool) or not isinstance(value, int | str) else max(0, int(value))
    except ValueError:
        return None
