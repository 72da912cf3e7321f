"""What a host or a vCenter is and has."""

from __future__ import annotations

from collections.abc import Iterator

from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.means import find_means
from bootpoint_worker.targets.esxi.permit import require_permitted
from bootpoint_worker.targets.host import HostAccess, HostInfo, Network, Storage

#: Tag of the port group by which a distributed switch reaches its network cards: no VM is connected to it.
_UPLINK_TAG = "SYSTEM/DVS.UPLINKPG"

#: Likewise, part of its name, where the tag isn't told.
_UPLINK_NAME = "-DVUplinks-"


def inspect_host(client: Client, access: HostAccess) -> HostInfo:
    """Ask the host what it is and has, but for its VMs, and for what the driver makes of its hardware.

    Args:
        client: The session.
        access: How it is reached; its settings say where the disk library is.

    Raises:
        RetryableError: ``host_unreachable``.
        FatalError: ``host_licence``, ``host_unsupported``, ``host_permission``; see `require_permitted`.
    """
    licence = require_permitted(client)
    about = client.content.about
    hosts = client.read_all("HostSystem", "summary.hardware.numCpuThreads", "summary.hardware.memorySize")
    means = find_means(access, about.version)
    return HostInfo(
        version=about.fullName,
        cpus=sum(found.get("summary.hardware.numCpuThreads") or 0 for _, found in hosts),
        memory_bytes=sum(found.get("summary.hardware.memorySize") or 0 for _, found in hosts),
        storages=tuple(_storages(client)),
        networks=tuple(_networks(client)),
        buses=(),
        nic_models=(),
        vms=(),
        problems=means.problems,
        hints=(*means.hints, *_away(client)),
        licence=licence,
        resource_pools=tuple(sorted(_pools(client))),
        hardware_versions=tuple(_hardware_versions(client)),
        disk_library=means.description,
    )


def _storages(client: Client) -> Iterator[Storage]:
    paths = ("name", "summary.url", "summary.capacity", "summary.freeSpace", "summary.accessible")
    for _, found in sorted(client.read_all("Datastore", *paths), key=lambda each: str(each[1]["name"])):
        if found.get("summary.accessible"):
            size, free = found["summary.capacity"], found["summary.freeSpace"]
            yield Storage(found["name"], found.get("summary.url") or "", size, free)


def _away(client: Client) -> Iterator[str]:
    """Yield a sentence about each datastore that the host knows and can't reach."""
    for _, found in client.read_all("Datastore", "name", "summary.accessible"):
        if not found.get("summary.accessible"):
            yield f"datastore {found['name']} can't be reached: look at it in the vSphere client"


def _networks(client: Client) -> Iterator[Network]:
    """Yield the networks; isolated is one whose switches have no network card on any host."""
    wired = _wired(client)
    uplinks = {
        found["name"]
        for _, found in client.read_all("DistributedVirtualPortgroup", "name", "tag")
        if _UPLINK_NAME in found["name"] or any(tag.key == _UPLINK_TAG for tag in found.get("tag") or ())
    }
    names = {found["name"] for _, found in client.read_all("Network", "name")}
    for name in sorted(names - uplinks):
        yield Network(name, "bridge" if wired.get(name, True) else "isolated")


def _wired(client: Client) -> dict[str, bool]:
    """Return, by port group of standard switches, whether a network card is behind it."""
    wired: dict[str, bool] = {}
    for _, found in client.read_all("HostSystem", optional=["config.network.portgroup", "config.network.vswitch"]):
        cards = {switch.name: bool(switch.pnic) for switch in found.get("config.network.vswitch") or ()}
        for group in found.get("config.network.portgroup") or ():
            wired[group.spec.name] = wired.get(group.spec.name, False) or cards.get(group.spec.vswitchName, True)
    return wired


def _pools(client: Client) -> set[str]:
    """Return the names of the resource pools, without those that hosts and clusters have of their own."""
    from pyVmomi import vim

    found = client.read_all("ResourcePool", "name", "parent")
    return {values["name"] for _, values in found if isinstance(values.get("parent"), vim.ResourcePool)}


def _hardware_versions(client: Client) -> list[str]:
    """Return the versions of virtual hardware that a VM can be made with on all hosts, the oldest first."""
    offered: list[set[str]] = []
    for _, found in client.read_all("ComputeResource", "environmentBrowser"):
        options = client.call(found["environmentBrowser"].QueryConfigOptionDescriptor) or ()
        offered.append({option.key for option in options if option.createSupported is not False})
    return sorted(set.intersection(*offered) if offered else (), key=lambda key: int(key.rpartition("-")[2]))
