"""Disks that have grown at the source: a new chain, which begins with a copy of what the head shows.

vSphere doesn't lengthen a disk that has snapshots. So the host itself copies the head's disk into a new one of its own,
lengthens that, and the standby gets it in place of the old one. The points made before keep the old chain, and can be
started as before; the copy needs room on the datastore for all that the disk holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi import hardware, machine
from bootpoint_worker.targets.esxi.datastore import join
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.layer import OpenDisk
from bootpoint_worker.targets.replica import ReplicaDisk
from bootpoint_worker.targets.snapshots import journal, place

#: Seconds that the copy of a disk may take before the call returns with ``busy``.
COPY_TIMEOUT = 3600.0


def grow(host: Host, before: place.Snapshot, disks: Sequence[OpenDisk]) -> dict[str, int]:
    """Give the standby longer disks where the source has.

    Returns:
        Slot -> key of each disk that has a new chain.
    """
    state = machine.read_state(host, before.vm)
    keys: dict[str, int] = {}
    for disk in disks:
        found = machine.disk(state, before.manifest.keys.get(disk.slot, -1))
        if found is not None and found.capacityInKB < hardware.capacity_kib(disk.size_bytes):
            keys[disk.slot] = _grown(host, before, disk, found.backing.fileName)
    return keys


def _grown(host: Host, before: place.Snapshot, disk: OpenDisk, old: str) -> int:
    from pyVmomi import vim

    spec = next(each for each in before.manifest.replica.disks if each.slot == disk.slot)
    name = join(before.vm.folder, f"{spec.disk_name}-{disk.point_disk_id.hex[-12:]}.vmdk")
    host.step("grow:copy")
    if before.manifest.head is not None:
        _copied(host, before, old, name, disk.size_bytes)
    host.step("grow:attach")
    state = machine.read_state(host, before.vm)
    there = [each for each in machine.disks(state.devices) if each.key == before.manifest.keys[disk.slot]]
    # Of a first point that was never committed the old disk goes with its file; else older points show it.
    changes = list(hardware.removed(there, files=before.manifest.head is None))
    board = hardware.Board([each for each in state.devices if each not in there])
    size = disk.size_bytes if before.manifest.head is None else None
    backing = hardware.new_backing(name, thick=spec.provisioning == "thick")
    board.attach(_bus(before, spec), backing, size_bytes=size, key=-1000)
    machine.reconfigure(host, before.vm, vim.vm.ConfigSpec(deviceChange=changes + board.changes))
    state = machine.read_state(host, before.vm)
    return next(int(each.key) for each in machine.disks(state.devices) if each.backing.fileName == name)


def _bus(before: place.Snapshot, disk: ReplicaDisk) -> str:
    native = before.manifest.profile.bus if before.manifest.profile is not None else None
    return native or disk.bus


def _copied(host: Host, before: place.Snapshot, old: str, new: str, size_bytes: int) -> None:
    """Let the host copy a disk, with all that lies beneath it, and lengthen the copy."""
    manager, center = host.client.content.virtualDiskManager, host.store_of(before.vm).datacenter
    before.store.delete(new)  # of a call that died: it may be half copied
    host.client.run(
        lambda: manager.CopyVirtualDisk_Task(
            sourceName=old, sourceDatacenter=center, destName=new, destDatacenter=center, force=False
        ),
        timeout=COPY_TIMEOUT,
    )
    capacity = hardware.capacity_kib(size_bytes)
    host.client.run(
        lambda: manager.ExtendVirtualDisk_Task(
            name=new, datacenter=center, newCapacityKb=capacity, eagerZero=False
        ),
        timeout=COPY_TIMEOUT,
    )


def drop(host: Host, before: place.Snapshot, layers: Sequence[journal.LayerEntry]) -> None:
    """Delete the new chains of a point that was aborted."""
    manager, center = host.client.content.virtualDiskManager, host.store_of(before.vm).datacenter
    for layer in layers:
        if not layer.copied or layer.file in {entry.file for entry in before.manifest.leaves}:
            continue
        try:
            host.client.run(partial(manager.DeleteVirtualDisk_Task, name=layer.file, datacenter=center))
        except BootpointError as exc:
            if exc.code is not Code.LAYER_LOST:
                raise
