"""A machine's virtual hardware: what it is born with, and how a `ConfigSpec` changes it.

Keys are a host's: 100 for PCI, 200 for IDE, 1000 for SCSI, 2000 for the first disk on it, 4000 for the first network
card (seen in any listing of a machine's devices, such as those in VMware's govmomi simulator).
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from tests.esxi import chain

if TYPE_CHECKING:
    from tests.esxi.world import World

Device = vim.vm.device

#: First key of a kind of controller, and of the disks on it; and how many of them a controller takes.
CONTROLLERS: tuple[tuple[Any, int, int, int], ...] = (
    (Device.VirtualSCSIController, 1000, 2000, 16),
    (Device.VirtualSATAController, 15000, 16000, 30),
    (Device.VirtualNVMEController, 31000, 32000, 15),
    (Device.VirtualIDEController, 200, 3000, 2),
)

#: The unit of a SCSI controller itself, which no disk can have.
SCSI_SELF = 7

#: First keys of other devices.
CARDS, SERIALS, CDROMS, OTHERS = 4000, 9000, 3000, 13000

#: Addresses that may be set by hand: 00:50:56:00:00:00 to 00:50:56:3F:FF:FF ("Static MAC addresses", vSphere
#: Networking).
MANUAL = (0x005056000000, 0x0050563FFFFF)


def born_with() -> list[Any]:
    """Return the devices of every machine."""
    pci = Device.VirtualPCIController(key=100, busNumber=0)
    ides = [Device.VirtualIDEController(key=200 + bus, busNumber=bus) for bus in (0, 1)]
    return [*ides, pci, Device.VirtualVideoCard(key=500, controllerKey=100, unitNumber=0, videoRamSizeInKB=4096)]


def disks(devices: list[Any]) -> list[Any]:
    """Return the disks among devices."""
    return [device for device in devices if isinstance(device, Device.VirtualDisk)]


class Hardware:
    """Changes the devices of one machine.

    Args:
        world: What is there.
        name: The machine's.
        directory: Its folder.
        devices: Its devices; changed in place.
    """

    def __init__(self, world: World, name: str, directory: Path, devices: list[Any]) -> None:
        self._world = world
        self._name = name
        self._directory = directory
        self._devices = devices
        self._keys: dict[int, int] = {}

    def change(self, changes: list[Any]) -> None:
        """Apply changes in order; keys below zero stand for devices of the same spec."""
        for index, change in enumerate(changes):
            if change.operation == "add":
                self._add(index, change)
            elif change.operation == "remove":
                self._remove(index, change)
            else:
                self._edit(index, change)

    def _find(self, index: int, key: int) -> Any:
        for device in self._devices:
            if device.key == self._keys.get(key, key):
                return device
        raise vim.fault.InvalidDeviceSpec(
            deviceIndex=index,
            property=f"virtualDeviceSpec.device[{key}]",
            msg=f"Invalid configuration for device '{index}'.",
        )

    def _add(self, index: int, change: Any) -> None:
        device = change.device
        asked = device.key
        if isinstance(device, Device.VirtualController):
            self._place_controller(device)
        elif isinstance(device, Device.VirtualDisk):
            self._place(index, device)
            self._back(index, device, create=change.fileOperation == "create")
        elif isinstance(device, Device.VirtualEthernetCard):
            device.key = self._free(CARDS)
            self._address(index, device)
        elif isinstance(device, Device.VirtualSerialPort):
            device.key = self._free(SERIALS)
        else:
            device.key = self._free(CDROMS if isinstance(device, Device.VirtualCdrom) else OTHERS)
        if asked is not None:
            self._keys[asked] = device.key
        self._devices.append(device)

    def _free(self, first: int) -> int:
        taken = {device.key for device in self._devices}
        return next(key for key in range(first, first + 1000) if key not in taken)

    def _place_controller(self, controller: Any) -> None:
        first = next((first for kind, first, *_ in CONTROLLERS if isinstance(controller, kind)), 14000)
        controller.key = self._free(first)
        controller.busNumber = controller.key - first
        if isinstance(controller, Device.VirtualSCSIController):
            controller.scsiCtlrUnitNumber = SCSI_SELF

    def _place(self, index: int, disk: Any) -> None:
        if disk.controllerKey is None:
            raise vim.fault.InvalidDeviceSpec(
                deviceIndex=index, property="virtualDeviceSpec.device.controllerKey", msg="A disk needs a controller."
            )
        controller = self._find(index, disk.controllerKey)
        disk.controllerKey = controller.key
        first, most = next((first, most) for kind, _, first, most in CONTROLLERS if isinstance(controller, kind))
        taken = {each.unitNumber for each in self._devices if each.controllerKey == controller.key}
        if isinstance(controller, Device.VirtualSCSIController):
            taken.add(SCSI_SELF)
        if disk.unitNumber is None or disk.unitNumber < 0:
            disk.unitNumber = next(unit for unit in range(most) if unit not in taken)
        if disk.unitNumber in taken or disk.unitNumber >= most:
            raise vim.fault.InvalidDeviceSpec(
                deviceIndex=index, property="virtualDeviceSpec.device.unitNumber", msg="The unit is taken."
            )
        disk.key = first + controller.busNumber * most + disk.unitNumber

    def _back(self, index: int, disk: Any, *, create: bool) -> None:
        backing = disk.backing
        if backing is None or backing.diskMode is None:
            raise vim.fault.InvalidDeviceBacking(
                deviceIndex=index, property="virtualDeviceSpec.device.backing", msg="A disk needs a file and a mode."
            )
        path = self._file(backing.fileName)
        size_bytes = disk.capacityInBytes or (disk.capacityInKB or 0) * 1024
        if create:
            self._make(path, size_bytes, backing)
        try:
            link = chain.read_link(path)
        except FileNotFoundError:
            raise self._world.file_not_found(backing.fileName) from None
        backing.fileName = self._world.name_of(path)
        backing.uuid = self._world.disk_uuid(path)
        _measure(disk, link.size_bytes)

    def _make(self, path: Path, size_bytes: int, backing: Any) -> None:
        if path.exists():
            raise self._world.file_exists(self._world.name_of(path))
        # A disk that is made with a parent is an empty delta above it (VirtualDiskFlatVer2BackingInfo.parent, vSphere
        # API).
        if getattr(backing, "parent", None) is not None:
            chain.push(self._world.locate(backing.parent.fileName), path)
            return
        thick = not backing.thinProvisioned
        if thick:
            self._world.datastore_of(self._world.name_of(path)).demand(size_bytes)
        chain.create(path, size_bytes, thick=thick)

    def _file(self, name: str) -> Path:
        """Return where a disk's file is to be; given only a datastore, beside the machine's other files."""
        if name and name.endswith(".vmdk"):
            return self._world.locate(name)
        if name:
            self._world.datastore_of(name)
        names = (self._directory / f"{self._name}{f'_{number}' if number else ''}.vmdk" for number in range(1000))
        return next(path for path in names if not path.exists())

    def _address(self, index: int, card: Any) -> None:
        name = getattr(card.backing, "deviceName", None)
        if name is None or name not in {network.name for network in self._world.networks}:
            raise vim.fault.InvalidDeviceBacking(
                deviceIndex=index, property="virtualDeviceSpec.device.backing", msg=f"There is no network {name!r}."
            )
        if card.addressType == "manual":
            value = int(card.macAddress.replace(":", ""), 16)
            if not MANUAL[0] <= value <= MANUAL[1]:
                raise vim.fault.InvalidDeviceSpec(
                    deviceIndex=index, property="virtualDeviceSpec.device.macAddress",
                    msg=f"The MAC address {card.macAddress} is not in the valid range.",
                )  # fmt: skip
        elif not card.macAddress:
            card.addressType = "generated"
            card.macAddress = f"00:0c:29:{secrets.token_hex(3)[:2]}:{secrets.token_hex(1)}:{secrets.token_hex(1)}"

    def _remove(self, index: int, change: Any) -> None:
        device = self._find(index, change.device.key)
        self._devices.remove(device)
        if change.fileOperation == "destroy" and isinstance(device, Device.VirtualDisk):
            for link in reversed(chain.links(self._world.locate(device.backing.fileName))):
                chain.delete(link.path)

    def _edit(self, index: int, change: Any) -> None:
        old, new = self._find(index, change.device.key), change.device
        if isinstance(old, Device.VirtualDisk):
            self._grow(index, old, new)
        elif isinstance(old, Device.VirtualEthernetCard):
            self._address(index, new)
            self._devices[self._devices.index(old)] = new
        else:
            self._devices[self._devices.index(old)] = new

    def _grow(self, index: int, old: Any, new: Any) -> None:
        size_bytes = new.capacityInBytes or (new.capacityInKB or 0) * 1024
        if not size_bytes or size_bytes == old.capacityInBytes:
            return
        link = chain.read_link(self._world.locate(old.backing.fileName))
        # With snapshots no disk can be resized ("Snapshot Files", vSphere Virtual Machine Administration), nor ever
        # be made smaller.
        if link.parent or size_bytes < old.capacityInBytes:
            raise vim.fault.InvalidDeviceSpec(
                deviceIndex=index, property="virtualDeviceSpec.device.capacityInKB",
                msg="The disk can't be made smaller, nor larger while the machine has snapshots.",
            )  # fmt: skip
        chain.grow(link.path, size_bytes)
        _measure(old, size_bytes)


def _measure(disk: Any, size_bytes: int) -> None:
    disk.capacityInBytes = size_bytes
    disk.capacityInKB = size_bytes // 1024


def backing_of(world: World, disk: Any) -> None:
    """Bring a disk's backing up to date with its chain: names, ids, and the links below."""
    backing = disk.backing
    below = None
    *lower, leaf = chain.links(world.locate(backing.fileName))
    for link in lower:
        below = _backing(world, link, backing, below)
    disk.backing = _backing(world, leaf, backing, below)


def _backing(world: World, link: chain.Link, like: Any, parent: Any) -> Any:
    return Device.VirtualDisk.FlatVer2BackingInfo(
        fileName=world.name_of(link.path), datastore=world.datastore_of(world.name_of(link.path)).reference,
        diskMode=like.diskMode, thinProvisioned=like.thinProvisioned, uuid=like.uuid, contentId=link.content_id,
        parent=parent, deltaDiskFormat="seSparseFormat" if parent is not None else None,
    )  # fmt: skip
