"""Fitting the hardware of a standby to what it is to be, and its disks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bootpoint_worker.smb.path import join
from bootpoint_worker.targets.hyperv import creation, hardware
from bootpoint_worker.targets.hyperv.host import Host
from bootpoint_worker.targets.layer import OpenDisk
from bootpoint_worker.targets.replica import ReplicaDisk
from bootpoint_worker.targets.snapshots import journal, place
from bootpoint_worker.targets.snapshots.vm import State, notes

#: Seconds that the copy of a disk may take before the call ends with ``busy``.
COPY_TIMEOUT = 3600.0


def remake_disks(host: Host, before: place.Snapshot, state: State) -> None:
    """Take the disks away with their files; see `Host.remake_disks`."""
    gone = [_detached(drive.key, drive.file, delete=True) for drive in state.drives]
    host.do("configure", before.vm, detach=gone)


def _detached(key: int, file: str, *, delete: bool = False) -> dict[str, Any]:
    return {**hardware.spot_of(key).described(), "path": file, "delete": delete}


def fit(
    host: Host, before: place.Snapshot, state: State, point: journal.PointEntry | None
) -> tuple[dict[str, int], bool]:
    """Make the VM's hardware what the replica says; see `Host.fit`."""
    manifest, replica = before.manifest, before.manifest.replica
    keys = manifest.keys if point is None else {disk.slot: disk.key for disk in point.disks}
    there = {drive.key: drive.file for drive in state.drives}
    keys = {slot: key for slot, key in keys.items() if key in there}
    slots = {disk.slot for disk in replica.disks}
    detach = [_detached(key, there[key]) for slot, key in keys.items() if slot not in slots]
    keys = {slot: key for slot, key in keys.items() if slot in slots}
    newest = point is None or manifest.head is None or point.point_id == manifest.head.point_id
    taken = set(there)
    attach = []
    for disk in replica.disks if newest else ():
        if disk.slot not in keys:
            spot = creation.must_attach(host, replica, disk, taken)
            attach.append(hardware.disk(disk, spot, _vacant(host, before, disk)))
            keys[disk.slot] = spot.key
    changes = {"attach": attach, "detach": detach, **_changes(before, state)}
    changed = any(changes.values())
    if changed:
        host.do("configure", before.vm, creation.MAKE_TIMEOUT, **changes)
    return keys, changed


def _changes(before: place.Snapshot, state: State) -> dict[str, Any]:
    """Return what differs of a VM's values, cards and name; what doesn't is None."""
    replica, said = before.manifest.replica, state.devices
    machine = said["machine"]
    wanted = creation.values(
        replica, notes(replica.replica_id, replica.job), hardware.secure_boot(replica, before.manifest.profile)
    )
    if not said["has_templates"] and wanted["secure_boot"] != hardware.WINDOWS_TEMPLATE:
        wanted["secure_boot"] = None
    # A call that made the VM may have been cut off before it gave it notes, and all else.
    same = machine["has_notes"] and all(machine[name] == wanted[name] for name in ("cpus", "memory"))
    same = same and said["secure_boot"] == wanted["secure_boot"]
    cards = hardware.cards(replica, before.manifest.profile)
    other = _cards(said["cards"]) != _cards(cards)
    return {
        "values": None if same else wanted,
        "replace_cards": other,
        "cards": cards if other else None,
        "name": replica.vm_name if machine["name"] != replica.vm_name else None,
    }


def _cards(cards: list[dict[str, Any]]) -> list[tuple[str, str | None, bool]]:
    """Return what makes cards the same."""
    return sorted((each["mac"].upper(), each["switch"] or None, each["legacy"]) for each in cards)


def _vacant(host: Host, before: place.Snapshot, disk: ReplicaDisk) -> str:
    """Return the file for a disk that is to be made: one that no point has, and that isn't there."""
    file = host.base_file(before.vm.folder, disk)
    if any(old.slot == disk.slot for point in before.manifest.points for old in point.disks):
        return join(before.vm.folder, f"{disk.disk_name}-{before.number}{host.suffixes[0]}")
    before.store.delete(file)  # of a point that was aborted
    return file


def grow(host: Host, before: place.Snapshot, disks: Sequence[OpenDisk]) -> dict[str, int]:
    """Give the standby longer disks where the source has; see `Host.grow`.

    Hyper-V doesn't lengthen a disk that has checkpoints. So the host copies the head's disk into a new one of its own,
    lengthens that, and the standby gets it in place of the old one. The points made before keep the old chain, and can
    be started as before; the copy needs room for all that the disk holds.
    """
    state = host.state(before.vm)
    keys: dict[str, int] = {}
    for disk in disks:
        key = before.manifest.keys.get(disk.slot, -1)
        file = state.leaf(key)
        if file is not None and disk.size_bytes > _size_of(before, disk.slot):
            _grow(host, before, disk, key, file)
            keys[disk.slot] = key
    return keys


def _size_of(before: place.Snapshot, slot: str) -> int:
    """Return how long a disk is on the host: as in the newest point, else as it was made."""
    head, replica = before.manifest.head, before.manifest.replica
    known = head.disks if head is not None else replica.disks
    return next((disk.size_bytes for disk in known if disk.slot == slot), 0)


def _grow(host: Host, before: place.Snapshot, disk: OpenDisk, key: int, old: str) -> None:
    replica, head = before.manifest.replica, before.manifest.head
    spec = next(each for each in replica.disks if each.slot == disk.slot)
    file = join(before.vm.folder, f"{spec.disk_name}-{disk.point_disk_id.hex[-12:]}{host.suffixes[0]}")
    host.step("grow:copy")
    made = hardware.disk(replace(spec, size_bytes=disk.size_bytes), hardware.spot_of(key), file)
    if head is not None:
        host.do("copy", before.vm, COPY_TIMEOUT, source=old, to=file, size=made["size"], fixed=made["fixed"])
    host.step("grow:attach")
    # Of a first point that was never committed the old disk goes with its file; else older points show it.
    gone = [_detached(key, old, delete=head is None)]
    host.do("configure", before.vm, creation.MAKE_TIMEOUT, detach=gone, attach=[made])


def drop(host: Host, before: place.Snapshot, layers: Sequence[journal.LayerEntry]) -> None:
    """Delete the new chains of a point that was aborted; see `Host.drop`."""
    kept = {entry.file for entry in before.manifest.leaves}
    for layer in layers:
        if layer.copied and layer.file not in kept:
            host.session.files.delete(layer.file)


def rehang(host: Host, before: place.Snapshot, state: State) -> None:
    """Attach all disks by IDE where the machine as it is knows nothing else; see `Host.rehang`."""
    replica, profile = before.manifest.replica, before.manifest.profile
    native = profile is not None and profile.bus == "ide"
    by_scsi = [drive for drive in state.drives if hardware.spot_of(drive.key).kind == "SCSI"]
    if not native or not by_scsi or hardware.generation(replica) == 2:
        return
    taken = {drive.key for drive in state.drives if drive not in by_scsi}
    attach = []
    for drive in by_scsi:
        spot = hardware.free_spot("ide", taken, first=False, second_generation=False)
        if spot is None:
            break  # IDE has four places: the system starts from the first ones
        taken.add(spot.key)
        attach.append({**spot.described(), "path": drive.file})
    gone = [_detached(drive.key, drive.file) for drive in by_scsi[: len(attach)]]
    host.do("configure", before.vm, detach=gone, attach=attach)
