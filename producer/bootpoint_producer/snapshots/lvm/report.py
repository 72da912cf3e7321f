"""What LVM says of its volumes and of the disks that they lie on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bootpoint_producer.snapshots.program import run_json

#: Bytes, and nothing but digits.
_FORM = ("--reportformat", "json", "--units", "b", "--nosuffix")
_VOLUME_FIELDS = (
    "lv_name,vg_name,lv_uuid,vg_uuid,lv_size,segtype,pool_lv,origin,thin_id,lv_kernel_major,lv_kernel_minor,lv_dm_path,"
    "lv_tags,vg_extent_size,vg_free_count,data_percent,metadata_percent,lv_snapshot_invalid,lv_health_status"
)
_DISK_FIELDS = "pv_name,vg_name,pe_start,pv_size,vg_extent_size,pv_pe_count,pv_major,pv_minor"
_SEGMENT_FIELDS = "pv_name,pvseg_start,pvseg_size,segtype"
_SYS = Path("/sys/dev/block")


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume.

    Attributes:
        name: Its name, without the brackets of one that LVM hides.
        group: Its volume group.
        key: Ids of group and volume without dashes, as the device mapper knows it.
        hidden: Whether it is a part of another one.
        kind: Type of its first segment: ``linear``, ``striped``, ``thin``, ``thin-pool``, ``raid1`` ...
        device: Its number; None while it isn't active.
        path: Its device node.
        extent_bytes: Size of the group's extents.
        free_extents: Free ones in the group.
        size_bytes: Size.
        pool: Name of the thin volume's pool.
        thin_id: Number of the thin volume in its pool.
        origin: Name of the volume that it is a snapshot of.
        tags: Its tags.
        data_percent: How full a pool or a snapshot's room is.
        metadata_percent: How full a pool's metadata is.
        health: Empty, or what is wrong with it.
    """

    name: str
    group: str
    key: str
    hidden: bool
    kind: str
    device: int | None
    path: Path
    extent_bytes: int
    free_extents: int
    size_bytes: int
    pool: str = ""
    thin_id: int | None = None
    origin: str = ""
    tags: frozenset[str] = frozenset()
    data_percent: float = 0.0
    metadata_percent: float = 0.0
    health: str = ""

    @property
    def full_name(self) -> str:
        """``group/name``, as LVM's programs take it."""
        return f"{self.group}/{self.name}"


@dataclass(frozen=True, slots=True)
class Disk:
    """A physical volume.

    Attributes:
        path: Its device node.
        group: Its volume group.
        device: Its number.
        start: Where its extents begin; what lies before is LVM's own.
        extent_bytes: Size of an extent.
        extents: How many.
        free: (first byte, length) of the extents that no volume has, within the physical volume.
    """

    path: str
    group: str
    device: int
    start: int
    extent_bytes: int
    extents: int
    free: tuple[tuple[int, int], ...] = ()

    @property
    def end(self) -> int:
        """Where its extents end."""
        return self.start + self.extents * self.extent_bytes


def volumes() -> list[Volume]:
    """Return all logical volumes.

    Raises:
        ProgramError: LVM can't tell.
    """
    found: dict[str, Volume] = {}
    for row in _rows(run_json("lvs", "--all", *_FORM, "--options", _VOLUME_FIELDS), "lv"):
        volume = _volume(row)
        # A line for each segment: one of another type makes the volume something that isn't dealt with.
        known = found.setdefault(volume.key, volume)
        if known.kind != volume.kind:
            found[volume.key] = replace(known, kind=f"{known.kind} and {volume.kind}")
    return list(found.values())


def disks() -> list[Disk]:
    """Return all physical volumes of volume groups.

    Raises:
        ProgramError: LVM can't tell.
    """
    found = {row["pv_name"]: row for row in _rows(run_json("pvs", *_FORM, "--options", _DISK_FIELDS), "pv")}
    free: dict[str, list[tuple[int, int]]] = {name: [] for name in found}
    for row in _rows(run_json("pvs", "--segments", *_FORM, "--options", _SEGMENT_FIELDS), "pvseg"):
        disk = found.get(row["pv_name"])
        if disk is not None and row["segtype"] == "free":
            extent = int(disk["vg_extent_size"])
            start = int(disk["pe_start"]) + int(row["pvseg_start"]) * extent
            free[row["pv_name"]].append((start, int(row["pvseg_size"]) * extent))
    return [_disk(row, tuple(free[name])) for name, row in found.items() if row["vg_name"]]


def is_volume(device: int) -> bool:
    """Whether a device is LVM's, without asking LVM."""
    return mapper_id(device).startswith("LVM-")


def mapper_id(device: int) -> str:
    """Return the device mapper's id of a device; empty where it has none."""
    try:
        return (_SYS / f"{os.major(device)}:{os.minor(device)}" / "dm" / "uuid").read_text().strip()
    except OSError:
        return ""


def _rows(report: Any, name: str) -> list[Mapping[str, str]]:
    return [row for part in report["report"] for row in part.get(name, ())]


def _volume(row: Mapping[str, str]) -> Volume:
    major, minor = int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])
    name = row["lv_name"]
    return Volume(
        name=name.strip("[]"),
        group=row["vg_name"],
        key=(row["vg_uuid"] + row["lv_uuid"]).replace("-", ""),
        hidden=name.startswith("["),
        kind=row["segtype"],
        device=os.makedev(major, minor) if major >= 0 and minor >= 0 else None,
        path=Path(row["lv_dm_path"]),
        extent_bytes=int(row["vg_extent_size"]),
        free_extents=int(row["vg_free_count"]),
        size_bytes=int(row["lv_size"]),
        pool=row["pool_lv"],
        thin_id=int(row["thin_id"]) if row["thin_id"] else None,
        origin=row["origin"],
        tags=frozenset(filter(None, row["lv_tags"].split(","))),
        data_percent=float(row["data_percent"] or 0),
        metadata_percent=float(row["metadata_percent"] or 0),
        health="invalid" if row["lv_snapshot_invalid"] in ("invalid", "snapshot invalid") else row["lv_health_status"],
    )


def _disk(row: Mapping[str, str], free: tuple[tuple[int, int], ...]) -> Disk:
    return Disk(
        path=row["pv_name"],
        group=row["vg_name"],
        device=os.makedev(int(row["pv_major"]), int(row["pv_minor"])),
        start=int(row["pe_start"]),
        extent_bytes=int(row["vg_extent_size"]),
        extents=int(row["pv_pe_count"]),
        free=free,
    )
