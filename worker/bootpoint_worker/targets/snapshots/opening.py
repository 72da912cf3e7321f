"""Opening a point: empty leaves above the head; and throwing them away again."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code
from bootpoint_worker.targets.layer import Layer, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, leaf, place
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import State


def open_point(host: Host, replica: Replica, point: OpenPoint) -> tuple[Layer, ...]:
    """Open a point; see `Target.open`."""
    opened = place.retried(host, lambda: _open(host, replica, point))
    return opened.described()


def _open(host: Host, replica: Replica, point: OpenPoint) -> journal.OpenEntry:
    before = place.must_read(host, replica)
    opened = before.manifest.open
    if opened is None or opened.point_id != point.point_id:
        before, opened = _begun(host, before, point)
    if not before.manifest.dirty:
        # Only who has opened the point in the journal marks the VM: one who comes late would take away another's mark.
        host.step("open:mark")
        host.mark(before.vm, point.point_id)
        host.step("open:marked")
        place.change(before, msgspec.structs.replace(before.manifest, dirty=True))
    host.step("open:done")
    return opened


def _begun(host: Host, before: place.Snapshot, point: OpenPoint) -> tuple[place.Snapshot, journal.OpenEntry]:
    """Make empty leaves, and open the point in the journal; nobody writes before the VM is marked."""
    _admit(host, before.manifest, point)
    for disk in point.disks:
        _check_size(host, before.manifest, disk)
    host.step("open:stand")
    before = leaf.stand(host, before, before.manifest.head)
    host.step("open:grow")
    copied = host.grow(before, point.disks)
    state = host.state(before.vm)
    layers = tuple(_layer(host, before.manifest, state, disk, copied) for disk in point.disks)
    opened = journal.OpenEntry(point.point_id, point.base_point_id, point.epoch, layers)
    aborted = tuple(old for old in before.manifest.aborted if old != point.point_id)
    host.step("open:journal")
    keys = before.manifest.keys | copied
    after = msgspec.structs.replace(before.manifest, open=opened, keys=keys, aborted=aborted, dirty=False, leaves=())
    return place.change(before, after), opened


def _admit(host: Host, manifest: journal.Manifest, point: OpenPoint) -> None:
    replica, head = manifest.replica, manifest.head
    name = f"{replica.vm_name} on host {host.name}"
    if manifest.epoch > point.epoch:
        text = f"{name} is in epoch {manifest.epoch}, this point is of epoch {point.epoch}"
        raise host.problem(Code.EPOCH_STALE, text, replica)
    if manifest.open is not None:
        raise host.problem(Code.POINT_OPEN, f"point {manifest.open.point_id} of {name} is open", replica)
    if manifest.consolidating is not None:
        text = f"{manifest.consolidating.point.name} of {name} is being merged"
        raise host.problem(Code.BUSY, text, replica)
    if (head.point_id if head else None) != point.base_point_id:
        text = f"the head of {name} is {head.name if head else 'nothing yet'}, not point {point.base_point_id}"
        raise host.problem(Code.BASE_MISMATCH, text, replica)


def _check_size(host: Host, manifest: journal.Manifest, disk: OpenDisk) -> None:
    base = next((old for old in manifest.head.disks if old.slot == disk.slot), None) if manifest.head else None
    if base is not None and disk.size_bytes < base.size_bytes:
        text = f"disk {disk.slot} has {disk.size_bytes} bytes at the source, and {base.size_bytes} in the newest point"
        raise host.problem(Code.DISK_CHANGED, text, manifest.replica, key=disk.slot, value=disk.size_bytes)


def _layer(
    host: Host, manifest: journal.Manifest, state: State, disk: OpenDisk, copied: dict[str, int]
) -> journal.LayerEntry:
    key = copied.get(disk.slot, manifest.keys.get(disk.slot, -1))
    file = state.leaf(key)
    if file is None:
        text = f"{manifest.replica.vm_name} has no disk {disk.slot!r}"
        raise host.problem(Code.NO_SUCH_DISK, text, manifest.replica, value=disk.slot)
    return journal.LayerEntry(disk.slot, key, file, disk.size_bytes, copied=disk.slot in copied)


def abort_point(host: Host, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
    """Throw an open point away; see `Target.abort`."""
    place.retried(host, lambda: _abort(host, replica, point_id, layers))


def _abort(host: Host, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
    before = place.read(host, replica)
    if before is None or before.manifest.was_committed(point_id):
        return
    opened = before.manifest.open
    if opened is not None and opened.point_id == point_id:
        if not set(layers) <= set(opened.described()):
            return  # of an earlier opening: a leaf may have the name of one before
        host.step("abort:fence")
        for layer in opened.layers:
            host.end_writers(layer.file)
        host.step("abort:journal")
        aborted = before.manifest.aborted_with(point_id)
        after = msgspec.structs.replace(before.manifest, open=None, aborted=aborted, dirty=True)
        before = place.change(before, after)
    elif opened is not None or point_id not in before.manifest.aborted or not before.manifest.dirty:
        return
    if before.vm.on:
        return  # somebody runs it: what it wrote goes before the next point is opened, which waits until it is off
    host.step("abort:stand")
    before = leaf.stand(host, before, before.manifest.stood_on())
    if opened is not None:
        host.drop(before, opened.layers)
    host.step("abort:done")
