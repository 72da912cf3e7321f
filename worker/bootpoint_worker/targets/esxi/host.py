"""What all verbs share: the session with one host or vCenter, and how its data is reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.datastore import Datastore, find_datastore
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.replica import Replica


def no_step(_name: str) -> None:
    """Pass a step by; tests put something here that dies."""


@dataclass(frozen=True, slots=True)
class Host:
    """One ESXi host or vCenter.

    Attributes:
        access: How it is reached.
        client: The session.
        step: Called with a name before each step that a crash could separate from the one before.
    """

    access: HostAccess
    client: Client
    step: Callable[[str], None] = no_step
    _stores: dict[str, Datastore] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Its name in bootpoint."""
        return self.access.name

    def store(self, name: str) -> Datastore:
        """Return a datastore; each is looked for once in a session.

        Raises:
            FatalError: ``storage_unknown``.
        """
        if name not in self._stores:
            self._stores[name] = find_datastore(self.client, name)
        return self._stores[name]

    def snapshot(self, moref: str) -> Any:
        """Return the managed object of a snapshot."""
        return self.client.managed("VirtualMachineSnapshot", moref)

    def taken(self, replica: Replica, why: str) -> BootpointError:
        """Return the error of a name that somebody else has."""
        return error(
            Code.VM_NAME_TAKEN,
            f"host {self.name} can't take a VM named {replica.vm_name}: {why}",
            key="vm.name",
            value=replica.vm_name,
            job=replica.job,
            host=self.name,
        )

    def problem(self, code: Code, text: str, replica: Replica, **more: Any) -> BootpointError:
        """Return an error about a replica on this host."""
        return error(code, text, job=replica.job, host=self.name, **more)
