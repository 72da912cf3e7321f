"""What a VM is made of at this moment, and the few acts that move it: snapshots, reverts, power.

Sources: vSphere Web Services SDK Programming Guide, "Snapshots", and the API reference on `VirtualMachine`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi.entity import moref
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.replica import Replica

#: Seconds that a revert or a power-on may take on a busy host.
ACT_TIMEOUT = 600.0

#: Key of a VM's own configuration that says which point its leaves are open for. A revert takes it away: by it the leaf
#: of a point is told from one that somebody made by a revert, which may have the same name.
MARK = "bootpoint.open"


@dataclass(frozen=True, slots=True)
class Node:
    """A snapshot of a VM: id, name, description, the id of the one beneath it, and those of the ones above it."""

    moref: str
    name: str
    description: str
    parent: str | None
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A VM at one moment.

    Attributes:
        on: Whether it runs, or is suspended.
        devices: Its devices; disks with the files of their leaves.
        current: Id of the snapshot that the leaves stand on; None when there is none.
        tree: All snapshots by their ids.
        consolidation_needed: Whether deltas of removed snapshots are left.
        mark: What `mark` has written into its configuration since it was reverted the last time.
    """

    on: bool
    devices: list[Any]
    current: str | None
    tree: dict[str, Node]
    consolidation_needed: bool
    mark: str | None

    def disk(self, key: int) -> Any | None:
        """Return the disk with a key."""
        return next((each for each in disks(self.devices) if each.key == key), None)

    def leaf(self, key: int) -> str | None:
        """Return the file that writes to a disk go to; None when there is no such disk."""
        disk = self.disk(key)
        return None if disk is None else str(disk.backing.fileName)


def disks(devices: list[Any]) -> list[Any]:
    """Return the disks among devices."""
    from pyVmomi import vim

    return [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]


def read_state(host: Host, vm: Any) -> State:
    """Read what a VM is made of."""
    paths = ("runtime.powerState", "config.hardware.device", "config.extraConfig", "snapshot")
    found = host.client.read(vm, *paths, "runtime.consolidationNeeded")
    snapshot = found.get("snapshot")
    current = snapshot.currentSnapshot if snapshot is not None else None
    roots = snapshot.rootSnapshotList if snapshot is not None else ()
    return State(
        on=found["runtime.powerState"] != "poweredOff",
        devices=list(found["config.hardware.device"]),
        current=moref(current) if current is not None else None,
        tree={node.moref: node for root in roots or () for node in _nodes(root, None)},
        consolidation_needed=bool(found.get("runtime.consolidationNeeded")),
        mark={option.key: option.value for option in found.get("config.extraConfig") or ()}.get(MARK),
    )


def _nodes(tree: Any, parent: str | None) -> Iterator[Node]:
    own, above = moref(tree.snapshot), tree.childSnapshotList or ()
    yield Node(own, tree.name, tree.description or "", parent, tuple(moref(child.snapshot) for child in above))
    for child in above:
        yield from _nodes(child, own)


def snapshot_files(host: Host, snapshots: list[str]) -> dict[str, dict[int, str]]:
    """Return, for each snapshot, the file of each disk by the disk's key."""
    found = host.client.read_each([host.snapshot(each) for each in snapshots], "config.hardware.device")
    return {
        moref(entity): {disk.key: str(disk.backing.fileName) for disk in disks(values["config.hardware.device"])}
        for entity, values in found
    }


def stored_bytes(host: Host, vm: Any) -> dict[str, int]:
    """Return what each link of a VM's disks takes on its datastore, by the file of the link's descriptor."""
    host.client.call(vm.RefreshStorageInfo)
    found = host.client.read(vm, "layoutEx")["layoutEx"]
    files = {file.key: file for file in found.file or ()}
    chains = [disk.chain for disk in found.disk or ()]
    chains += [disk.chain for snapshot in found.snapshot or () for disk in snapshot.disk or ()]
    sizes: dict[str, int] = {}
    for chain in chains:
        for unit in chain or ():
            members = [files[key] for key in unit.fileKey if key in files]
            name = next((file.name for file in members if file.type == "diskDescriptor"), None)
            if name is not None:
                sizes[name] = sum(file.size for file in members)
    return sizes


def refuse_running(host: Host, replica: Replica, state: State) -> None:
    """Refuse what can't be done to a VM that runs.

    Raises:
        RefusedError: ``standby_running``.
    """
    if state.on:
        raise host.problem(
            Code.STANDBY_RUNNING,
            f"{replica.vm_name} is running on host {host.name}",
            replica,
            hint="stop it first: `bootpoint vm stop`",
        )


def make_snapshot(host: Host, vm: Any, name: str, description: str) -> str:
    """Make a snapshot of a VM that is off, and return its id; its leaves are new and empty then."""
    result = host.client.run(
        lambda: vm.CreateSnapshot_Task(name=name, description=description, memory=False, quiesce=False)
    )
    return moref(result)


def revert(host: Host, snapshot: str) -> None:
    """Let a VM stand on a snapshot, with new and empty leaves; its hardware is the snapshot's then."""
    entity = host.snapshot(snapshot)
    host.client.run(lambda: entity.RevertToSnapshot_Task(suppressPowerOn=True), timeout=ACT_TIMEOUT)


def power_on(host: Host, vm: Any) -> None:
    """Start a VM."""
    host.client.run(lambda: vm.PowerOnVM_Task(), timeout=ACT_TIMEOUT)  # noqa: PLW0108 - pyVmomi's methods are no plain functions


def power_off(host: Host, vm: Any) -> None:
    """Stop a VM as pulling its plug does; nothing when it is off."""
    try:
        host.client.run(lambda: vm.PowerOffVM_Task(), timeout=ACT_TIMEOUT)  # noqa: PLW0108
    except BootpointError:
        if host.client.read(vm, "runtime.powerState")["runtime.powerState"] != "poweredOff":
            raise


def reconfigure(host: Host, vm: Any, spec: Any) -> None:
    """Change a VM's configuration."""
    host.client.run(lambda: vm.ReconfigVM_Task(spec=spec))


def mark(host: Host, vm: Any, point_id: UUID) -> None:
    """Write into a VM's configuration which point its leaves are open for; see `MARK`."""
    from pyVmomi import vim

    option = vim.option.OptionValue(key=MARK, value=str(point_id))
    reconfigure(host, vm, vim.vm.ConfigSpec(extraConfig=[option]))


def rename(host: Host, vm: Any, name: str) -> None:
    """Give a VM another name; its files keep theirs.

    Raises:
        RefusedError: ``vm_name_taken``.
    """
    host.client.run(lambda: vm.Rename_Task(newName=name))


def destroy(host: Host, vm: Any) -> None:
    """Delete a VM with its files."""
    host.client.run(lambda: vm.Destroy_Task(), timeout=ACT_TIMEOUT)  # noqa: PLW0108
