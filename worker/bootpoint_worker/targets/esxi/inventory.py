"""The VMs of a host that bootpoint made, by what their notes say.

The notes are written before the first snapshot, so they are in every snapshot, and a revert keeps them. A VM that
somebody renames, or moves to another folder or datastore, is still known by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bootpoint_worker.targets.esxi import datastore
from bootpoint_worker.targets.esxi.entity import moref
from bootpoint_worker.targets.host import VirtualMachine

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

#: The line of the notes by which a VM is known.
_MARK = re.compile(r"^bootpoint-replica: (?P<replica>[0-9a-f-]{36})(?: test (?P<test>\S+))?$", re.MULTILINE)

_NOTES = """\
{what} of the job {job}, made by bootpoint: start, revert and delete it with `bootpoint vm`, or by its RUNBOOK.txt.
bootpoint-replica: {replica}{test}"""


def notes(replica_id: UUID, job: str, test_id: str | None = None) -> str:
    """Return the notes of a standby, or of a test of one."""
    what = "Standby" if test_id is None else "Test VM"
    return _NOTES.format(what=what, job=job, replica=replica_id, test=f" test {test_id}" if test_id else "")


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM as the inventory shows it.

    Attributes:
        entity: The managed object.
        name: Its name.
        on: Whether it runs, or is suspended: its disks are in use.
        vmx: Datastore path of its definition; None where the host doesn't know it.
        uuid: vSphere's instance id.
        replica_id: The replica that its notes name.
        test_id: The test that they name.
        memory_bytes: Its memory.
    """

    entity: Any
    name: str
    on: bool
    vmx: str | None
    uuid: str
    replica_id: UUID | None
    test_id: str | None
    memory_bytes: int

    @property
    def moref(self) -> str:
        """Its id."""
        return moref(self.entity)

    @property
    def directory(self) -> str:
        """Datastore path of its folder."""
        return datastore.parent(self.vmx or "")

    @property
    def described(self) -> VirtualMachine:
        """As the interface has it."""
        return VirtualMachine(self.name, self.uuid, "running" if self.on else "off", self.replica_id)


def machines(client: Client) -> list[Vm]:
    """Return every VM of a host."""
    return [_vm(entity, found) for entity, found in client.read_all("VirtualMachine", *_PATHS)]


def _vm(entity: Any, found: dict[str, Any]) -> Vm:
    mark = _MARK.search(found.get("config.annotation") or "")
    return Vm(
        entity=entity,
        name=found["name"],
        on=found.get("runtime.powerState") not in (None, "poweredOff"),
        vmx=found.get("config.files.vmPathName") or None,
        uuid=found.get("config.instanceUuid") or "",
        replica_id=UUID(mark["replica"]) if mark else None,
        test_id=mark["test"] if mark else None,
        memory_bytes=(found.get("config.hardware.memoryMB") or 0) << 20,
    )
