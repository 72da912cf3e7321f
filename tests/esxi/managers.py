"""Managers that only answer questions: licences, and where machines are."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from tests.esxi.managed import Managed, operation


class LicenceManager(Managed):
    """Says what may be done.

    A host without a licence runs in evaluation, key ``eval``; the free one's is ``esxBasic`` (looked for by the tools
    named in vmware/pyvmomi issue 625).
    """

    kind = vim.LicenseManager

    @property
    def licenses(self) -> list[Any]:
        """The host's licence."""
        free = self.world.trouble.free_licence
        name = f"VMware vSphere {self.world.guise.version[0]} Hypervisor" if free else "Evaluation Mode"
        key, edition = (
            ("0XXXX-XXXXX-XXXXX-XXXXX-XXXX0", "esxBasic") if free else ("00000-00000-00000-00000-00000", "eval")
        )
        return [vim.LicenseManager.LicenseInfo(licenseKey=key, editionKey=edition, name=name, total=0, costUnit="")]


class SearchIndex(Managed):
    """Finds machines."""

    kind = vim.SearchIndex

    @operation
    def find_by_uuid(
        self, uuid: str, vm_search: bool, datacenter: Any = None, instance_uuid: bool | None = None
    ) -> Any:
        """Return the machine with an id."""
        for machine in self.world.children(self.world.machines):
            if uuid == (machine.config.instanceUuid if instance_uuid else machine.config.uuid):
                return machine.reference
        return None

    @operation
    def find_by_inventory_path(self, inventory_path: str) -> Any:
        """Return the machine at ``DATACENTER/vm/NAME``."""
        start = f"{self.world.datacenter.name}/vm/"
        for machine in self.world.children(self.world.machines):
            if inventory_path.strip("/") == start + machine.name:
                return machine.reference
        return None
