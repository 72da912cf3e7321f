"""The disks of this machine: what can be protected, under which name, and what lies on them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bootpoint_common.errors import Code, error
from bootpoint_producer.diskmap import device, item, sysfs
from bootpoint_producer.diskmap.capability import Capabilities, capabilities
from bootpoint_producer.diskmap.device import Device
from bootpoint_producer.diskmap.item import Trackers
from bootpoint_producer.diskmap.mount import Mounts
from bootpoint_producer.diskmap.name import file_id, named
from bootpoint_producer.diskmap.question import Questions
from bootpoint_producer.machine import machine

__all__ = ["Capabilities", "capabilities", "inventory", "resolve"]

#: Names of what calls itself a disk and is none: memory, floppies, the hardware partitions of eMMC chips.
_NO_DISK = re.compile(r"(zram|ram|fd)\d*|mmcblk\d+(boot\d+|rpmb|gp\d+)")


def inventory(
    extra_files: Iterable[str | Path] = (), *, agent: str | None = None, trackers: Trackers = None
) -> dict[str, Any]:
    """Return what ``disk list`` shows: the machine, and its disks.

    Beside the public keys (`bootpoint_common.diskview.contract`) there are those that the drawing needs: reasons, what
    lies on what, and ``problems``: what could not be asked.

    Args:
        extra_files: Raw files (or devices) that the agent's configuration allows to protect.
        agent: The agent's name.
        trackers: Who can follow writes; by default all that are built in.
    """
    asked = Questions()
    described = [item.of_device(disk_id, disk, asked, trackers) for disk_id, disk in named(_disks(asked))]
    items = [found for found in described if found is not None]
    items += [item.of_file(Path(path), asked, trackers) for path in extra_files]
    return {
        "agent": agent,
        "read_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "machine": machine(),
        "items": items,
        "problems": asked.problems,
    }


def resolve(disk_id: str, extra_files: Iterable[str | Path] = ()) -> Path:
    """Return the path of a disk.

    Args:
        disk_id: ``serial:…``, ``wwn:…``, ``path:…`` or ``file:/abs/path``.
        extra_files: As with `inventory`.

    Raises:
        BootpointError: ``disk_missing``; ``source_ineligible``: the agent's configuration doesn't list the file.
    """
    kind, _, name = disk_id.partition(":")
    if kind == "file":
        found = [Path(path) for path in extra_files if file_id(path) == disk_id]
        if len({str(path) for path in found}) != 1:
            raise error(
                Code.SOURCE_INELIGIBLE,
                f"the agent's configuration doesn't list {name}",
                value=disk_id,
                hint="add it to `files` in the agent's configuration on the source machine",
            )
        if not found[0].exists():
            raise error(Code.DISK_MISSING, f"{name} doesn't exist", value=disk_id)
        return found[0]
    for known, disk in named(_disks(Questions()), every_name=True):
        if known == disk_id:
            return Path(disk.path)
    raise error(Code.DISK_MISSING, f"no disk of this machine is {disk_id}", value=disk_id)


def _disks(asked: Questions) -> list[Device]:
    """Return the disks as lsblk tells them, or /sys where it doesn't."""
    nodes = asked.tree()
    mounts = Mounts()
    found = (device.read(node, mounts) for node in (sysfs.tree() if nodes is None else nodes))
    return [disk for disk in found if disk is not None and _is_disk(disk)]


def _is_disk(disk: Device) -> bool:
    # An empty nbd device calls itself a disk; a card reader without a card has no size either.
    return disk.kind == "disk" and not _NO_DISK.fullmatch(disk.name) and bool(disk.size_bytes)
