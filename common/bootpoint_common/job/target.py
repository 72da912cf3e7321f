"""Where a job's replicas live: the host, the standby VM, its storage and its network cards."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace


class Firmware(enum.StrEnum):
    """How a VM starts."""

    BIOS = "bios"
    UEFI = "uefi"


class Provisioning(enum.StrEnum):
    """Whether a replica's base takes its full size at once."""

    THIN = "thin"
    THICK = "thick"


class IpMode(enum.StrEnum):
    """Where a network card of the standby gets its address from."""

    SOURCE = "source"  #: the source's own configuration, unchanged
    DHCP = "dhcp"
    STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """The standby VM; None: as the source."""

    name: str
    cpus: int | None = None
    memory_bytes: int | None = None
    firmware: Firmware | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Where the replica's files lie.

    Attributes:
        name: The host's storage: libvirt pool, datastore, volume, or an absolute directory.
        folder: Folder below it, relative; empty for the storage itself.
        disk_name: Stem of each disk's files, with ``{vm}`` and ``{slot}``.
        provisioning: Thin or thick.
        bus: Disk bus; None for the host kind's own.
        resource_pool: ESXi's resource pool; empty for the host's.
    """

    name: str = "default"
    folder: str = ""
    disk_name: str = "{vm}-{slot}"
    provisioning: Provisioning = Provisioning.THIN
    bus: str | None = None
    resource_pool: str = ""

    def disk_stem(self, vm: str, slot: str) -> str:
        """Return the stem of one disk's files."""
        return self.disk_name.replace("{slot}", slot).replace("{vm}", vm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ip:
    """Addresses of a network card; all but the mode only where it is static."""

    mode: IpMode = IpMode.SOURCE
    address: str | None = None
    gateway: str | None = None
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network card of the standby.

    Attributes:
        network: The host's network; None for its only one.
        model: Device model; None for the host kind's own.
        mac: ``new``, ``keep``, or an address in lower case.
        ip: Its addresses.
        connect: Whether the link is up at power-on.
    """

    network: str | None = None
    model: str | None = None
    mac: str = "new"
    ip: Ip = Ip()
    connect: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host that keeps a replica.

    Attributes:
        host: Its name; with the job's name the key of the replica.
        pool: The workers that serve it; None for the host's pool.
        points: How many boot points are kept.
        lag_limit_seconds: A point that falls behind by more is given up.
        vm: The standby VM.
        storage: Where its files lie.
        nics: In the source's order; empty: every source card on the host's only network.
    """

    host: str
    vm: Vm
    pool: str | None = None
    points: int = 14
    lag_limit_seconds: float = 43200.0
    storage: Storage = Storage()
    nics: tuple[Nic, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDefaults:
    """What a host decides where the job file doesn't.

    Attributes:
        pool: The host's pool.
        bus: Disk bus of its kind.
        nic_model: Network card of its kind.
    """

    pool: str
    bus: str = "virtio"
    nic_model: str = "virtio"


def fill_host_defaults(targets: tuple[Target, ...], hosts: Mapping[str, HostDefaults]) -> tuple[Target, ...]:
    """Return the targets with pool, bus and card models of their hosts filled in; unknown hosts are left alone.

    Compare two jobs only after this: a bus that was left out and one that was written out are then the same.
    """
    return tuple(_fill(target, hosts.get(target.host)) for target in targets)


def _fill(target: Target, host: HostDefaults | None) -> Target:
    if host is None:
        return target
    return replace(
        target,
        pool=target.pool or host.pool,
        storage=replace(target.storage, bus=target.storage.bus or host.bus),
        nics=tuple(replace(nic, model=nic.model or host.nic_model) for nic in target.nics),
    )
