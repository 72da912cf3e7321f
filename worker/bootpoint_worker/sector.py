"""Sectors of 4,096 bytes: a disk counts in them, and so does everything on it; its copy has to have them too."""

from __future__ import annotations

from collections.abc import Sequence

from bootpoint_common.errors import Code, error
from bootpoint_common.units import SECTOR
from bootpoint_worker.definition import SourceDisk
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.replica import Replica


def require(made: Replica, disks: Sequence[SourceDisk], info: HostInfo) -> None:
    """Refuse a disk whose sectors the host can't give to the standby's: nothing would find its partitions there.

    Raises:
        RefusedError: ``source_ineligible``.
    """
    ids = {disk.slot: disk.id for disk in disks}
    for disk in made.disks:
        if disk.sector_bytes != SECTOR and disk.bus not in info.large_sector_buses:
            able = " or ".join(f'"{bus}"' for bus in info.large_sector_buses)
            raise error(
                Code.SOURCE_INELIGIBLE,
                f"disk {ids[disk.slot]} has sectors of {disk.sector_bytes} bytes (sector_size), and disks on the bus"
                f" {disk.bus} of the host have {SECTOR}",
                key="target.storage.bus",
                value=disk.bus,
                hint=f"set storage.bus = {able}" if able else "no bus of this host can do that: name another host",
            )
