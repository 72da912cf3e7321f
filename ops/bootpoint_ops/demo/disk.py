"""The disk that the demo protects: a small one of its own, or a copy of one that is given."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.units import format_size
from bootpoint_ops import guest_disk
from bootpoint_ops.guest_tree import run_tool

#: First bytes of a qcow2 file.
_QCOW2 = b"QFI\xfb"

#: GPT types of partitions: where UEFI looks for a boot loader, and where a BIOS boot loader keeps its second half.
_EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"


@dataclass(frozen=True, slots=True)
class Source:
    """The disk under protection.

    Attributes:
        path: The raw file.
        given: The disk that it is a copy of; None for the demo's own.
        firmware: ``bios`` or ``uefi``: what its boot loader is made for.
        cpus: What the standby gets.
        memory: Likewise, as in a job file.
    """

    path: Path
    given: Path | None
    firmware: str
    cpus: int
    memory: str

    @property
    def own(self) -> bool:
        """Whether the demo made it, and so may change it and knows what its guest prints."""
        return self.given is None


def own(path: Path, marker: str) -> Source:
    """Make a small bootable disk whose guest prints a marker and powers off."""
    guest_disk.build(path, marker=marker)
    return Source(path=path, given=None, firmware="bios", cpus=1, memory="512MiB")


def copy_of(given: Path, path: Path) -> Source:
    """Copy a given disk, so that nothing ever writes to it; by reflink where the file system can, else sparsely.

    Args:
        given: A raw file, a qcow2 file or a block device.
        path: The copy.

    Raises:
        UsageError: ``spec_invalid``: it can't be read.
        FatalError: ``host_full``: there is no room for its data.
    """
    try:
        with given.open("rb") as file:
            qcow2 = file.read(len(_QCOW2)) == _QCOW2
    except OSError as exc:
        text = f"{given} can't be read: {exc.strerror}"
        raise error(Code.SPEC_INVALID, text, key="--disk", value=str(given), hint="name another disk") from exc
    _require_room(given, path.parent)
    if qcow2:
        run_tool(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(given), str(path)])
    else:
        run_tool(["cp", "--reflink=auto", "--sparse=always", "--", str(given), str(path)])
    path.chmod(0o600)
    return Source(path=path, given=given, firmware=_firmware(path), cpus=2, memory="2GiB")


def _require_room(given: Path, folder: Path) -> None:
    """Refuse what can't fit: the copy and its replica need about what the disk's data takes, twice."""
    facts = given.stat()
    needed, free = 2 * facts.st_blocks * 512, shutil.disk_usage(folder).free  # 0 for a device, which doesn't tell
    if needed > free:
        raise error(
            Code.HOST_FULL, f"{folder} has {format_size(free)} free, copy and replica of {given} need about"
            f" {format_size(needed)}", key="--directory", value=str(folder), hint="name a directory with more room",
        )  # fmt: skip


def _firmware(disk: Path) -> str:
    """Return what a disk boots with, by its partitions: UEFI where only UEFI finds a boot loader."""
    try:
        table = json.loads(run_tool(["sfdisk", "--json", str(disk)]).stdout)["partitiontable"]
    except BootpointError:
        return "bios"  # no table of partitions at all: a boot sector alone may still boot
    types = {str(partition.get("type", "")).upper() for partition in table.get("partitions", ())}
    return "uefi" if table.get("label") == "gpt" and _EFI_SYSTEM in types and _BIOS_BOOT not in types else "bios"
