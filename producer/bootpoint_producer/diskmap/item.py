"""A disk as ``disk list`` shows it: one of the machine's, or a file that the configuration lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import SECTOR
from bootpoint_producer.diskmap import capability, content, eligibility, ldm
from bootpoint_producer.diskmap.device import Device
from bootpoint_producer.diskmap.eligibility import Reason
from bootpoint_producer.diskmap.layout import Layout, layout_of
from bootpoint_producer.diskmap.name import file_id
from bootpoint_producer.diskmap.question import Questions
from bootpoint_producer.probe import shown
from bootpoint_producer.sources import open_source
from bootpoint_producer.sources.block import BlockSource
from bootpoint_producer.trackers.provider import Provider

#: Who can follow a disk's writes; None for all that are built in.
Trackers = Sequence[Provider] | None

_NOTHING = Layout(None, ())


def of_device(disk_id: str, disk: Device, asked: Questions, trackers: Trackers = None) -> dict[str, Any] | None:
    """Describe a disk of the machine; None when it vanished meanwhile."""
    reason = eligibility.of_device(disk)
    layout, partitions = _NOTHING, []
    if reason is not Reason.OFFLINE:  # reading it might never return
        layout = layout_of(disk.path, asked, disk)
        partitions = content.partitions(disk.path, disk.size_bytes, layout, asked, disk)
        header = ldm.has_header(disk.path, disk.size_bytes, disk.logical_sector_bytes)
        reason = reason or eligibility.of_layout(layout, partitions, ldm_header=header)
        if reason is None and (asked.can_tell_content or layout.table is not None):
            reason = eligibility.of_emptiness(layout, partitions)
        if not content.is_there(disk.path):
            return None
    return {
        **_item(disk_id, Path(disk.path), reason, trackers),
        "size_bytes": disk.size_bytes,
        "logical_sector_bytes": disk.logical_sector_bytes,
        "physical_sector_bytes": disk.physical_sector_bytes,
        "table": layout.table,
        "used_bytes": content.used(partitions),
        "partitions": partitions,
    }


def of_file(path: Path, asked: Questions, trackers: Trackers = None) -> dict[str, Any]:
    """Describe a file that the configuration lists; it needn't hold anything known, for somebody chose it."""
    size, sector, physical = 0, SECTOR, SECTOR
    reason: Reason | None = None
    allocated: int | None = None
    try:
        source = open_source(path)
        size = source.size_bytes
        if isinstance(source, BlockSource):
            sector, physical = source.logical_sector_bytes, source.physical_sector_bytes
        else:
            allocated = min(size, path.stat().st_blocks * SECTOR)
        source.close()
    except (BootpointError, OSError) as failure:
        size = _size(path)
        ineligible = isinstance(failure, BootpointError) and failure.code == Code.SOURCE_INELIGIBLE
        reason = Reason.SECTOR_SIZE if ineligible and size else Reason.OFFLINE
    layout, partitions = _NOTHING, []
    if reason is None:
        layout = layout_of(str(path), asked)
        partitions = content.partitions(str(path), size, layout, asked)
        header = ldm.has_header(str(path), size, sector)
        reason = eligibility.of_layout(layout, partitions, ldm_header=header)
        if not content.is_there(path):
            layout, partitions, reason = _NOTHING, [], Reason.OFFLINE
    return {
        **_item(file_id(path), path, reason, trackers),
        "size_bytes": size,
        "logical_sector_bytes": sector,
        "physical_sector_bytes": physical,
        "table": layout.table,
        # What nobody wrote to reads as zero, and zeros don't travel.
        "used_bytes": allocated if allocated is not None else content.used(partitions),
        "partitions": partitions,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _item(disk_id: str, path: Path, reason: Reason | None, trackers: Trackers) -> dict[str, Any]:
    """Return the fields that don't depend on what is on the disk, in the order in which they are shown."""
    can = capability.capabilities(path, trackers) if reason is None else capability.NONE
    return {
        "id": disk_id,
        "path": shown(str(path)),
        "size_bytes": 0,
        "logical_sector_bytes": 0,
        "physical_sector_bytes": 0,
        "table": None,
        "eligible": reason is None,
        "reason": None if reason is None else str(reason),
        "protected_by": None,  # known to the database only
        "snapshot": can.snapshot,
        "snapshot_reason": can.snapshot_reason,
        "tracker": can.tracker,
        "tracker_reason": can.tracker_reason,
        "used_bytes": None,
        "partitions": [],
    }
