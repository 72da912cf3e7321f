"""The leaves of a standby: letting it stand on a point with empty ones, and fitting its hardware to what it is to be.

A revert brings back the snapshot's hardware with its disks: processors, memory, cards and name as they were then, and
no disk that came later. So each revert is followed by a fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bootpoint_common.units import MiB
from bootpoint_worker.targets.esxi import compute, hardware, journal, layout, machine, place
from bootpoint_worker.targets.esxi.datastore import join
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.esxi.machine import State
from bootpoint_worker.targets.replica import Replica, ReplicaDisk

#: How the snapshots begin that keep what a standby wrote before it was moved on.
KEPT = "kept-"


def stand(host: Host, before: place.Snapshot, point: journal.PointEntry | None) -> place.Snapshot:
    """Let the standby stand on a point, with empty leaves that are written down.

    Args:
        host: The host.
        before: The replica; nothing is open.
        point: The point; None before the first one, whose disks are made anew then.

    Returns:
        The replica with a journal that says so.

    Raises:
        RefusedError: ``standby_running``.
        RetryableError: ``layer_lost``: the point's snapshot is gone.
        Changed: The journal is another one by now.
    """
    replica, vm = before.manifest.replica, before.vm.entity
    state = machine.read_state(host, vm)
    machine.refuse_running(host, replica, state)
    clean = is_clean(before.manifest, state, point)
    if not clean:
        if written(host, before, state):
            host.step("stand:keep")
            keep(host, before)
        host.step("stand:revert")
        if point is not None:
            if point.snapshot not in state.tree:
                raise layout.removed(host, replica, point)
            machine.revert(host, point.snapshot)
        else:
            _remake_disks(host, before, state)
        state = machine.read_state(host, vm)
    host.step("stand:fit")
    keys, changed = fit(host, before, state, point)
    if clean and not changed:
        return before
    host.step("stand:journal")
    return place.change(
        before, msgspec.structs.replace(before.manifest, keys=keys, dirty=False, leaves=leaves(host, vm))
    )


def is_clean(manifest: journal.Manifest, state: State, point: journal.PointEntry | None) -> bool:
    """Tell whether the VM stands on a point, and on leaves that nobody has written to as far as the journal knows."""
    expected = {leaf.key: leaf.file for leaf in manifest.leaves}
    found = {disk.key: disk.backing.fileName for disk in machine.disks(state.devices)}
    return not manifest.dirty and state.current == (point.snapshot if point else None) and expected == found


def written(host: Host, before: place.Snapshot, state: State) -> list[str]:
    """Return the leaves that hold what a standby wrote; empty where they hold a point's torn bytes, or nothing."""
    manifest = before.manifest
    if manifest.open is not None or manifest.head is None:
        return []
    files = [str(disk.backing.fileName) for disk in machine.disks(state.devices)]
    if manifest.standby is not None and manifest.standby.started_at is not None:
        return files
    fresh = {leaf.file: leaf.stored_bytes for leaf in manifest.leaves}
    sizes = machine.stored_bytes(host, before.vm.entity) if fresh else {}
    return [file for file in files if file in fresh and sizes.get(file, 0) > fresh[file]]


def keep(host: Host, before: place.Snapshot) -> None:
    """Keep what the standby wrote as a snapshot beside the points, for a person to decide about."""
    name = f"{KEPT}{datetime.now(UTC):%Y%m%d_%H%M%S}"
    text = f"What {before.manifest.replica.vm_name} wrote before it was moved on. Delete it when nobody needs it."
    machine.make_snapshot(host, before.vm.entity, name, text)


def leaves(host: Host, vm: Any) -> tuple[journal.Leaf, ...]:
    """Return the leaves of a VM as they are now."""
    sizes = machine.stored_bytes(host, vm)
    found = machine.disks(machine.read_state(host, vm).devices)
    return tuple(journal.Leaf(disk.key, disk.backing.fileName, sizes.get(disk.backing.fileName, 0)) for disk in found)


def _remake_disks(host: Host, before: place.Snapshot, state: State) -> None:
    """Take the disks away with their files: before the first point there is nothing that a revert could go back to."""
    from pyVmomi import vim

    changes = list(hardware.removed(machine.disks(state.devices), files=True))
    if changes:
        machine.reconfigure(host, before.vm.entity, vim.vm.ConfigSpec(deviceChange=changes))


def fit(
    host: Host, before: place.Snapshot, state: State, point: journal.PointEntry | None
) -> tuple[dict[str, int], bool]:
    """Make the VM's hardware what the replica says: name, processors, memory, guest, cards, and disks.

    Args:
        host: The host.
        before: The replica.
        state: The VM as it is.
        point: The point that it stands on; one that isn't the head shows the disks that it has, and no others.

    Returns:
        Slot -> key of the disk's device; and whether anything had to be changed.
    """
    manifest, vm = before.manifest, before.vm
    replica = manifest.replica
    keys = manifest.keys if point is None else {disk.slot: disk.key for disk in point.disks}
    keys = {slot: key for slot, key in keys.items() if state.disk(key) is not None}
    spec, wanted = _changed_values(host, before)
    newest = point is None or manifest.head is None or point.point_id == manifest.head.point_id
    lacking = {disk: _vacant(before, disk) for disk in replica.disks if newest and disk.slot not in keys}
    spec.deviceChange = [
        *_card_changes(state.devices, wanted),
        *_disk_changes(state, wanted, lacking),
        *hardware.removed(_needless(state, replica, keys)),
    ]
    changed = bool(spec.deviceChange or spec.name or spec.numCPUs or spec.guestId)
    if changed:
        machine.reconfigure(host, vm.entity, spec)
    kept = {disk.slot: keys[disk.slot] for disk in replica.disks if disk.slot in keys}
    return kept | (new_keys(machine.read_state(host, vm.entity), lacking) if lacking else {}), changed


def _changed_values(host: Host, before: place.Snapshot) -> tuple[Any, hardware.Wanted]:
    """Return a specification with the values that differ, and what the VM is to be."""
    from pyVmomi import vim

    replica, profile, entity = before.manifest.replica, before.manifest.profile, before.vm.entity
    paths = ("name", "config.hardware.numCPU", "config.hardware.memoryMB", "config.guestId", "environmentBrowser")
    found = host.client.read(entity, *paths)
    guest = found["config.guestId"]
    if profile is not None:
        guest = hardware.guest_id(profile, compute.guests(host, found["environmentBrowser"]))
    networks = hardware.networks(host, replica)
    wanted = hardware.Wanted(replica, replica.vm_name, before.vm.directory, guest, networks, profile)
    spec = vim.vm.ConfigSpec()
    if found["name"] != replica.vm_name:
        spec.name = replica.vm_name
    if (found["config.hardware.numCPU"], found["config.hardware.memoryMB"]) != _size(replica):
        spec.numCPUs, spec.memoryMB = _size(replica)
    if found["config.guestId"] != guest:
        spec.guestId = guest
    return spec, wanted


def rehang(host: Host, before: place.Snapshot, state: State) -> None:
    """Attach the disks of a standby by the bus that its machine boots from as it is, where that isn't the job's."""
    from pyVmomi import vim

    profile = before.manifest.profile
    if profile is None or profile.bus is None:
        return
    found = machine.disks(state.devices)
    board = hardware.Board([device for device in state.devices if device not in found])
    for number, disk in enumerate(sorted(found, key=lambda each: (each.controllerKey, each.unitNumber))):
        board.attach(profile.bus, hardware.new_backing(disk.backing.fileName), size_bytes=None, key=-1000 - number)
    changes = [*hardware.removed(found), *board.changes]
    machine.reconfigure(host, before.vm.entity, vim.vm.ConfigSpec(deviceChange=changes))


def _size(replica: Replica) -> tuple[int, int]:
    return replica.cpus, replica.memory_bytes // MiB


def _card_changes(devices: Sequence[Any], wanted: hardware.Wanted) -> list[Any]:
    """Return changes that replace all cards where one isn't as it has to be."""
    from pyVmomi import vim

    there = [device for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard)]
    added = wanted.cards()
    if [_card(device) for device in there] == [_card(change.device) for change in added]:
        return []
    return [*hardware.removed(there), *added]


def _card(card: Any) -> tuple[Any, ...]:
    """Return what makes two cards the same."""
    network = getattr(card.backing, "deviceName", None) or getattr(card.backing, "port", None)
    network = getattr(network, "portgroupKey", network)
    return type(card).__name__, (card.macAddress or "").lower(), network, card.connectable.startConnected


def _disk_changes(state: State, wanted: hardware.Wanted, lacking: Mapping[ReplicaDisk, str]) -> list[Any]:
    board = hardware.Board(state.devices)
    for number, (disk, file) in enumerate(lacking.items()):
        backing = hardware.new_backing(file, thick=disk.provisioning == "thick")
        board.attach(wanted.bus(disk), backing, size_bytes=disk.size_bytes, key=-1000 - number)
    return board.changes


def _vacant(before: place.Snapshot, disk: ReplicaDisk) -> str:
    """Return the file for a disk that is to be made: one that no point has, and that isn't there."""
    file = file_of(before.vm.directory, disk)
    if not before.store.has(file):
        return file
    if any(old.slot == disk.slot for point in before.manifest.points for old in point.disks):
        return join(before.vm.directory, f"{disk.disk_name}-{before.number}.vmdk")
    before.store.delete(file)  # of a point that was aborted
    return file


def _needless(state: State, replica: Replica, keys: dict[str, int]) -> list[Any]:
    """Return the disks that the job has no more; their files stay, for older points show them."""
    slots = {disk.slot for disk in replica.disks}
    gone = {key for slot, key in keys.items() if slot not in slots}
    return [disk for disk in machine.disks(state.devices) if disk.key in gone]


def file_of(directory: str, disk: ReplicaDisk) -> str:
    """Return the datastore path of a disk's base."""
    return join(directory, f"{disk.disk_name}.vmdk")


def new_keys(state: State, lacking: Mapping[ReplicaDisk, str]) -> dict[str, int]:
    """Return the keys that the host gave to disks that were just made, by their files."""
    keys = {disk.backing.fileName: disk.key for disk in machine.disks(state.devices)}
    return {disk.slot: keys[file] for disk, file in lacking.items()}
