"""What VMs are made of, as PowerShell's objects show it: see `machine`."""

from __future__ import annotations

import copy
import uuid
from dataclasses import dataclass, field
from enum import Enum

from bootpoint_common.units import GiB


class Controller(Enum):
    """ControllerType."""

    IDE = 0
    SCSI = 1


@dataclass(eq=False)
class Drive:
    """HardDiskDrive: what of a VM's disks is on a controller.

    Attributes:
        controller_type: Which kind.
        controller_number: Of the controller.
        controller_location: Of the drive on it.
        path: The file, as the host names it.
        vm_name: Whose it is.
        vm_id: Likewise.
    """

    controller_type: Controller
    controller_number: int
    controller_location: int
    path: str
    vm_name: str = ""
    vm_id: uuid.UUID | None = None
    vm_snapshot_id: uuid.UUID | None = None
    pool_name: str = "Primordial"
    disk_number: int | None = None

    @property
    def name(self) -> str:
        """What Hyper-V Manager calls it."""
        kind, number, location = self.controller_type.name, self.controller_number, self.controller_location
        return f"Hard Drive on {kind} controller number {number} at location {location}"

    @property
    def place(self) -> tuple[Controller, int, int]:
        """Where it is, which one VM has once; here only."""
        return self.controller_type, self.controller_number, self.controller_location


@dataclass(eq=False)
class Card:
    """VMNetworkAdapter."""

    name: str
    mac_address: str
    dynamic_mac_address_enabled: bool
    switch_name: str | None
    is_legacy: bool
    vm_name: str = ""
    vm_id: uuid.UUID | None = None
    adapter_id: str = field(default_factory=lambda: str(uuid.uuid4()).upper())

    @property
    def connected(self) -> bool:
        """Whether it is plugged into a switch."""
        return self.switch_name is not None


@dataclass(eq=False)
class ScsiController:
    """VMScsiController."""

    controller_number: int
    vm_name: str
    vm_id: uuid.UUID
    drives: list[Drive]


@dataclass(eq=False)
class Firmware:
    """VMFirmware, of a VM of the second generation."""

    secure_boot: str = "On"
    secure_boot_template: str | None = "MicrosoftWindows"
    boot_order: list[object] = field(default_factory=list)
    vm_name: str = ""

    def forget(self, device: object) -> None:
        """Leave out a device that the VM has no more."""
        self.boot_order = [each for each in self.boot_order if each is not device]


@dataclass(eq=False)
class Settings:
    """What a checkpoint keeps of a VM, and gives back to it (Msvm_VirtualSystemSettingData and what hangs on it)."""

    drives: list[Drive] = field(default_factory=list)
    dvds: list[Drive] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    scsi_controllers: int = 1
    processor_count: int = 1
    memory_startup: int = GiB
    dynamic_memory_enabled: bool = False
    notes: str = ""
    automatic_start_action: str = "StartIfRunning"
    automatic_stop_action: str = "Save"
    automatic_start_delay: int = 0
    checkpoint_type: str = "Production"
    automatic_checkpoints_enabled: bool = False
    firmware: Firmware = field(default_factory=Firmware)

    def copied(self) -> Settings:
        """Return a copy that shares nothing."""
        return copy.deepcopy(self)

    def drive_at(self, place: tuple[Controller, int, int]) -> Drive | None:
        """Return what is at a place of a controller; a DVD drive too."""
        return next((each for each in [*self.drives, *self.dvds] if each.place == place), None)
