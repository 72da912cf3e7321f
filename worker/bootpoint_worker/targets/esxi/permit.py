"""Whether a host may be used at all: its licence, who manages it, and what the account may do there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.fault import LICENCE_HINT, MEANINGS, VCENTER_HINT

if TYPE_CHECKING:
    from pyVmomi import vim

#: Edition keys of the free licence, as hosts have reported them since vSphere 5. Not authoritative: `RestrictedVersion`
#: of any call means the same.
FREE_EDITIONS = ("esxBasic", "esx.hypervisor.free", "esx.free")

#: Part of the free licence's name in all versions: ``VMware vSphere 8 Hypervisor``.
FREE_NAME = "hypervisor"


@dataclass(frozen=True, slots=True)
class Right:
    """A privilege of vSphere that bootpoint needs.

    Attributes:
        kind: Kind of object on which the account needs it: ``Folder`` stands for folders of VMs.
        privilege: Its id, as faults and roles name it.
        purpose: What for.
    """

    kind: str
    privilege: str
    purpose: str


#: The role that `docs/esxi.md` describes. Sources: vSphere Web Services API reference, "Required Privileges" of each
#: method; VDDK Programming Guide, "Credentials and Privileges for VMDK Access".
RIGHTS = (
    Right("Folder", "VirtualMachine.Inventory.Create", "make a standby"),
    Right("Folder", "VirtualMachine.Inventory.Delete", "delete a standby, or a test"),
    Right("Folder", "VirtualMachine.Config.AddNewDisk", "give it disks"),
    Right("Folder", "VirtualMachine.Config.AddExistingDisk", "give a test a disk above a boot point"),
    Right("Folder", "VirtualMachine.Config.AddRemoveDevice", "give it controllers and network cards"),
    Right("Folder", "VirtualMachine.Config.EditDevice", "change its network cards"),
    Right("Folder", "VirtualMachine.Config.RemoveDisk", "take a disk off that the job no longer has"),
    Right("Folder", "VirtualMachine.Config.CPUCount", "change its CPUs"),
    Right("Folder", "VirtualMachine.Config.Memory", "change its memory"),
    Right("Folder", "VirtualMachine.Config.Settings", "set firmware and guest"),
    Right("Folder", "VirtualMachine.Config.AdvancedConfig", "set what has no switch of its own"),
    Right("Folder", "VirtualMachine.Config.Annotation", "write its notes, by which it is known again"),
    Right("Folder", "VirtualMachine.Config.Rename", "rename it with its job, and into the trash and out of it"),
    Right("Folder", "VirtualMachine.State.CreateSnapshot", "commit a boot point"),
    Right("Folder", "VirtualMachine.State.RemoveSnapshot", "consolidate a boot point"),
    Right("Folder", "VirtualMachine.State.RevertToSnapshot", "throw an unfinished point away, and revert"),
    Right("Folder", "VirtualMachine.Interact.PowerOn", "start a standby, or a test"),
    Right("Folder", "VirtualMachine.Interact.PowerOff", "stop it"),
    Right("Folder", "VirtualMachine.Interact.CreateScreenshot", "look whether it has booted"),
    Right("Folder", "VirtualMachine.Provisioning.DiskRandomAccess", "write to its disks"),
    Right("Folder", "VirtualMachine.Provisioning.DiskRandomRead", "read its disks"),
    Right("Datastore", "Datastore.AllocateSpace", "put disks there"),
    Right("Datastore", "Datastore.Browse", "see the files of a standby"),
    Right("Datastore", "Datastore.FileManagement", "write journal and runbook beside the disks"),
    Right("Network", "Network.Assign", "connect a standby to a network"),
    Right("ResourcePool", "Resource.AssignVMToPool", "run a standby in a pool"),
)


def require_permitted(client: Client) -> str | None:
    """Refuse a host with the free licence, one that a vCenter manages, and an account that lacks a right everywhere.

    Returns:
        The licence, for people; None where the account may not see it.

    Raises:
        FatalError: ``host_licence``, ``host_unsupported``, ``host_permission``.
    """
    if not client.is_vcenter:
        _require_unmanaged(client)
    licence = _licence(client)
    _require_rights(client)
    return licence


def _licence(client: Client) -> str | None:
    manager = client.content.licenseManager
    licences = client.read(manager, optional=["licenses"]).get("licenses") or []
    # A vCenter lists all that its owner has; no free host can be in one.
    for each in () if client.is_vcenter else licences:
        if each.editionKey in FREE_EDITIONS or FREE_NAME in each.name.lower():
            raise error(
                Code.HOST_LICENCE,
                f"host {client.host} has the free licence {each.name} ({each.editionKey})",
                key="licence",
                value=each.editionKey,
                hint=LICENCE_HINT,
                host=client.host,
            )
    return "; ".join(dict.fromkeys(_described(each) for each in licences)) or None


def _described(licence: vim.LicenseManager.LicenseInfo) -> str:
    named = {pair.key: pair.value for pair in licence.properties or ()}
    end = named.get("expirationDate")
    until = f", until {end:%Y-%m-%d}" if isinstance(end, datetime) else ""
    return f"{licence.name} ({licence.editionKey}{until})"


def _require_unmanaged(client: Client) -> None:
    for _, found in client.read_all("HostSystem", "summary.managementServerIp"):
        if manager := found.get("summary.managementServerIp"):
            raise error(
                Code.HOST_UNSUPPORTED,
                f"host {client.host} is managed by the vCenter at {manager}",
                key="address",
                value=manager,
                hint=VCENTER_HINT.replace("VCENTER", manager),
                host=client.host,
            )


def _require_rights(client: Client) -> None:
    """Compare the account's roles with `RIGHTS`; a right counts that it has on one object of the kind."""
    manager = client.content.authorizationManager
    roles = client.read(manager, optional=["roleList"]).get("roleList")
    if not roles:
        return
    privileges = {role.roleId: set(role.privilege) for role in roles}
    missing = []
    for kind in dict.fromkeys(right.kind for right in RIGHTS):
        found = client.read_all(kind, optional=["effectiveRole"])
        held = _held((values.get("effectiveRole") for _, values in found), privileges)
        missing += [right for right in RIGHTS if right.kind == kind and right.privilege not in held]
    if missing:
        listed = ", ".join(f"{right.privilege} (to {right.purpose})" for right in missing)
        raise error(
            Code.HOST_PERMISSION,
            f"the account on host {client.host} lacks {listed}",
            key="user",
            hint=MEANINGS["NoPermission"].hint,
            host=client.host,
        )


def _held(roles: Iterable[Any], privileges: dict[int, set[str]]) -> set[str]:
    return {privilege for found in roles for role in found or () for privilege in privileges.get(role, ())}
