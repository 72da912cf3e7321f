"""Opening and committing a point on the fake host: what is refused, and the acts of which it is made.

All of it runs inside a step of the call, but `make_visible`, which is steps itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from bootpoint_common.errors import Code, Fenced, error
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.fake_call import Call
from bootpoint_worker.targets.fake_journal import Manifest, identities
from bootpoint_worker.targets.fake_layer import FakeLayer
from bootpoint_worker.targets.fake_machine import Fence
from bootpoint_worker.targets.journal import JournalDisk, JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import ReplicaDisk


def check_epoch(call: Call, manifest: Manifest, epoch: int) -> None:
    """Refuse a run of an earlier epoch."""
    if epoch < manifest.epoch:
        message = f"the replica is in epoch {manifest.epoch}, and this run in epoch {epoch}"
        raise error(Code.EPOCH_STALE, message, value=epoch, job=call.replica.job, host=call.host.name)


def check_open(call: Call, manifest: Manifest, point: OpenPoint) -> None:
    """Refuse to open a point that doesn't fit the head or the room."""
    job, host = call.replica.job, call.host.name
    if manifest.open_point_id is not None:
        message = f"boot point {manifest.open_point_id} is open"
        raise error(Code.POINT_OPEN, message, value=manifest.open_point_id, job=job, host=host)
    if manifest.merging is not None:
        raise error(Code.BUSY, f"{manifest.merging.point.name} is being merged", job=job, host=host)
    head = manifest.head.point_id if manifest.head is not None else None
    if point.base_point_id != head:
        message = f"the head is {head}, and the increment stands on {point.base_point_id}"
        raise error(Code.BASE_MISMATCH, message, value=point.base_point_id, job=job, host=host)
    sizes = {disk.slot: disk.size_bytes for disk in manifest.head.disks} if manifest.head is not None else {}
    for disk in point.disks:
        if disk.size_bytes < sizes.get(disk.slot, 0):
            message = f"disk {disk.slot} has {disk.size_bytes} bytes, and had {sizes[disk.slot]}"
            raise error(Code.DISK_CHANGED, message, value=disk.slot, job=job, host=host)
    # A thick base needs all of its room at once, any other layer a grain to begin with.
    thick = {disk.slot for disk in call.replica.disks if disk.provisioning == "thick"}.difference(sizes)
    needed = sum(disk.size_bytes if disk.slot in thick else GRAIN for disk in point.disks)
    if needed > call.host.free_bytes(call.replica.storage):
        raise call.host.full(call.replica.storage, needed)


def make_layer(call: Call, manifest: Manifest, point_id: UUID, disk: OpenDisk) -> Layer:
    """Make the file of an open layer above the head, and its fence."""
    host = call.host
    known: ReplicaDisk | None = next((known for known in call.replica.disks if known.slot == disk.slot), None)
    below = identities(manifest.head).get(disk.slot) if manifest.head is not None else None
    # The number tells a late writer of an aborted layer from a later one that was opened under the same id.
    name = f"{known.disk_name if known else disk.slot}.{disk.point_disk_id.hex}.{host.next_number()}"
    host.layers[name] = FakeLayer(
        identity=name,
        place=call.place,
        size_bytes=disk.size_bytes,
        backing=host.layers[below] if below is not None else None,
        thick=below is None and known is not None and known.provisioning == "thick",
    )
    host.fences[name] = Fence()
    return Layer(point_id, disk.slot, name)


def make_visible(call: Call, manifest: Manifest, point: CommitPoint) -> tuple[Manifest, JournalPoint]:
    """Fence, check and sync the open layers, then make the point appear for all disks at once."""
    host = call.host
    if manifest.open_point_id != point.point_id or set(point.layers) != set(manifest.open_layers):
        raise host.layer_lost(", ".join(layer.identity for layer in point.layers))
    check_epoch(call, manifest, point.epoch)
    with call.step("fence"):
        close_fences(call, point.layers, "committed")
    with call.step("check"):
        for layer in point.layers:
            if layer.identity not in host.layers:
                raise host.layer_lost(layer.identity)
            if host.layers[layer.identity].damaged:
                message = f"the check of layer {layer.identity} on host {host.name} failed"
                raise error(Code.TARGET_CHECK_FAILED, message, job=call.replica.job, host=host.name)
    with call.step("sync"):
        for layer in point.layers:
            host.layers[layer.identity].flush()
    with call.step("journal"):
        committed = _journal_point(call, point)
        for layer in point.layers:
            host.layers[layer.identity].immutable = True
        points = (*manifest.points, committed)
        manifest = replace(manifest, epoch=point.epoch, points=points, open_point_id=None, open_layers=())
        call.store(manifest)
    return manifest, committed


def close_fences(call: Call, layers: Sequence[Layer], why: str) -> None:
    """Shut layers for ever, and end who writes them."""
    shut = {layer.identity for layer in layers}
    for identity in shut:
        call.host.fences[identity].closed = True
    call.host.end_holds(lambda hold: hold.identity in shut, lambda: Fenced(f"the layer was {why}"))


def sweep(call: Call, manifest: Manifest | None) -> None:
    """Delete the files in the replica's place that its manifest doesn't name."""
    named = manifest.layer_names() if manifest is not None else set()
    for identity, file in list(call.host.layers.items()):
        if file.place == call.place and identity not in named:
            del call.host.layers[identity]


def _journal_point(call: Call, point: CommitPoint) -> JournalPoint:
    disks = []
    for layer in point.layers:
        file = call.host.layers[layer.identity]
        root = point.roots[layer.slot]
        disks.append(JournalDisk(layer.slot, layer.identity, file.size_bytes, file.stored_bytes, root))
    return JournalPoint(
        point_id=point.point_id,
        name=point.name,
        sequence=point.sequence,
        instant=point.instant,
        kind=point.kind,
        consistency=point.consistency,
        epoch=point.epoch,
        disks=tuple(disks),
    )
