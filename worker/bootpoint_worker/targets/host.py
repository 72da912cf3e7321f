"""A target host: how it is reached, and what it answers about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.replica import MAC_PREFIX, Replica


@dataclass(frozen=True, slots=True)
class Storage:
    """A place for files on a host; sizes in bytes."""

    name: str
    path: str
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Network:
    """A network that a VM can be connected to; kind: ``bridge``, ``nat``, ``isolated`` or ``route``."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """A VM on a host.

    Attributes:
        name: Its name.
        uuid: The hypervisor's id.
        state: ``running`` or ``off``.
        replica_id: The replica it belongs to, if bootpoint made it.
    """

    name: str
    uuid: str
    state: str
    replica_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What came of telling a guest that runs what addresses one of its cards is to have.

    Attributes:
        mac: The card's MAC address.
        told: Whether the guest has taken them.
        text: A sentence: what it was told, or why it wasn't and what is to be set by hand.
    """

    mac: str
    told: bool
    text: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a failover cluster: its name, and its state: ``up``, ``down``, ``paused`` or ``joining``."""

    name: str
    state: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """The failover cluster that a host is a node of.

    Attributes:
        name: Its name; None where it refuses to say.
        node: The host's own name in it.
        nodes: All nodes.
    """

    name: str | None
    node: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """What a VM is to its host's failover cluster.

    Attributes:
        name: Name of its role there; None where it has none.
        node: The node that it is on; None without a role.
        changed: Whether that was otherwise before.
    """

    name: str | None
    node: str | None
    changed: bool


@dataclass(frozen=True, slots=True)
class HostInfo:
    """A target host as it answers now: the fields of ``host show``.

    Attributes:
        version: Versions of the hypervisor for people.
        cpus: CPUs of the host.
        memory_bytes: Its memory.
        storages: Where replicas can live.
        networks: What VMs can be connected to.
        buses: Disk buses.
        nic_models: Network card models.
        vms: All VMs on it.
        problems: What is missing, each a sentence with its remedy; empty when all is well.
        hints: What it could have besides, each a sentence; without it some machines don't boot there.
        running_memory_bytes: Memory that its running VMs have been given.
        large_sector_buses: Those disk buses whose disks can have sectors of 4,096 bytes.
        mac_prefix: What new MAC addresses begin with there; see `replica.new_mac`.
        licence: Its licence, for people; None where it has none, or the account may not see it.
        resource_pools: Names of the pools that a standby can run in, but for the host's own.
        hardware_versions: Versions of virtual hardware that it offers, the oldest first.
        disk_library: What reaches its disks on the worker's machine, with versions; None where none is needed, or it
            can't be used.
        cluster: The failover cluster that it belongs to; None for none.
    """

    version: str
    cpus: int
    memory_bytes: int
    storages: tuple[Storage, ...]
    networks: tuple[Network, ...]
    buses: tuple[str, ...]
    nic_models: tuple[str, ...]
    vms: tuple[VirtualMachine, ...]
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    running_memory_bytes: int = 0
    large_sector_buses: tuple[str, ...] = ()
    mac_prefix: str = MAC_PREFIX
    licence: str | None = None
    resource_pools: tuple[str, ...] = ()
    hardware_versions: tuple[str, ...] = ()
    disk_library: str | None = None
    cluster: Cluster | None = None


@dataclass(frozen=True, slots=True)
class HostAccess:
    """How a host is reached; secrets are in the clear here and never printed.

    Attributes:
        name: The host's name in bootpoint.
        kind: ``kvm``, ``esxi``, ``hyperv`` or ``fake``.
        address: DNS name or address; ``local`` for the machine the worker runs on.
        port: TCP port of its control service.
        user: Account.
        fingerprint: Key fingerprint recorded at the first contact (``SHA256:…``).
        ssh_key: Private key, PEM text.
        password: Password.
        settings: What only one kind knows: ``virt_type`` (``kvm`` or ``qemu``), …
        nbd_tls: This process's certificates for NBD; None for none.
    """

    name: str
    kind: str
    address: str
    port: int
    user: str
    fingerprint: str | None = None
    ssh_key: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    nbd_tls: Path | None = None


def taken(host: str, replica: Replica, why: str) -> BootpointError:
    """Return the error of a VM's name that somebody else has there."""
    return error(
        Code.VM_NAME_TAKEN,
        f"host {host} can't take a VM named {replica.vm_name}: {why}",
        key="vm.name",
        value=replica.vm_name,
        job=replica.job,
        host=host,
    )


def unreachable(host: str, why: object) -> BootpointError:
    """Return the error of a host that doesn't answer."""
    return error(Code.HOST_UNREACHABLE, f"host {host} does not answer: {why}", host=host)
