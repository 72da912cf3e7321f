"""What a standby VM is to be made of."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.units import SECTOR

#: Locally administered prefix of new MAC addresses: QEMU's, which network equipment knows as a VM's.
MAC_PREFIX = "52:54:00"


@dataclass(frozen=True, slots=True)
class Addressing:
    """What the guest's own network configuration is to say of a card.

    Attributes:
        mode: ``source`` (as the source has it, under the card's new name and MAC), ``dhcp`` or ``static``.
        source_name: Name of the card that it stands for, on the source, such as ``eno1``; None where that isn't known.
        source_mac: That card's MAC address.
        addresses: With ``source`` what the source told, with ``static`` the job's one: ``10.9.0.21/24``.
        gateway: Default gateway.
        dns: Name servers.
    """

    mode: str = "source"
    source_name: str | None = None
    source_mac: str | None = None
    addresses: tuple[str, ...] = ()
    gateway: str | None = None
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card of the standby VM.

    Attributes:
        network: The host's network (libvirt network or bridge); None for a card that is not connected.
        model: Device model, such as ``virtio``.
        mac: MAC address, always given (``new`` is resolved when the replica is created).
        connect: Whether the link is up at power-on.
        addressing: What the guest is to know about it.
    """

    network: str | None
    model: str
    mac: str
    connect: bool = True
    addressing: Addressing = Addressing()


@dataclass(frozen=True, slots=True)
class ReplicaDisk:
    """A disk of a replica.

    Attributes:
        slot: Name of the disk within the job.
        size_bytes: Virtual size.
        disk_name: Stem of its files on the host, such as ``erp-standby-system``.
        bus: ``virtio``, ``scsi``, ``sata`` or ``ide``.
        provisioning: ``thin`` or ``thick`` (the base is allocated in full).
        sector_bytes: Logical sectors, as on the source: tables and file systems count in them.
    """

    slot: str
    size_bytes: int
    disk_name: str
    bus: str = "virtio"
    provisioning: str = "thin"
    sector_bytes: int = SECTOR


@dataclass(frozen=True, slots=True)
class Replica:
    """A job's standby VM on one host: what `create` makes, and what names it in every other verb.

    Attributes:
        replica_id: Its id, stored in the journal; a journal with another id is never touched.
        job: The job's name.
        vm_name: Name of the VM on the host.
        storage: The host's storage (libvirt pool, or an absolute directory).
        folder: Folder below the storage; empty for the storage itself.
        cpus: Virtual CPUs.
        memory_bytes: Memory.
        firmware: ``bios`` or ``uefi``.
        disks: In the job's order; the first one is the boot disk.
        nics: In the source's order.
        resource_pool: ESXi's resource pool; empty for the host's.
    """

    replica_id: UUID
    job: str
    vm_name: str
    storage: str
    folder: str
    cpus: int
    memory_bytes: int
    firmware: str
    disks: tuple[ReplicaDisk, ...]
    nics: tuple[Nic, ...] = ()
    resource_pool: str = ""

    def machine_name(self, test_id: str | None) -> str:
        """Return the name of the standby VM, or of a test's."""
        return self.vm_name if test_id is None else f"{self.vm_name}-test-{test_id}"


def new_mac(prefix: str = MAC_PREFIX) -> str:
    """Make a MAC address that no other machine is likely to have.

    Args:
        prefix: Its first three bytes, of which vSphere lets only some be set by hand, and with them only a fourth byte
            below 0x40.
    """
    first, *rest = secrets.token_bytes(3)
    return ":".join((prefix, f"{first & 0x3F:02x}", *(f"{byte:02x}" for byte in rest)))
