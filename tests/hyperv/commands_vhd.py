"""Commands about the files of virtual disks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from bootpoint_common.units import MiB, TiB
from tests.hyperv import avhdx, fault
from tests.hyperv.avhdx import DYNAMIC_BLOCK, LEAF_BLOCK, Vhdx
from tests.hyperv.command import command, many, number, text
from tests.hyperv.front import VhdxError
from tests.hyperv.holding import InUseError, Sharing
from tests.hyperv.layout import Shape
from tests.hyperv.pwsh.cmdlet import Call

if TYPE_CHECKING:
    from tests.hyperv.host import Host


class Format(Enum):
    """VhdFormat."""

    VHD = 2
    VHDX = 3


class Kind(Enum):
    """VhdType."""

    Fixed = 2
    Dynamic = 3
    Differencing = 4


@dataclass(frozen=True, slots=True)
class Vhd:
    """Microsoft.Vhd.PowerShell.VirtualHardDisk."""

    path: str
    vhd_format: Format
    vhd_type: Kind
    file_size: int
    size: int
    logical_sector_size: int
    physical_sector_size: int
    block_size: int
    parent_path: str
    disk_identifier: str
    attached: bool


def _shown(host: Host, path: str) -> Vhd:
    file = host.locate(path)
    with Vhdx(file, find=host.find_parent) as disk:
        shape = disk.shape
        parent = disk.parent_path
        kind = Kind.Differencing if shape.has_parent else Kind.Fixed if shape.fixed else Kind.Dynamic
        return Vhd(
            path=path,
            vhd_format=Format.VHDX,
            vhd_type=kind,
            file_size=file.stat().st_size,
            size=shape.size,
            logical_sector_size=shape.sector_size,
            physical_sector_size=shape.physical_sector_size,
            block_size=shape.block_size,
            parent_path="" if parent is None else host.name_of(parent),
            disk_identifier=str(UUID(bytes_le=disk.disk_id)).upper(),
            attached=host.is_attached(path),
        )


def _there(host: Host, call: Call, path: str) -> Path:
    file = host.locate(path)
    if not file.is_file():
        raise fault.no_file(call.command, path)
    return file


@command("Get-VHD")
def get_vhd(host: Host, call: Call) -> object:
    """Describe files; one that is in use by a VM of the host too."""
    paths = [str(each) for each in many(call.get("Path", None))]
    for vm_id in many(call.get("VMId", None)):
        machine = host.vmms.find(vm_id)
        paths += [drive.path for drive in machine._settings.drives] if machine is not None else []
    found = []
    for path in paths:
        _there(host, call, path)
        try:
            found.append(_shown(host, path))
        except VhdxError as exc:
            raise fault.bad_disk(call.command, path, exc) from exc
    return found


@command("Test-VHD")
def test_vhd(host: Host, call: Call) -> object:
    """Say whether files are whole, with those that they stand on: true, or false and an error that says why."""
    found = []
    for path in (str(each) for each in many(call["Path"])):
        try:
            file = _there(host, call, path)
            host.holds.probe(file, Sharing.READING)
            host.check_chain(file)
            found.append(True)
        except InUseError:
            call.error(fault.in_use(call.command, path))
            found.append(False)
        except VhdxError as exc:
            call.error(fault.bad_disk(call.command, path, exc))
            found.append(False)
    return found


@command("New-VHD")
def new_vhd(host: Host, call: Call) -> object:
    """Make files; folders that aren't there too."""
    made = []
    for path in (str(each) for each in many(call["Path"])):
        file = host.locate(path)
        if file.suffix.lower() not in (".vhdx", ".avhdx"):
            raise fault.invalid(call.command, f"'{path}' isn't the path of a VHDX file, or VHD isn't known here.")
        if file.exists():
            raise fault.refused(call.command, f"The file '{path}' exists. (0x80070050).", category="ResourceExists")
        if not file.parent.is_dir():
            raise fault.no_file(call.command, str(Path(path).parent))
        _make(host, call, path, file)
        made.append(_shown(host, path))
    return made


def _make(host: Host, call: Call, path: str, file: Path) -> None:
    block = number(call, "BlockSizeBytes", LEAF_BLOCK if "ParentPath" in call else DYNAMIC_BLOCK)
    if "ParentPath" in call:
        parent = text(call, "ParentPath")
        below = _there(host, call, parent)
        try:
            avhdx.create_child(file, below, windows_path=parent, block_size=block)
        except VhdxError as exc:
            raise fault.bad_disk(call.command, parent, exc) from exc
        return
    sector, physical = number(call, "LogicalSectorSizeBytes", 512), number(call, "PhysicalSectorSizeBytes", 4096)
    size = number(call, "SizeBytes")
    # New-VHD's reference: "The maximum size of a VHDX is 64 terabytes"; virtdisk.h: at least 3 MiB. Whole sectors, the
    # physical ones: 2,000,000,000 bytes are refused (github.com/PowerShell/PowerShell/issues/25761).
    if not 3 * MiB <= size <= 64 * TiB or size % physical or sector not in (512, 4096):
        raise fault.invalid(call.command, f"A virtual hard disk can't have {size} bytes with sectors of {sector}.")
    if host.free_bytes(path) < (size if call.switched("Fixed") else 0):
        raise fault.no_room(call.command, path)
    avhdx.create(file, Shape(size, block, sector, physical, fixed=call.switched("Fixed")))


@command("Convert-VHD")
def convert_vhd(host: Host, call: Call) -> object:
    """Copy what a disk shows into a new file."""
    path, target = text(call, "Path"), text(call, "DestinationPath")
    kind = text(call, "VHDType", "Dynamic").lower()
    file, made = _there(host, call, path), host.locate(target)
    if made.exists() or made.suffix.lower() != ".vhdx" or kind == "differencing":
        raise fault.invalid(call.command, f"'{target}' can't be made of '{path}'.")
    try:
        host.holds.probe(file, Sharing.READING)
        with Vhdx(file, find=host.find_parent) as source:
            shape = source.shape
            block = number(call, "BlockSizeBytes", DYNAMIC_BLOCK)
            wanted = replace(shape, block_size=block, fixed=kind == "fixed", has_parent=False)
            avhdx.create(made, wanted)
            _copy(source, made)
    except InUseError as exc:
        raise fault.in_use(call.command, path) from exc
    except VhdxError as exc:
        with suppress(FileNotFoundError):
            made.unlink()
        raise fault.bad_disk(call.command, path, exc) from exc
    return _shown(host, target) if call.switched("Passthru") else None


def _copy(source: Vhdx, made: Path) -> None:
    with Vhdx(made, writable=True) as target:
        for offset in range(0, source.shape.size, MiB):
            data = source.read(offset, min(MiB, source.shape.size - offset))
            if any(data):
                target.write(offset, data)


@command("Resize-VHD")
def resize_vhd(host: Host, call: Call) -> object:
    """Lengthen a disk that has no parent; its file keeps its name."""
    for path in (str(each) for each in many(call["Path"])):
        file = _there(host, call, path)
        size = number(call, "SizeBytes")
        try:
            host.holds.probe(file)
        except InUseError as exc:
            raise fault.in_use(call.command, path) from exc
        with Vhdx(file) as disk:
            shape, identity = disk.shape, disk.disk_id
            # Of the size that a disk has virtdisk.h says nothing; a host may refuse what changes nothing.
            if shape.has_parent or size <= shape.size or size % shape.physical_sector_size:
                raise fault.invalid(call.command, f"'{path}' can't be resized to {size} bytes.")
            longer = file.with_name(f"{file.name}.resized")
            avhdx.create(longer, replace(shape, size=size), disk_id=identity)
            with Vhdx(longer, writable=True) as target:
                for offset, data in disk.content():
                    target.write(offset, data)
        longer.replace(file)
    return None
