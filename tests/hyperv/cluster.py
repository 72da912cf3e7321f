"""A failover cluster: its nodes, its shared volumes, the roles of VMs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from bootpoint_common.units import GiB
from tests.service.process import run

if TYPE_CHECKING:
    from tests.hyperv.host import Host
    from tests.hyperv.machine import Machine

#: Where shared volumes are on every node.
MOUNT = "ClusterStorage"


class Cluster:
    r"""A cluster of hosts that see the same volumes below ``C:\ClusterStorage``.

    Args:
        directory: Where the volumes' files are.
        name: Its name.
        volumes: Sizes of its volumes in bytes, by their names.

    Attributes:
        nodes: Its hosts, in the order in which they joined.
        owners: The node that has each role, by the id of the VM.
    """

    def __init__(self, directory: Path, name: str = "CL1", volumes: dict[str, int] | None = None) -> None:
        self.directory = directory
        self.name = name
        self.volumes = dict(volumes or {"Volume1": 500 * GiB})
        self.nodes: list[Host] = []
        self._mounted: set[Path] = set()
        self.owners: dict[UUID, Host] = {}
        for each in self.volumes:
            (directory / each).mkdir(parents=True, exist_ok=True)

    def mount(self, host: Host) -> None:
        """Let a node have the volumes, as it does while it is up."""
        place = host.roots["C"] / MOUNT
        place.mkdir(exist_ok=True)
        run(["mount", "--bind", str(self.directory), str(place)])
        self._mounted.add(place)

    def unmount(self, host: Host) -> None:
        """Take them from a node that goes down; may be called twice."""
        place = host.roots["C"] / MOUNT
        if place in self._mounted:
            self._mounted.remove(place)
            # A connection that is just ending may still hold it.
            run(["umount", "--lazy", str(place)])

    def add_role(self, machine: Machine, host: Host) -> None:
        """Make a VM highly available."""
        self.owners[machine.id] = host
        machine.is_clustered = True

    def remove_role(self, machine: Machine) -> None:
        """Take that back; the VM stays."""
        del self.owners[machine.id]
        machine.is_clustered = False

    def owner_of(self, vm_id: UUID) -> Host | None:
        """Return the node that has a VM's role; None when it has none."""
        return self.owners.get(vm_id)

    def move(self, machine: Machine, target: Host) -> None:
        """Let another node have a VM, as after a failover or a move by an administrator; it is off then."""
        source = self.owners[machine.id]
        with source.lock, target.lock:
            source.vmms.let_go(machine)
            source.vmms.machines.remove(machine)
            target.vmms.machines.append(machine)
            machine.computer_name = target.name
            self.owners[machine.id] = target
