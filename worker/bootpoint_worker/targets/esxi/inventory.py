"""The VMs of a host or a vCenter, as the inventory shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bootpoint_worker.targets.esxi import datastore
from bootpoint_worker.targets.esxi.entity import moref
from bootpoint_worker.targets.snapshots.vm import Vm, owner

if TYPE_CHECKING:
    from bootpoint_worker.targets.esxi.client import Client

#: What is read of each VM. One whose files can't be reached has a name and no configuration.
_PATHS = (
    "name",
    "runtime.powerState",
    "config.annotation",
    "config.files.vmPathName",
    "config.instanceUuid",
    "config.hardware.memoryMB",
)

def machines(client: Client) -> list[Vm]:
    """Return every VM of a host."""
    return [_vm(entity, found) for entity, found in client.read_all("VirtualMachine", *_PATHS)]


def _vm(entity: Any, found: dict[str, Any]) -> Vm:
    replica_id, test_id = owner(found.get("config.annotation") or "")
    vmx = found.get("config.files.vmPathName")
    return Vm(
        id=moref(entity),
        name=found["name"],
        on=found.get("runtime.powerState") not in (None, "poweredOff"),
        directory=datastore.parent(vmx) if vmx else None,
        uuid=found.get("config.instanceUuid") or "",
        replica_id=replica_id,
        test_id=test_id,
        memory_bytes=(found.get("config.hardware.memoryMB") or 0) << 20,
        entity=entity,
    )
