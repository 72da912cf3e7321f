"""Fitting the hardware of a standby to what it is to be, and its disks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bootpoint_common.units import MiB
from bootpoint_worker.targets.esxi import compute, hardware, machine
from bootpoint_worker.targets.esxi.datastore import join
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.replica import Replica, ReplicaDisk
from bootpoint_worker.targets.snapshots import journal, place
from bootpoint_worker.targets.snapshots.vm import State


def remake_disks(host: Host, before: place.Snapshot, state: State) -> None:
    """Take the disks away with their files: before the first point there is nothing that a revert could go back to."""
    from pyVmomi import vim

    changes = list(hardware.removed(machine.disks(state.devices), files=True))
    if changes:
        machine.reconfigure(host, before.vm, vim.vm.ConfigSpec(deviceChange=changes))


def fit(
    host: Host, before: place.Snapshot, state: State, point: journal.PointEntry | None
) -> tuple[dict[str, int], bool]:
    """Make the VM's hardware what the replica says; see `Host.fit`."""
    manifest = before.manifest
    replica = manifest.replica
    keys = manifest.keys if point is None else {disk.slot: disk.key for disk in point.disks}
    keys = {slot: key for slot, key in keys.items() if state.leaf(key) is not None}
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
        machine.reconfigure(host, before.vm, spec)
    kept = {disk.slot: keys[disk.slot] for disk in replica.disks if disk.slot in keys}
    return kept | (_new_keys(machine.read_state(host, before.vm), lacking) if lacking else {}), changed


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
    wanted = hardware.Wanted(replica, replica.vm_name, before.vm.folder, guest, networks, profile)
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
    machine.reconfigure(host, before.vm, vim.vm.ConfigSpec(deviceChange=changes))


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
    file = before.host.base_file(before.vm.folder, disk)
    if not before.store.has(file):
        return file
    if any(old.slot == disk.slot for point in before.manifest.points for old in point.disks):
        return join(before.vm.folder, f"{disk.disk_name}-{before.number}.vmdk")
    before.store.delete(file)  # of a point that was aborted
    return file


def _needless(state: State, replica: Replica, keys: dict[str, int]) -> list[Any]:
    """Return the disks that the job has no more; their files stay, for older points show them."""
    slots = {disk.slot for disk in replica.disks}
    gone = {key for slot, key in keys.items() if slot not in slots}
    return [disk for disk in machine.disks(state.devices) if disk.key in gone]


def _new_keys(state: State, lacking: Mapping[ReplicaDisk, str]) -> dict[str, int]:
    """Return the keys that the host gave to disks that were just made, by their files."""
    keys = {disk.backing.fileName: disk.key for disk in machine.disks(state.devices)}
    return {disk.slot: keys[file] for disk, file in lacking.items()}
