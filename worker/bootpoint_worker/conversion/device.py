"""Names of devices that another machine doesn't have, turned into ids of what lies on them.

``/dev/sda1`` is another disk, or none, on another controller; so is anything below ``/dev/disk/by-path`` and ``by-id``.
A file system's UUID is the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bootpoint_worker.conversion.disk import DiskLayout, Partition
from bootpoint_worker.conversion.guest import Edits, Guest

#: A partition by a name that depends on the machine: what names its disk, and the partition's number.
_NAME = (
    r"/dev/(?:(?:sd|hd|vd|xvd)[a-z]+\d+|nvme\d+n\d+p\d+|disk/by-(?:path|id)/[A-Za-z0-9_.:+@-]+-part\d+)"
    r"(?![A-Za-z0-9_/-])"
)
_PARTS = re.compile(r"(?P<disk>.*?)(?:-part|(?<=\dn\d)p|(?<=[a-z]))(?P<number>\d+)")

#: Files in which boot loaders and initramfs name devices, by patterns of their path.
_NAMING = (
    r"boot/grub2?/(?:grub\.cfg|custom\.cfg|menu\.lst|grub\.conf)",
    r"boot/loader/entries/[^/]+\.conf",
    r"etc/default/grub",
    r"etc/default/grub\.d/[^/]+\.cfg",
    r"etc/kernel/cmdline",
    r"etc/initramfs-tools/conf\.d/[^/]+",
    r"etc/lilo\.conf",
)

#: GRUB's environment block: a file of exactly this length, filled with ``#``.
_GRUBENV_LENGTH = 1024


class Devices:
    """What the source called its partitions.

    Args:
        layouts: The machine's disks, in the job's order.
        root: Slot and partition of its root file system.
        fstab: Its fstab.
    """

    def __init__(self, layouts: Sequence[DiskLayout], root: tuple[str, Partition], fstab: str) -> None:
        self._layouts = {layout.slot: layout for layout in layouts}
        self._disks = self._known(layouts, root, fstab)

    @staticmethod
    def _known(layouts: Sequence[DiskLayout], root: tuple[str, Partition], fstab: str) -> dict[str, str]:
        """Work out which disk a name stands for: the root's for certain, others when only one is left."""
        names: list[str] = []
        of_root: list[str] = []
        for line in _entries(fstab):
            match = re.fullmatch(_NAME, line[0])
            split = _split(line[0]) if match else None
            if split is None:
                continue
            if line[1] == "/":
                of_root.append(split[0])
            elif split[0] not in names:
                names.append(split[0])
        found = dict.fromkeys(of_root, root[0])
        if len(layouts) == 1:
            return found | dict.fromkeys(names, root[0])
        # Without a hint from the root's own line, sda is the first disk of the job, sdb the second.
        others = [layout.slot for layout in layouts if layout.slot != root[0]]
        left = [name for name in names if name not in found]
        if found and len(left) == len(others) == 1:
            return found | {left[0]: others[0]}
        for number, layout in enumerate(layouts):
            name = f"/dev/sd{chr(ord('a') + number)}"
            if not found or name in found:
                found.setdefault(name, layout.slot)
        return found

    def partition(self, name: str) -> Partition | None:
        """Return the partition that the source called so; None when that can't be told."""
        split = _split(name)
        if split is None:
            return None
        disk, number = split
        slot = self._disks.get(disk)
        if slot is None and len(self._layouts) == 1:
            slot = next(iter(self._layouts))
        if slot is None:
            return None
        found = (part for part in self._layouts[slot].partitions if part.number == number)
        return next(found, None)

    def replaced(self, text: str, unknown: list[str]) -> str:
        """Return text with such names as ``UUID=``; names that can't be told are noted."""

        def uuid(match: re.Match[str]) -> str:
            part = self.partition(match[0])
            if part is not None and part.uuid:
                return f"UUID={part.uuid}"
            if match[0] not in unknown:
                unknown.append(match[0])
            return match[0]

        return re.sub(_NAME, uuid, text)


def _split(name: str) -> tuple[str, int] | None:
    match = _PARTS.fullmatch(name)
    return (match["disk"], int(match["number"])) if match else None


def _entries(fstab: str) -> list[list[str]]:
    lines = [line.split() for line in fstab.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in lines if len(line) >= 2]


def names_devices(fstab: str) -> bool:
    """Tell whether a file names partitions by names that depend on the machine."""
    lines = (line for line in fstab.splitlines() if not line.lstrip().startswith("#"))
    return any(re.search(_NAME, line) for line in lines)


def mount_points(fstab: str) -> Mapping[str, str]:
    """Return what is mounted, by mount point."""
    return {words[1]: words[0] for words in _entries(fstab)}


def roots(guest: Guest) -> set[str]:
    """Return what boot loaders tell kernels of where their root is: ``UUID=…``, ``/dev/sda1``, …."""
    texts = [text for pattern in _NAMING for text in guest.matching(pattern).values()]
    return {root for text in texts for root in re.findall(r"(?<!set )\broot=([^\s\"']+)", text)}


def plan_devices(guest: Guest, edits: Edits, devices: Devices, *, disk: str = "vd") -> None:
    """Plan UUIDs in fstab, GRUB's files and the kernels' command lines.

    Args:
        guest: Its files.
        edits: What is planned.
        devices: What the source called its partitions.
        disk: How the standby's kernel names disks.
    """
    unknown: list[str] = []
    fstab = guest.text("etc/fstab")
    changed = "".join(
        line if line.lstrip().startswith("#") else devices.replaced(line, unknown)
        for line in fstab.splitlines(keepends=True)
    )
    _note(guest, edits, "etc/fstab", changed)
    for pattern in _NAMING:
        for path, text in guest.matching(pattern).items():
            _note(guest, edits, path, devices.replaced(text, unknown))
    for path, text in guest.matching(r"boot/grub2?/grubenv").items():
        body = devices.replaced(text, unknown).rstrip("#")
        if body != text.rstrip("#") and len(body) <= _GRUBENV_LENGTH:
            _note(guest, edits, path, body.ljust(_GRUBENV_LENGTH, "#"))
    for path, text in guest.matching(r"boot/grub2?/device\.map").items():
        _note(guest, edits, path, _device_map(text, disk))
    edits.problems += [
        f"{name}, which its configuration names, is on no disk that can be told: it may not be mounted"
        for name in unknown
    ]


def _note(guest: Guest, edits: Edits, path: str, text: str) -> None:
    if text != guest.text(path):
        edits.write(guest, path, text)
        edits.actions.append(f"/{path} names file systems by their ids instead of devices of the source")


def _device_map(text: str, disk: str) -> str:
    """Return GRUB's map of disks for the standby, in the same order."""
    lines = []
    for line in text.splitlines(keepends=True):
        match = re.match(r"\(hd(\d{1,2})\)\s", line)
        known = match and int(match[1]) < 26
        lines.append(f"(hd{match[1]})\t/dev/{disk}{chr(ord('a') + int(match[1]))}\n" if match and known else line)
    return "".join(lines)
