"""What all of the driver shares: the session with one host or vCenter, and its datastores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bootpoint_worker.targets.esxi import datastore
from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.datastore import Datastore, find_datastore
from bootpoint_worker.targets.esxi.runbook import RUNBOOK
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.snapshots import host as shared
from bootpoint_worker.targets.snapshots.host import no_step
from bootpoint_worker.targets.snapshots.vm import Vm

#: First bytes of MAC addresses that may be set by hand: 00:50:56:00:00:00 to 00:50:56:3F:FF:FF (vSphere Networking,
#: "Assign a Static MAC Address").
MAC_PREFIX = "00:50:56"

#: Name of the file that a test's first serial port is written to.
SERIAL = "serial.log"


class Host(shared.Host):
    """One ESXi host or vCenter.

    Args:
        access: How it is reached.
        step: As in `shared.Host`.

    Attributes:
        access: How it is reached.
        client: The session.
    """

    buses = {"virtio": "pvscsi", "scsi": "lsilogic"}  # noqa: RUF012 - never changed
    mac_prefix = MAC_PREFIX
    suffixes = (".vmdk",)
    runbook = RUNBOOK
    page = "docs/esxi.md"

    def __init__(self, access: HostAccess, step: Callable[[str], None] = no_step) -> None:
        super().__init__(access.name, step)
        self.access = access
        self.client = Client(access=access)
        self._stores: dict[str, Datastore] = {}

    def store(self, name: str) -> Datastore:
        """Return a datastore; each is looked for once in a session; see `shared.Host.store`."""
        if name not in self._stores:
            self._stores[name] = find_datastore(self.client, name)
        return self._stores[name]

    def store_of(self, vm: Vm) -> Datastore:
        """See `shared.Host.store_of`."""
        return self.store(datastore.split(vm.folder)[0])

    def join(self, directory: str, *names: str) -> str:
        """See `shared.Host.join`."""
        return datastore.join(directory, *names)

    def parent(self, path: str) -> str:
        """See `shared.Host.parent`."""
        return datastore.parent(path)

    def name_of(self, path: str) -> str:
        """See `shared.Host.name_of`."""
        return datastore.name_of(path)

    def serial_log(self, directory: str, wanted: str | None) -> str | None:
        """See `shared.Host.serial_log`."""
        return wanted if wanted is not None and wanted.startswith("[") else self.join(directory, SERIAL)

    def snapshot(self, moref: str) -> Any:
        """Return the managed object of a snapshot."""
        return self.client.managed("VirtualMachineSnapshot", moref)

    def close(self) -> None:
        """See `shared.Host.close`."""
        self.client.close()
