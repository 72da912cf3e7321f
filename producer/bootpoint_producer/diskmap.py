"""The disks of this machine: what can be protected, under which name, and what lies on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.units import SECTOR
from bootpoint_producer.machine import machine
from bootpoint_producer.probe import ask_json, line_of, signature
from bootpoint_producer.snapshots import choose
from bootpoint_producer.sources import open_source
from bootpoint_producer.sources.block import BlockSource

_BY_PATH = Path("/dev/disk/by-path")
_BLOCK = Path("/sys/class/block")
#: Sizes of a logical sector that a standby's disk can have.
_SECTOR_SIZES = (512, 4096)
#: Kinds of what lies on a partition, as lsblk calls them and as we do.
_KINDS = {"lvm": "lv"}

Node = dict[str, Any]


def inventory(extra_files: Iterable[str | Path] = (), *, agent: str | None = None) -> dict[str, Any]:
    """Return what ``disk list`` shows: the machine, and its disks.

    Args:
        extra_files: Raw files (or devices) that the agent's configuration allows to protect.
        agent: The agent's name.
    """
    items = [_device_item(node, disk_id) for disk_id, node in _disks()]
    items += [_listed_item(Path(path)) for path in extra_files]
    return {
        "agent": agent,
        "read_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "machine": machine(),
        "items": items,
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
        if name not in {str(path) for path in extra_files}:
            raise error(
                Code.SOURCE_INELIGIBLE,
                f"the agent's configuration doesn't list {name}",
                value=disk_id,
                hint="add it to `files` in the agent's configuration on the source machine",
            )
        if not Path(name).exists():
            raise error(Code.DISK_MISSING, f"{name} doesn't exist", value=disk_id)
        return Path(name)
    for found, node in _disks(every_name=True):
        if found == disk_id:
            return Path(node["path"])
    raise error(Code.DISK_MISSING, f"no disk of this machine is {disk_id}", value=disk_id)


# -- names -------------------------------------------------------------------------------------------------


def _disks(*, every_name: bool = False) -> Iterator[tuple[str, Node]]:
    """Return (id, node of lsblk) of every disk; with ``every_name`` once for each name that it answers to.

    Serial numbers that two disks share (cheap USB bridges do that) name neither.
    """
    listed = ask_json("lsblk", "--json", "--bytes", "--output-all") or {}
    nodes = [node for node in listed.get("blockdevices", []) if _is_disk(node)]
    names = [_names(node) for node in nodes]
    count = Counter(name for each in names for name in each)
    for node, each in zip(nodes, names, strict=True):
        unique = [name for name in each if count[name] == 1] or each[-1:]
        for name in unique if every_name else unique[:1]:
            yield name, node


def _is_disk(node: Node) -> bool:
    # zram and empty nbd devices call themselves disks; a card reader without a card has no size either
    return node["type"] == "disk" and not node["name"].startswith(("zram", "ram", "fd")) and bool(node["size"])


def _names(node: Node) -> list[str]:
    """Return a disk's names, best first; the last one always exists."""
    folder = _BLOCK / node["kname"]
    serial = node.get("serial") or line_of(folder / "serial") or line_of(folder / "device" / "serial")
    wwn = node.get("wwn") or line_of(folder / "wwid")
    names = [f"serial:{serial.strip()}"] if serial else []
    names += [f"wwn:{wwn.strip()}"] if wwn else []
    return [*names, f"path:{_place(node)}"]


def _place(node: Node) -> str:
    """Return where the disk is plugged in, as udev says it, or by its place in /sys where there is no udev."""
    if _BY_PATH.is_dir():
        for link in sorted(_BY_PATH.iterdir()):
            if link.resolve() == Path(node["path"]):
                return link.name
    parts = (_BLOCK / node["kname"]).resolve().parts
    # /sys/devices/<place …>/block/<name>
    return "-".join(parts[3:-2]) or str(node["kname"])


# -- items -------------------------------------------------------------------------------------------------


def _device_item(node: Node, disk_id: str) -> dict[str, Any]:
    found = {} if node.get("pttype") or node.get("fstype") else signature(node["path"])
    table = node.get("pttype") or found.get("PTTYPE")
    partitions = [_partition(part) for part in node.get("children", []) if part["type"] == "part"]
    fs = node.get("fstype") or found.get("TYPE")
    if not partitions and not table and (fs or _mount(node)):
        partitions = [{**_partition(node), "number": 0, "start_bytes": 0}]
    reason = _reason(node, table, partitions)
    return {
        **_item(disk_id, Path(node["path"]), reason),
        "size_bytes": node["size"],
        "logical_sector_bytes": node["log-sec"],
        "physical_sector_bytes": node["phy-sec"],
        "table": table,
        "used_bytes": _used(partitions),
        "partitions": partitions,
    }


def _reason(node: Node, table: str | None, partitions: list[dict[str, Any]]) -> str | None:
    """Return why a device can't be a source."""
    if node.get("state") == "offline":
        return "offline"
    if node.get("rm") or node.get("tran") == "usb":
        return "removable"
    if node["log-sec"] not in _SECTOR_SIZES:
        return "sector_size"
    if not partitions:
        return "unpartitioned" if table else "uninitialised"
    if all(part["fs"] == "swap" for part in partitions):
        return "swap_only"
    return None


def _listed_item(path: Path) -> dict[str, Any]:
    """Describe a file that the configuration lists; what is in it needn't be known, for somebody chose it."""
    size, sector, physical, reason = 0, SECTOR, SECTOR, None
    allocated: int | None = None
    try:
        source = open_source(path)
        size = source.size_bytes
        if isinstance(source, BlockSource):
            sector, physical = source.logical_sector_bytes, source.physical_sector_bytes
        else:
            allocated = min(size, path.stat().st_blocks * SECTOR)
        source.close()
    except BootpointError as failure:
        size = path.stat().st_size if path.is_file() else 0
        reason = "sector_size" if failure.code == Code.SOURCE_INELIGIBLE and size else "offline"
    table, partitions = (None, []) if reason else _partitions_within(path, size)
    return {
        **_item(f"file:{path}", path, reason),
        "size_bytes": size,
        "logical_sector_bytes": sector,
        "physical_sector_bytes": physical,
        "table": table,
        # What nobody wrote to reads as zero, and zeros don't travel.
        "used_bytes": allocated if allocated is not None else _used(partitions),
        "partitions": partitions,
    }


def _item(disk_id: str, path: Path, reason: str | None) -> dict[str, Any]:
    """Return the fields that don't depend on what is on the disk, in the order in which they are shown."""
    return {
        "id": disk_id,
        "path": str(path),
        "size_bytes": 0,
        "logical_sector_bytes": 0,
        "physical_sector_bytes": 0,
        "table": None,
        "eligible": reason is None,
        "reason": reason,
        "protected_by": [],  # known to the database only
        "snapshot": choose({"disk": path}).snapshot.kind if reason is None else None,
        "tracker": "hash" if reason is None else None,
        "used_bytes": None,
        "partitions": [],
    }


# -- what is on a disk -------------------------------------------------------------------------------------


def _partition(node: Node) -> dict[str, Any]:
    found = {} if node.get("fstype") else signature(node["path"])
    folder = _BLOCK / node["kname"]
    return {
        "number": int(line_of(folder / "partition") or 0),
        "path": node["path"],
        "start_bytes": int(line_of(folder / "start") or 0) * SECTOR,  # /sys counts in 512 bytes on every disk
        "size_bytes": node["size"],
        "fs": node.get("fstype") or found.get("TYPE"),
        "label": node.get("label") or found.get("LABEL", ""),
        "uuid": node.get("uuid") or found.get("UUID"),
        "mount": _mount(node),
        "used_bytes": _bytes(node.get("fsused")),
        "holds": [held for child in node.get("children", []) if child["type"] != "part" for held in _held(child)],
    }


def _held(node: Node) -> Iterator[dict[str, Any]]:
    """Return a logical volume or the like, and what lies on it in turn."""
    found = {} if node.get("fstype") else signature(node["path"])
    yield {
        "kind": _KINDS.get(node["type"], node["type"]),
        "path": node["path"],
        "fs": node.get("fstype") or found.get("TYPE"),
        "size_bytes": node["size"],
        "mount": _mount(node),
        "used_bytes": _bytes(node.get("fsused")),
    }
    for child in node.get("children", []):
        yield from _held(child)


def _mount(node: Node) -> str | None:
    return next((point for point in node.get("mountpoints") or [node.get("mountpoint")] if point), None)


def _bytes(value: str | int | None) -> int | None:
    return None if value is None else int(value)


def _used(partitions: list[dict[str, Any]]) -> int | None:
    """Return the bytes that mounted file systems use; None when nothing is known."""
    known = [
        each["used_bytes"] for part in partitions for each in (part, *part["holds"]) if each["used_bytes"] is not None
    ]
    return sum(known) if known else None


def _partitions_within(path: Path, size: int) -> tuple[str | None, list[dict[str, Any]]]:
    """Return table and partitions of a raw file or device, which the kernel may know nothing of."""
    table = (ask_json("sfdisk", "--json", str(path)) or {}).get("partitiontable")
    if table is None:
        found = signature(str(path))
        whole = _within(path, 0, 0, size, found)
        return None, [whole] if found.get("TYPE") else []
    sector = int(table.get("sectorsize", SECTOR))
    parts = []
    for number, part in enumerate(table.get("partitions", []), start=1):
        start, length = part["start"] * sector, part["size"] * sector
        # The node's name ends in the number that the table gives it, which may leave some out.
        digits = part["node"].removeprefix(str(path)).lstrip("p")
        parts.append(
            _within(
                path, int(digits) if digits.isdigit() else number, start, length, signature(str(path), start, length)
            )
        )
    return table["label"], parts


def _within(path: Path, number: int, start: int, size: int, found: dict[str, str]) -> dict[str, Any]:
    return {
        "number": number,
        "path": str(path),
        "start_bytes": start,
        "size_bytes": size,
        "fs": found.get("TYPE"),
        "label": found.get("LABEL", ""),
        "uuid": found.get("UUID"),
        "mount": None,
        "used_bytes": None,
        "holds": [],
    }
