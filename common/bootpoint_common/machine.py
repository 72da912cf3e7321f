"""Which machine this is: what an agent's key is bound to.

An agent's state lies on the disks that it protects, so it is inside every replica. A standby that starts with it must
not speak as the source. The file system can't tell the two apart; the firmware can: SMBIOS UUID, and the serial numbers
of the disks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_UUID = Path("/sys/class/dmi/id/product_uuid")
_BLOCK = Path("/sys/block")


def identity(*, uuid_file: Path = _UUID, block: Path = _BLOCK) -> dict[str, Any]:
    """Return the identity of this machine: ``smbios_uuid`` (or None) and ``disk_serials``, sorted."""
    serials = {
        text
        for disk in _entries(block)
        if (text := _read(disk / "device" / "serial")) or (text := _read(disk / "serial"))
    }
    return {"smbios_uuid": (_read(uuid_file) or "").lower() or None, "disk_serials": sorted(serials)}


def same_machine(joined: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether two identities are of one machine.

    The SMBIOS UUID decides where both have one. Without it one common disk is enough: disks are exchanged one at a
    time; and two machines that show neither can't be told apart.
    """
    if joined.get("smbios_uuid") and now.get("smbios_uuid"):
        return bool(joined["smbios_uuid"] == now["smbios_uuid"])
    before, after = set(joined.get("disk_serials") or ()), set(now.get("disk_serials") or ())
    return bool(before & after) or not (before or after)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _read(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").strip() or None
    except OSError:
        return None
