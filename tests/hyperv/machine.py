"""Virtual machines as the host has them, and as PowerShell's objects show them.

A public attribute is a property there (``processor_count`` is ProcessorCount); which there are is listed in Microsoft's
reference of the namespace Microsoft.HyperV.PowerShell.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from tests.hyperv.part import Card, Drive, Settings

if TYPE_CHECKING:
    from tests.hyperv.guest import Guest
    from tests.hyperv.holding import Hold
    from tests.hyperv.wmi import Telling


class State(Enum):
    """VMState; a VM here is in one of these."""

    Other = 1  # none of them; what an object of a deleted VM says
    Running = 2
    Off = 3
    Saved = 6


class Status(Enum):
    """VMOperationalStatus (Msvm_ComputerSystem.OperationalStatus)."""

    Ok = 2
    InService = 11  # with a second value that says why
    MergingDisks = 32772


class Heartbeat(Enum):
    """VMHeartbeatStatus; empty in the real thing while a VM is off."""

    Disabled = 0
    NoContact = 1
    OkApplicationsUnknown = 2


class Switch(Enum):
    """VMSwitchType."""

    Private = 0  # reaches neither the host nor its networks
    Internal = 1
    External = 2


class Shown:
    """What VirtualMachine and VMSnapshot have in common: properties that are settings."""

    name: str
    _settings: Settings

    @property
    def hard_drives(self) -> list[Drive]:
        """Its disks."""
        return list(self._settings.drives)

    @property
    def network_adapters(self) -> list[Card]:
        """Its cards."""
        return list(self._settings.cards)

    @property
    def processor_count(self) -> int:
        """Virtual processors."""
        return self._settings.processor_count

    @property
    def memory_startup(self) -> int:
        """Bytes of memory that it starts with."""
        return self._settings.memory_startup

    @property
    def dynamic_memory_enabled(self) -> bool:
        """Whether it may get more or less than that."""
        return self._settings.dynamic_memory_enabled

    @property
    def notes(self) -> str:
        """What people wrote of it."""
        return self._settings.notes

    @property
    def automatic_start_action(self) -> str:
        """What it does when the host starts."""
        return self._settings.automatic_start_action

    @property
    def automatic_stop_action(self) -> str:
        """What it does when the host stops."""
        return self._settings.automatic_stop_action

    @property
    def checkpoint_type(self) -> str:
        """Which kind its checkpoints are."""
        return self._settings.checkpoint_type

    @property
    def automatic_checkpoints_enabled(self) -> bool:
        """Whether each start makes a checkpoint."""
        return self._settings.automatic_checkpoints_enabled


class Snapshot(Shown):
    """VMSnapshot: a checkpoint.

    Args:
        machine: Of which VM.
        name: Its name.
    """

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine = machine
        self._settings = machine._settings.copied()
        self.name = name
        self.id = uuid.uuid4()
        self.creation_time = datetime.now(UTC)
        self.snapshot_type = "Standard"
        self.is_deleted = False
        self._parent = machine._parent
        for drive in self._settings.drives:
            drive.vm_snapshot_id = self.id

    @property
    def vm_id(self) -> uuid.UUID:
        """Whose it is."""
        return self._machine.id

    @property
    def vm_name(self) -> str:
        """Likewise."""
        return self._machine.name

    @property
    def path(self) -> str:
        """Folder of its description."""
        return self._machine.snapshot_file_location

    @property
    def parent_snapshot_id(self) -> uuid.UUID | None:
        """The checkpoint that it was made above."""
        return None if self._parent is None else self._parent.id

    @property
    def parent_snapshot_name(self) -> str | None:
        """Likewise."""
        return None if self._parent is None else self._parent.name


class Machine(Shown):
    """VirtualMachine.

    Args:
        name: Its name, which others may have too.
        folder: Folder of its description, as the host names it.
        generation: 1 (BIOS) or 2 (UEFI).
        version: Of its configuration.
        computer_name: The host's.
    """

    def __init__(self, name: str, folder: str, generation: int, version: str, computer_name: str) -> None:
        self._settings = Settings()
        self._snapshots: list[Snapshot] = []
        self._parent: Snapshot | None = None
        self._holds: list[Hold] = []
        self._merging = False
        self._left: set[Path] = set()  # files that removed checkpoints had
        self._ran = False
        self._guest: Guest | None = None
        self._silent_looks = 0  # at its guest's exchange, which doesn't answer them
        self._told: dict[str, Telling] = {}  # what its guest was told of its addresses, by the cards' MAC addresses
        self.name = name
        self.id = uuid.uuid4()
        self.generation = generation
        self.version = version
        self.computer_name = computer_name
        self.state = State.Off
        self.path = folder
        self.snapshot_file_location = folder
        self.is_clustered = False
        self.heartbeat: Heartbeat | None = None

    @property
    def vm_id(self) -> uuid.UUID:
        """Its id, by its other name."""
        return self.id

    @property
    def vm_name(self) -> str:
        """Its name, likewise."""
        return self.name

    @property
    def configuration_location(self) -> str:
        """Folder of its description."""
        return self.path

    @property
    def status(self) -> str:
        """For people, in the host's language."""
        return "Merging disks" if self._merging else "Operating normally"

    @property
    def operational_status(self) -> list[Status]:
        """For programs."""
        return [Status.InService, Status.MergingDisks] if self._merging else [Status.Ok]

    @property
    def parent_snapshot_id(self) -> uuid.UUID | None:
        """The checkpoint that it stands on."""
        return None if self._parent is None else self._parent.id

    @property
    def parent_snapshot_name(self) -> str | None:
        """Likewise."""
        return None if self._parent is None else self._parent.name

    def _every_settings(self) -> list[Settings]:
        """Return its settings and those of its checkpoints."""
        return [self._settings, *(each._settings for each in self._snapshots)]

    def _own(self) -> None:
        """Write on its parts whose they are."""
        settings = self._settings
        for drive in [*settings.drives, *settings.dvds]:
            drive.vm_name, drive.vm_id, drive.vm_snapshot_id = self.name, self.id, None
        for card in settings.cards:
            card.vm_name, card.vm_id = self.name, self.id
        settings.firmware.vm_name = self.name


def leaf_path(parent: str) -> str:
    """Return the path of a new leaf: beside its parent, whose name it has with another GUID in it."""
    path = PureWindowsPath(parent)
    stem, _, last = path.stem.rpartition("_")
    try:
        uuid.UUID(last)
    except ValueError:
        stem = path.stem
    suffix = ".avhd" if path.suffix.lower() in (".vhd", ".avhd") else ".avhdx"
    return str(path.with_name(f"{stem}_{str(uuid.uuid4()).upper()}{suffix}"))


def is_leaf(path: Path) -> bool:
    """Tell whether a file is one that checkpoints made; others are never deleted by the host."""
    return path.suffix.lower() in (".avhdx", ".avhd")
