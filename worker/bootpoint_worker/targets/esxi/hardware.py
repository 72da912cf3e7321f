"""From what a standby is to be to vSphere's words for it: controllers, disks, network cards, guest, firmware.

Sources: the API reference on `VirtualMachineConfigSpec`, `VirtualDevice` and `GuestOsDescriptor`; limits of
controllers: VMware Configuration Maximums.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bootpoint_common.errors import Code
from bootpoint_common.units import KiB, MiB
from bootpoint_worker.targets.esxi.datastore import join
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.replica import Nic, Replica, ReplicaDisk
from bootpoint_worker.targets.snapshots.vm import notes


@dataclass(frozen=True, slots=True)
class Controller:
    """A kind of disk controller: its type in the API, and the units of disks on one."""

    kind: str
    units: tuple[int, ...]


#: Unit 7 of a SCSI controller is the controller itself.
_SCSI = tuple(unit for unit in range(16) if unit != 7)

#: Disk bus of a job -> controller. ``virtio`` stands for what a paravirtual guest is fastest on, as on KVM.
CONTROLLERS = {
    "virtio": Controller("ParaVirtualSCSIController", _SCSI),
    "pvscsi": Controller("ParaVirtualSCSIController", _SCSI),
    "scsi": Controller("VirtualLsiLogicController", _SCSI),
    "lsilogic": Controller("VirtualLsiLogicController", _SCSI),
    "lsisas": Controller("VirtualLsiLogicSASController", _SCSI),
    "sata": Controller("VirtualAHCIController", tuple(range(30))),
    "nvme": Controller("VirtualNVMEController", tuple(range(15))),
    "ide": Controller("VirtualIDEController", (0, 1)),
}

#: Keys of the IDE controllers that every VM is born with.
IDE_KEYS = 200, 201

#: Network card of a job -> its type in the API.
NIC_KINDS = {
    "virtio": "VirtualVmxnet3",
    "vmxnet3": "VirtualVmxnet3",
    "e1000e": "VirtualE1000e",
    "e1000": "VirtualE1000",
}

#: Setting that answers beforehand what vSphere asks when a VM is started that was registered anew elsewhere: whether it
#: was moved or copied (VMware KB 1541, "Changing or keeping a UUID for a moved virtual machine").
MOVED = "uuid.action", "keep"

#: Guests that have their own ids, by the system's name and the leading number of its version. An id that the host
#: doesn't know, because it is older than the guest, is replaced by the family's.
_GUESTS = (
    (re.compile("debian", re.IGNORECASE), "debian{version}_64Guest"),
    (re.compile("ubuntu", re.IGNORECASE), "ubuntu64Guest"),
    (re.compile("red hat|rhel", re.IGNORECASE), "rhel{version}_64Guest"),
    (re.compile("centos", re.IGNORECASE), "centos{version}_64Guest"),
    (re.compile("alma", re.IGNORECASE), "almalinux_64Guest"),
    (re.compile("rocky", re.IGNORECASE), "rockylinux_64Guest"),
    (re.compile("oracle", re.IGNORECASE), "oracleLinux{version}_64Guest"),
    (re.compile("suse", re.IGNORECASE), "sles{version}_64Guest"),
    (re.compile("fedora", re.IGNORECASE), "fedora64Guest"),
)

#: Family of a system -> ids that are tried in turn, the last of which every host knows.
_FAMILIES = {
    "linux": ("other5xLinux64Guest", "other4xLinux64Guest", "otherLinux64Guest"),
    "windows": ("windows2019srv_64Guest", "windows9Server64Guest", "windows8Server64Guest", "otherGuest64"),
    "unknown": ("otherGuest64",),
}


def guest_ids(profile: Profile | None) -> tuple[str, ...]:
    """Return ids for a guest, the best first; the last one is known to every host."""
    if profile is None:
        return _FAMILIES["unknown"]
    system = profile.system
    number = re.match(r"\d+", system.version)
    own = next((form for words, form in _GUESTS if words.search(system.name)), None)
    family = _FAMILIES.get(system.family, _FAMILIES["unknown"])
    if own is None or ("{version}" in own and number is None):
        return family
    return (own.format(version=number[0] if number else ""), *family)


def guest_id(profile: Profile | None, known: Sequence[str]) -> str:
    """Return the best id of a guest that a host knows; of a host that names none, the one that all know."""
    wanted = guest_ids(profile)
    return next((each for each in wanted if each in known), wanted[-1])


def capacity_kib(size_bytes: int) -> int:
    """Return the capacity of a disk of at least a size: vSphere counts it in KiB."""
    return -(-size_bytes // KiB)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a VM is to be.

    Attributes:
        replica: The standby's values.
        name: The VM's name.
        directory: Datastore path of its folder.
        guest: Id of its guest.
        networks: Name of a network -> its backing; the one named '' is for cards that are connected to nothing.
        profile: What hardware the machine knows; None: the job's is taken.
        test_id: Which test it is; None for the standby.
    """

    replica: Replica
    name: str
    directory: str
    guest: str
    networks: dict[str, Any]
    profile: Profile | None = None
    test_id: str | None = None

    def spec(self) -> Any:
        """Return the configuration of a new VM, without disks and cards."""
        from pyVmomi import vim

        replica, (key, value) = self.replica, MOVED
        return vim.vm.ConfigSpec(
            name=self.name,
            annotation=notes(replica.replica_id, replica.job, self.test_id),
            guestId=self.guest,
            numCPUs=replica.cpus,
            memoryMB=replica.memory_bytes // MiB,
            firmware="efi" if replica.firmware == "uefi" else "bios",
            changeTrackingEnabled=False,
            extraConfig=[vim.option.OptionValue(key=key, value=value)],
            files=vim.vm.FileInfo(vmPathName=join(self.directory, f"{self.name}.vmx")),
        )

    def bus(self, disk: ReplicaDisk) -> str:
        """Return the bus that a disk is attached by: the one that the machine boots from, or the job's."""
        native = self.profile.bus if self.profile is not None else None
        return native or disk.bus

    def cards(self) -> list[Any]:
        """Return changes that add the network cards."""
        from pyVmomi import vim

        return [
            vim.vm.device.VirtualDeviceSpec(operation="add", device=self._card(nic, -500 - number))
            for number, nic in enumerate(self.replica.nics)
        ]

    def _card(self, nic: Nic, key: int) -> Any:
        from pyVmomi import vim

        native = self.profile.nic_model if self.profile is not None else None
        card = getattr(vim.vm.device, NIC_KINDS[native or nic.model])(key=key)
        connected = nic.network is not None and nic.connect
        card.backing = self.networks[nic.network or ""]
        card.connectable = vim.vm.device.VirtualDevice.ConnectInfo(
            startConnected=connected, connected=connected, allowGuestControl=True
        )
        card.addressType, card.macAddress = "manual", nic.mac
        return card


class Board:
    """Where disks are attached: adds controllers as they are needed.

    Args:
        devices: What the VM has already.
    """

    def __init__(self, devices: Sequence[Any] = ()) -> None:
        # Whoever makes a VM is given these two, and can't have more.
        self._controllers: list[tuple[str, int]] = [("VirtualIDEController", key) for key in IDE_KEYS]
        self._taken: set[tuple[int, int]] = set()
        self._fresh = -100
        self.changes: list[Any] = []
        for device in devices:
            if device.key not in IDE_KEYS:
                self._controllers.append((type(device).__name__.rpartition(".")[2], device.key))
            if device.unitNumber is not None and device.controllerKey is not None:
                self._taken.add((device.controllerKey, device.unitNumber))

    def attach(self, bus: str, backing: Any, *, size_bytes: int | None, key: int) -> None:
        """Add a disk.

        Args:
            bus: Key of `CONTROLLERS`.
            backing: Its file.
            size_bytes: Size of a disk that is to be made; None for a file that is there.
            key: Its key for now, below zero and different for each.
        """
        from pyVmomi import vim

        controller, unit = self._room(CONTROLLERS[bus])
        self._taken.add((controller, unit))
        disk = vim.vm.device.VirtualDisk(key=key, controllerKey=controller, unitNumber=unit, backing=backing)
        change = vim.vm.device.VirtualDeviceSpec(operation="add", device=disk)
        if size_bytes is not None:
            disk.capacityInKB = capacity_kib(size_bytes)
            disk.capacityInBytes = disk.capacityInKB * KiB
            change.fileOperation = "create"
        self.changes.append(change)

    def _room(self, wanted: Controller) -> tuple[int, int]:
        kind = wanted.kind
        while True:
            for name, key in self._controllers:
                free = next((unit for unit in wanted.units if (key, unit) not in self._taken), None)
                if name == kind and free is not None:
                    return key, free
            self._controllers.append((kind, self._added(kind)))

    def _added(self, kind: str) -> int:
        from pyVmomi import vim

        key, self._fresh = self._fresh, self._fresh - 1
        device = getattr(vim.vm.device, kind)(key=key, busNumber=sum(name == kind for name, _ in self._controllers))
        if "SCSI" in kind or "Lsi" in kind:
            device.sharedBus = "noSharing"
        self.changes.append(vim.vm.device.VirtualDeviceSpec(operation="add", device=device))
        return key


def new_backing(path: str, *, thick: bool = False, parent: str | None = None) -> Any:
    """Return the file of a disk: a base, thin or thick and zeroed when it is first written to, or a delta on another.

    A snapshot of a VM takes the disk with it only in the mode ``persistent``.
    """
    from pyVmomi import vim

    info = vim.vm.device.VirtualDisk.FlatVer2BackingInfo
    backing = info(fileName=path, diskMode="persistent", thinProvisioned=not thick, eagerlyScrub=False)
    if parent is not None:
        backing.parent = info(fileName=parent, diskMode="persistent")
    return backing


def networks(host: Host, replica: Replica) -> dict[str, Any]:
    """Return the backings of the networks that a replica's cards are connected to.

    Raises:
        FatalError: ``network_unknown``.
    """
    found = {values["name"]: entity for entity, values in host.client.read_all("Network", "name")}
    backings: dict[str, Any] = {}
    for nic in replica.nics:
        # A card needs a network even when it is connected to nothing: any one will do.
        name = nic.network if nic.network is not None else next(iter(sorted(found)), "")
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            text = f"host {host.name} has no network {name!r}; there are: {known}"
            raise host.problem(Code.NETWORK_UNKNOWN, text, replica, key="nic.network", value=name)
        backings[nic.network or ""] = _network_backing(host, name, found[name])
    return backings


def _network_backing(host: Host, name: str, network: Any) -> Any:
    from pyVmomi import vim

    card = vim.vm.device.VirtualEthernetCard
    if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        found = host.client.read(network, "key", "config.distributedVirtualSwitch")
        switch = host.client.read(found["config.distributedVirtualSwitch"], "uuid")["uuid"]
        port = vim.dvs.PortConnection(portgroupKey=found["key"], switchUuid=switch)
        return card.DistributedVirtualPortBackingInfo(port=port)
    return card.NetworkBackingInfo(deviceName=name)


def removed(devices: Sequence[Any], *, files: bool = False) -> Iterator[Any]:
    """Yield changes that remove devices, with the files of disks or without."""
    from pyVmomi import vim

    for device in devices:
        change = vim.vm.device.VirtualDeviceSpec(operation="remove", device=device)
        if files:
            change.fileOperation = "destroy"
        yield change
