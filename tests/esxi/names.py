"""The ids of managed objects, as hosts and vCenters give them.

A host calls its fixed objects ``ha-...`` and numbers its machines; a vCenter puts a type before a number (the ids in
VMware's own govmomi simulator, models ``esx`` and ``vpx``).
"""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.esxi.managed import Managed


class HostNames:
    """Those of an ESXi host."""

    root, datacenter, machines, hosts = "ha-folder-root", "ha-datacenter", "ha-folder-vm", "ha-folder-host"
    datastores, networks = "ha-folder-datastore", "ha-folder-network"
    compute, host, pool = "ha-compute-res", "ha-host", "ha-root-pool"
    datacenter_name = "ha-datacenter"

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def machine(self) -> str:
        """Return the id of a new machine."""
        return str(next(self._numbers))

    def snapshot(self, machine: str, number: int) -> str:
        """Return the id of a machine's snapshot."""
        return f"{machine}-snapshot-{number}"

    def datastore(self, name: str) -> str:
        """Return the id of a datastore: its volume's."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, name))

    def network(self, name: str) -> str:
        """Return the id of a network."""
        return f"HaNetwork-{name}"

    def pool_below(self, name: str) -> str:
        """Return the id of a resource pool below the root's."""
        return f"pool-{name}"

    def task(self, entity: Managed, name: str, number: int) -> str:
        """Return the id of a task."""
        return f"haTask-{entity.moid}-vim.{name}-{number}"


class CenterNames(HostNames):
    """Those of a vCenter."""

    root, datacenter, machines, hosts = "group-d1", "datacenter-2", "group-v3", "group-h4"
    datastores, networks = "group-s5", "group-n6"
    compute, host, pool = "domain-s7", "host-9", "resgroup-8"
    datacenter_name = "DC0"

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(21)

    def machine(self) -> str:
        """Return the id of a new machine."""
        return f"vm-{next(self._numbers)}"

    def snapshot(self, machine: str, number: int) -> str:
        """Return the id of a snapshot."""
        return f"snapshot-{next(self._numbers)}"

    def datastore(self, name: str) -> str:
        """Return the id of a datastore."""
        return f"datastore-{next(self._numbers)}"

    def network(self, name: str) -> str:
        """Return the id of a network."""
        return f"network-{next(self._numbers)}"

    def pool_below(self, name: str) -> str:
        """Return the id of a resource pool below the root's."""
        return f"resgroup-{next(self._numbers)}"

    def task(self, entity: Managed, name: str, number: int) -> str:
        """Return the id of a task."""
        return f"task-{number}"
