"""The names that a disk answers to, and finding the disk that a name means."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from bootpoint_producer.diskmap.device import Device
from bootpoint_producer.probe import line_of, shown

_BY_PATH = Path("/dev/disk/by-path")
BLOCK = Path("/sys/class/block")


def named(disks: Iterable[Device], *, every_name: bool = False) -> Iterator[tuple[str, Device]]:
    """Return (id, disk) of every disk; with ``every_name`` once for each name that it answers to.

    Serial numbers that two disks share (cheap USB bridges do that) name neither.
    """
    listed = list(disks)
    names = [_names(disk) for disk in listed]
    count = Counter(name for each in names for name in set(each))
    for disk, each in zip(listed, names, strict=True):
        unique = [name for name in each if count[name] == 1] or each[-1:]
        for name in unique if every_name else unique[:1]:
            yield name, disk


def file_id(path: str | Path) -> str:
    """Return the id of a listed file: ``file:/abs/path``."""
    return _one_line(f"file:{path}")


def _one_line(name: str) -> str:
    r"""Return an id that a job file can hold: one line without spaces around it. Other bytes become ``\xNN``."""
    text = "".join(char if char.isprintable() else _escaped(char) for char in shown(name))
    return text[:-1] + r"\x20" if text.endswith(" ") else text


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


def _names(disk: Device) -> list[str]:
    """Return a disk's names, best first; the last one always exists."""
    folder = BLOCK / disk.name
    serial = disk.serial or line_of(folder / "serial") or line_of(folder / "device" / "serial")
    wwn = disk.wwn or line_of(folder / "wwid")
    names = [f"serial:{serial.strip()}"] if serial else []
    names += [f"wwn:{wwn.strip()}"] if wwn else []
    return [*map(_one_line, names), f"path:{shown(_place(disk))}"]


def _place(disk: Device) -> str:
    """Return where the disk is plugged in, as udev says it, or by its place in /sys where there is no udev."""
    with contextlib.suppress(OSError):
        for link in sorted(_BY_PATH.iterdir()):
            if link.resolve() == Path(disk.path):
                return link.name
    parts = (BLOCK / disk.name).resolve().parts
    # /sys/devices/<place …>/block/<name>
    return "-".join(parts[3:-2]) or disk.name
