"""Opening a point: an empty layer for each disk above the head; and throwing it away again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.kvm import journal
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.qcow2 import layer_file, layer_id, virtual_size
from bootpoint_worker.targets.layer import Layer, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Replica, ReplicaDisk

#: Seconds that allocating a thick disk may take before the call returns with ``busy``; the host goes on, and the next
#: call finds it.
ALLOCATION_TIMEOUT = 1200.0


def open_point(host: Host, replica: Replica, point: OpenPoint) -> tuple[Layer, ...]:
    """Make the layers of a point; see `Target.open`."""
    place = host.place(replica)
    opened = place.retried(lambda: _open(host, place, replica, point))
    return opened.described()


def _open(host: Host, place: Place, replica: Replica, point: OpenPoint) -> journal.OpenEntry:
    before = host.must_read(place, replica)
    manifest = before.manifest
    if manifest.open is not None and manifest.open.point_id == point.point_id:
        return manifest.open
    _admit(host, replica, manifest, point)
    layers = tuple(_layer(replica, manifest.head, disk) for disk in point.disks)
    host.step("open:make")
    arguments: list[str] = []
    for layer in layers:
        how = _preallocated(host, place, replica, layer)
        arguments += [layer.file, layer.base or "-", str(virtual_size(layer.size_bytes)), how]
    opened = journal.OpenEntry(point.point_id, point.base_point_id, point.epoch, layers)
    after = msgspec.structs.replace(
        manifest, open=opened, aborted=tuple(old for old in manifest.aborted if old != point.point_id)
    )
    host.step("open:journal")
    place.change("layers", before, after, *arguments, what=f"make the layers of a point of {replica.vm_name}")
    host.step("open:done")
    return opened


def _admit(host: Host, replica: Replica, manifest: journal.Manifest, point: OpenPoint) -> None:
    head = manifest.head
    if manifest.epoch > point.epoch:
        raise error(
            Code.EPOCH_STALE,
            f"{replica.vm_name} on host {host.name} is in epoch {manifest.epoch}, this point is of epoch {point.epoch}",
            job=replica.job,
            host=host.name,
        )
    if manifest.open is not None:
        raise error(
            Code.POINT_OPEN,
            f"point {manifest.open.point_id} of {replica.vm_name} is open on host {host.name}",
            job=replica.job,
            host=host.name,
        )
    if manifest.consolidating is not None:
        raise error(
            Code.BUSY,
            f"{manifest.consolidating.point.name} of {replica.vm_name} is being merged on host {host.name}",
            job=replica.job,
            host=host.name,
        )
    if (head.point_id if head else None) != point.base_point_id:
        raise error(
            Code.BASE_MISMATCH,
            f"the head of {replica.vm_name} on host {host.name} is {head.name if head else 'nothing yet'}, "
            f"not point {point.base_point_id}",
            job=replica.job,
            host=host.name,
        )


def _layer(replica: Replica, head: journal.PointEntry | None, disk: OpenDisk) -> journal.LayerEntry:
    base = next((old for old in head.disks if old.slot == disk.slot), None) if head else None
    if base is not None and disk.size_bytes < base.size_bytes:
        raise error(
            Code.DISK_CHANGED,
            f"disk {disk.slot} has {disk.size_bytes} bytes, the head of {replica.vm_name} has {base.size_bytes}",
            key=disk.slot,
            value=disk.size_bytes,
            job=replica.job,
        )
    return journal.LayerEntry(
        slot=disk.slot,
        file=layer_file(_disk(replica, disk.slot).disk_name, disk.point_disk_id),
        base=base.file if base else None,
        size_bytes=disk.size_bytes,
    )


def _disk(replica: Replica, slot: str) -> ReplicaDisk:
    found = next((disk for disk in replica.disks if disk.slot == slot), None)
    if found is None:
        raise error(Code.NO_SUCH_DISK, f"{replica.vm_name} has no disk {slot!r}", value=slot, job=replica.job)
    return found


def _preallocated(host: Host, place: Place, replica: Replica, layer: journal.LayerEntry) -> str:
    """Make a thick base, which may take long, outside the lock; return how the layer is still to be made."""
    if layer.base is not None or _disk(replica, layer.slot).provisioning != "thick":
        return "off"
    size = virtual_size(layer.size_bytes)
    command = [
        *("qemu-img", "create", "-q", "-f", "qcow2"),
        *("-o", "cluster_size=65536,lazy_refcounts=off,compat=1.1,preallocation=falloc", layer.file, str(size)),
    ]
    operation = f"make-{layer_id(layer.file)}"
    code, said = place.operate(operation, command, timeout=ALLOCATION_TIMEOUT, what=f"allocate disk {layer.slot}")
    if code != 0:
        full = "No space left" in said
        raise error(
            Code.HOST_FULL if full else Code.TARGET_WRITE_ERROR,
            f"host {host.name} could not allocate disk {layer.slot}: {said.strip()}",
            job=replica.job,
            host=host.name,
        )
    return "made"


def abort_point(host: Host, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
    """Throw an open point away; see `Target.abort`."""
    place = host.place(replica)
    place.retried(lambda: _abort(host, place, replica, point_id, layers))


def _abort(host: Host, place: Place, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
    before = host.read(place, replica)
    if before is None or before.manifest.was_committed(point_id):
        return
    manifest = before.manifest
    named = {layer.identity for layer in layers}
    host.step("abort:discard")
    what = f"throw the open layers of {replica.vm_name} away"
    if manifest.open is not None and manifest.open.point_id == point_id:
        files = {layer.file for layer in manifest.open.layers}
        if not named <= files:
            return
        after = msgspec.structs.replace(manifest, open=None, aborted=manifest.aborted_with(point_id))
        data = after.encoded()
        place.run("discard", before.digest, journal.digest(data), *pairs(files), stdin=data, what=what)
    else:
        # An abort that was interrupted after the journal forgot the point: only its own files may be left.
        known = {disk.file for point in manifest.points for disk in point.disks}
        known |= {layer.file for layer in manifest.open.layers} if manifest.open else set()
        known |= {disk.file for disk in manifest.consolidating.point.disks} if manifest.consolidating else set()
        if left := {layer.identity for layer in layers if layer.point_id == point_id} - known:
            place.run("discard", before.digest, "same", *pairs(left), what=what)
    host.step("abort:done")


def pairs(files: Iterable[str]) -> list[str]:
    """Return file and layer id of each, as the scripts take them."""
    return [word for file in sorted(files) for word in (file, layer_id(file))]
