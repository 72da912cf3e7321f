"""Where a VM can run: the computing resource behind a datastore, and what it knows of guests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bootpoint_common.errors import Code
from bootpoint_common.units import MiB
from bootpoint_worker.targets.esxi.datastore import Datastore
from bootpoint_worker.targets.esxi.entity import among
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.replica import Replica


@dataclass(frozen=True, slots=True)
class Compute:
    """A host or a cluster.

    Attributes:
        pool: The resource pool for VMs.
        host: The host that a VM is put on; None where there is no choice.
        browser: What it knows of hardware.
        folder: Where its VMs stand in the inventory.
    """

    pool: Any
    host: Any
    browser: Any
    folder: Any


def find_compute(host: Host, store: Datastore, replica: Replica) -> Compute:
    """Return where a replica's VMs run.

    Raises:
        FatalError: ``host_unsupported``: nothing that is connected sees the datastore, or there is no such pool.
    """
    client = host.client
    folder = client.read(store.datacenter, "vmFolder")["vmFolder"]
    for _, found in client.read_all("ComputeResource", "environmentBrowser", "resourcePool", "datastore", "host"):
        if not among(store.entity, found.get("datastore", ())):
            continue
        on = _host_with(host, found.get("host", ()), store) if client.is_vcenter else None
        pool = _pool(host, found["resourcePool"], replica)
        return Compute(pool, on, found["environmentBrowser"], folder)
    text = f"no host of {host.name} has the datastore {store.name!r}"
    raise host.problem(Code.HOST_UNSUPPORTED, text, replica, key="storage.name", value=store.name)


def _host_with(host: Host, systems: Any, store: Datastore) -> Any:
    """Return a connected host that mounts a datastore, the one with most memory free first."""
    used, whole = "summary.quickStats.overallMemoryUsage", "summary.hardware.memorySize"
    paths = ("datastore", "runtime.connectionState", used, whole)
    fitting = [
        (entity, found)
        for entity, found in host.client.read_each(systems, *paths)
        if found.get("runtime.connectionState") == "connected"
        and among(store.entity, found.get("datastore", ()))
    ]

    def room(item: tuple[Any, dict[str, Any]]) -> int:
        return int(item[1].get(whole) or 0) - int(item[1].get(used) or 0) * MiB

    return max(fitting, key=room)[0] if fitting else None


def _pool(host: Host, root: Any, replica: Replica) -> Any:
    if not replica.resource_pool:
        return root
    found = host.client.read_all("ResourcePool", "name", root=root)
    pool = next((entity for entity, values in found if values["name"] == replica.resource_pool), None)
    if pool is None:
        known = ", ".join(sorted(values["name"] for _, values in found)) or "none"
        text = f"host {host.name} has no resource pool {replica.resource_pool!r} there; there are: {known}"
        raise host.problem(
            Code.HOST_UNSUPPORTED, text, replica, key="storage.resource_pool", value=replica.resource_pool
        )
    return pool


def guests(host: Host, browser: Any) -> list[str]:
    """Return the ids of the guests that a host's default hardware supports."""
    option = host.client.call(lambda: browser.QueryConfigOption(key=None, host=None))
    return [] if option is None else [each.id for each in option.guestOSDescriptor or ()]
