"""What a VM is made of at this moment, and the few acts that move it: snapshots, reverts, power.

Sources: vSphere Web Services SDK Programming Guide, "Snapshots", and the API reference on `VirtualMachine`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError
from bootpoint_worker.targets.esxi.entity import moref
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.snapshots.vm import Drive, Node, State, Vm

#: Seconds that a revert or a power-on may take on a busy host.
ACT_TIMEOUT = 600.0

#: Seconds for which a disk that is locked is tried again, and between two attempts: a host lets go of it some time
#: after its last user.
LOCK_TIMEOUT, LOCK_TICK = 10.0, 0.2

#: Key of a VM's own configuration that says which point its leaves are open for; see `Host.mark`.
MARK = "bootpoint.open"

#: The line of a snapshot's description by which a point's snapshot is known, and what reads it.
_POINT_MARK = "bootpoint-point: {}"
_POINT = re.compile(r"^bootpoint-point: ([0-9a-f-]{36})$", re.MULTILINE)


def disks(devices: list[Any]) -> list[Any]:
    """Return the disks among devices."""
    from pyVmomi import vim

    return [device for device in devices if isinstance(device, vim.vm.device.VirtualDisk)]


def disk(state: State, key: int) -> Any | None:
    """Return the device of the disk with a key."""
    return next((each for each in disks(state.devices) if each.key == key), None)


def read_state(host: Host, vm: Vm) -> State:
    """Read what a VM is made of."""
    paths = ("runtime.powerState", "config.hardware.device", "config.extraConfig", "snapshot")
    found = host.client.read(vm.entity, *paths, "runtime.consolidationNeeded")
    snapshot = found.get("snapshot")
    current = snapshot.currentSnapshot if snapshot is not None else None
    roots = snapshot.rootSnapshotList if snapshot is not None else ()
    devices = list(found["config.hardware.device"])
    return State(
        on=found["runtime.powerState"] != "poweredOff",
        drives=tuple(Drive(each.key, str(each.backing.fileName)) for each in disks(devices)),
        current=moref(current) if current is not None else None,
        tree={node.id: node for root in roots or () for node in _nodes(root, None)},
        unmerged=bool(found.get("runtime.consolidationNeeded")),
        mark={option.key: option.value for option in found.get("config.extraConfig") or ()}.get(MARK),
        devices=devices,
    )


def _nodes(tree: Any, parent: str | None) -> Iterator[Node]:
    own, above = moref(tree.snapshot), tree.childSnapshotList or ()
    mark = _POINT.search(tree.description or "")
    point_id = UUID(mark[1]) if mark else None
    yield Node(own, tree.name, point_id, parent, tuple(moref(child.snapshot) for child in above))
    for child in above:
        yield from _nodes(child, own)


def snapshot_files(host: Host, snapshots: list[str]) -> dict[str, dict[int, str]]:
    """Return, for each snapshot, the file of each disk by the disk's key."""
    found = host.client.read_each([host.snapshot(each) for each in snapshots], "config.hardware.device")
    return {
        moref(entity): {disk.key: str(disk.backing.fileName) for disk in disks(values["config.hardware.device"])}
        for entity, values in found
    }


def stored_bytes(host: Host, vm: Vm) -> dict[str, int]:
    """Return what each link of a VM's disks takes on its datastore, by the file of the link's descriptor."""
    host.client.call(vm.entity.RefreshStorageInfo)
    found = host.client.read(vm.entity, "layoutEx")["layoutEx"]
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


def make_snapshot(host: Host, vm: Vm, name: str, text: str, point_id: UUID | None) -> str:
    """Make a snapshot of a VM that is off; see `Host.make_snapshot`."""
    description = text if point_id is None else f"{text}\n{_POINT_MARK.format(point_id)}"

    def begin() -> Any:
        return vm.entity.CreateSnapshot_Task(name=name, description=description, memory=False, quiesce=False)

    return moref(_unlocked(host, begin))


def _unlocked(host: Host, begin: Callable[[], Any]) -> Any:
    """Carry out a task, again for a while where a disk is locked: its writer was just ended, and the host has to learn.

    Raises:
        RetryableError: ``busy``: it stays locked.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return host.client.run(begin, timeout=ACT_TIMEOUT)
        except BootpointError as exc:
            locked = type(exc.__cause__).__name__.rpartition(".")[2] == "FileLocked"
            if not locked or time.monotonic() > deadline:
                raise
        time.sleep(LOCK_TICK)


def revert(host: Host, snapshot: str) -> None:
    """Let a VM stand on a snapshot, with new and empty leaves; its hardware is the snapshot's then."""
    entity = host.snapshot(snapshot)
    _unlocked(host, lambda: entity.RevertToSnapshot_Task(suppressPowerOn=True))


def remove_snapshot(host: Host, snapshot: str, seconds: float) -> None:
    """Remove a snapshot; see `Host.remove_snapshot`."""
    entity = host.snapshot(snapshot)
    host.client.run(lambda: entity.RemoveSnapshot_Task(removeChildren=False, consolidate=True), timeout=seconds)


def merge_rest(host: Host, vm: Vm, seconds: float) -> None:
    """Merge the deltas that are left of removed snapshots."""
    host.client.run(lambda: vm.entity.ConsolidateVMDisks_Task(), timeout=seconds)  # noqa: PLW0108 - pyVmomi's method


def power_on(host: Host, vm: Vm) -> None:
    """Start a VM."""
    host.client.run(lambda: vm.entity.PowerOnVM_Task(), timeout=ACT_TIMEOUT)  # noqa: PLW0108 - pyVmomi's methods are no plain functions


def power_off(host: Host, vm: Vm) -> None:
    """Stop a VM as pulling its plug does; nothing when it is off."""
    try:
        host.client.run(lambda: vm.entity.PowerOffVM_Task(), timeout=ACT_TIMEOUT)  # noqa: PLW0108
    except BootpointError:
        if host.client.read(vm.entity, "runtime.powerState")["runtime.powerState"] != "poweredOff":
            raise


def reconfigure(host: Host, vm: Vm, spec: Any) -> None:
    """Change a VM's configuration."""
    host.client.run(lambda: vm.entity.ReconfigVM_Task(spec=spec))


def mark(host: Host, vm: Vm, point_id: UUID) -> None:
    """Write into a VM's configuration which point its leaves are open for; see `MARK`."""
    from pyVmomi import vim

    option = vim.option.OptionValue(key=MARK, value=str(point_id))
    reconfigure(host, vm, vim.vm.ConfigSpec(extraConfig=[option]))


def rename(host: Host, vm: Vm, name: str) -> None:
    """Give a VM another name; its files keep theirs.

    Raises:
        RefusedError: ``vm_name_taken``.
    """
    host.client.run(lambda: vm.entity.Rename_Task(newName=name))


def destroy(host: Host, vm: Vm) -> None:
    """Delete a VM with its files."""
    host.client.run(lambda: vm.entity.Destroy_Task(), timeout=ACT_TIMEOUT)  # noqa: PLW0108
