"""What hardware a VM has here: where its disks are attached, its cards, and its firmware.

Sources: Microsoft's reference of the Hyper-V module (Add-VMHardDiskDrive, Add-VMNetworkAdapter, Set-VMFirmware), and
"Should I create a generation 1 or 2 virtual machine in Hyper-V?".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from bootpoint_common.units import KiB, MiB, round_up
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.replica import Replica, ReplicaDisk

#: Disk buses of a job. ``virtio`` stands for what a paravirtual guest is fastest on, as on KVM.
BUSES = ("virtio", "scsi", "ide")

#: Buses whose disks can have sectors of 4,096 bytes: the firmware of the first generation reads none from IDE.
LARGE_SECTOR_BUSES = ("virtio", "scsi")

#: Network cards of a job; ``legacy`` is an emulated one, of the first generation alone.
CARDS = ("virtio", "netvsc", "legacy")

#: Kinds of controllers: the name, how many a VM has at most, and the places of disks on one.
_IDE, _SCSI = ("IDE", 2, 2), ("SCSI", 4, 64)

#: What the key of a place on a SCSI controller begins at; IDE's are below it.
_SCSI_BASE = 1000

#: A VM's memory is a multiple of this, in bytes.
MEMORY_STEP = 2 * MiB

#: What the size of a disk is a multiple of, in bytes: the host makes disks with physical sectors of 4 KiB, and refuses
#: others (github.com/PowerShell/PowerShell/issues/25761). And the smallest that it makes (virtdisk.h: MaximumSize).
SIZE_STEP, SMALLEST_DISK = 4 * KiB, 3 * MiB

#: Templates of Secure Boot, by whose keys a boot loader must be signed: Windows' own, or Microsoft's for others.
WINDOWS_TEMPLATE, OTHERS_TEMPLATE = "MicrosoftWindows", "MicrosoftUEFICertificateAuthority"


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a disk is attached: ``IDE`` or ``SCSI``, the controller's number, and the place on it."""

    kind: str
    number: int
    location: int

    @property
    def key(self) -> int:
        """Its number among all places of a VM."""
        return (_SCSI_BASE if self.kind == "SCSI" else 0) + self.number * _SCSI[2] + self.location

    def described(self) -> dict[str, Any]:
        """As the module takes it."""
        return {"kind": self.kind, "number": self.number, "location": self.location}


def spot_of(key: int) -> Spot:
    """Return the place with a key."""
    number, location = divmod(key % _SCSI_BASE, _SCSI[2])
    return Spot("SCSI" if key >= _SCSI_BASE else "IDE", number, location)


def generation(replica: Replica) -> int:
    """Return the generation of a replica's VM: its firmware can't be changed later."""
    return 2 if replica.firmware == "uefi" else 1


def free_spot(bus: str, taken: Collection[int], *, first: bool, second_generation: bool) -> Spot | None:
    """Return where a disk is to be attached; None when all places are taken.

    Args:
        bus: Its bus.
        taken: Keys of places that are in use.
        first: Whether it is the boot disk: the firmware of the first generation starts from IDE alone.
        second_generation: Whether the VM is of the second generation, which has no IDE.
    """
    by_ide = not second_generation and (bus == "ide" or first)
    kind, controllers, places = _IDE if by_ide else _SCSI
    spots = (Spot(kind, number, location) for number in range(controllers) for location in range(places))
    return next((spot for spot in spots if spot.key not in taken), None)


def memory(replica: Replica) -> int:
    """Return a VM's memory in bytes: at least what the replica says."""
    return -(-replica.memory_bytes // MEMORY_STEP) * MEMORY_STEP


def secure_boot(replica: Replica, profile: Profile | None) -> str | None:
    """Return the template of Secure Boot for a machine; None to leave it off.

    A Linux has it where its boot loader is a shim, which Microsoft signs; nobody knows whether another one is signed.
    """
    if profile is None or replica.firmware != "uefi":
        return None
    if profile.system.family == "windows":
        return WINDOWS_TEMPLATE
    return OTHERS_TEMPLATE if "shim" in (profile.loader or "").lower() else None


def cards(replica: Replica, profile: Profile | None, *, isolated: bool = False) -> list[dict[str, Any]]:
    """Return a VM's cards as the module takes them.

    Args:
        replica: What it is to be.
        profile: What hardware the machine knows; None: the job's is taken.
        isolated: Whether they are a test's: connected to a switch that leads nowhere.
    """
    native = profile.nic_model if profile is not None and generation(replica) == 1 else None
    return [
        {
            "name": f"Network Adapter {number}",
            "mac": nic.mac.replace(":", "").upper(),
            "switch": nic.network if nic.connect else None,
            "legacy": (native or nic.model) == "legacy",
            "isolated": isolated,
        }
        for number, nic in enumerate(replica.nics, start=1)
    ]


def disk_size(size_bytes: int) -> int:
    """Return how long the host makes a disk for one of the source; what is more is never written to."""
    return max(SMALLEST_DISK, round_up(size_bytes, SIZE_STEP))


def disk(spec: ReplicaDisk, spot: Spot, path: str, *, parent: str | None = None) -> dict[str, Any]:
    """Return a disk that is to be made and attached, as the module takes it."""
    return {
        **spot.described(),
        "path": path,
        "size": disk_size(spec.size_bytes),
        "sector": spec.sector_bytes,
        "fixed": spec.provisioning == "thick",
        "parent": parent,
    }
