"""Reading and writing disks of a replica: who may, and what it means when a writer ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code, Fenced, error
from bootpoint_worker.targets.base import LayerReader, LayerWriter
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share
from bootpoint_worker.targets.snapshots import commit, journal, layout, place
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import Disk


def open_writer(host: Host, replica: Replica, layer: Layer, writer: int) -> LayerWriter:
    """Take hold of a layer; see `Target.open_writer`."""
    before, entry = place.retried(host, lambda: _claimed(host, replica, layer, writer))
    host.step("writer:fence")
    host.end_writers(entry.file)
    commit.check_leaves(host, before, layer.point_id, (entry,))
    host.step("writer:serve")
    disk = Disk(before.vm, entry.file, None, entry.size_bytes)
    made = host.writer(disk, writer, lambda: _explain(host, replica, layer, writer))
    try:
        host.step("writer:held")
        if not place.is_current(before):
            # Whoever was frozen since its claim may come after another one, or after the commit. A claim that comes
            # from now on finds this writer, and ends it.
            _refuse_taken(host, replica, place.read(host, replica), layer, writer)
    except BaseException:
        made.close()
        raise
    return made


def _claimed(host: Host, replica: Replica, layer: Layer, writer: int) -> tuple[place.Snapshot, journal.LayerEntry]:
    """Write down that a claim holds a layer from now on."""
    before = place.read(host, replica)
    opened = before.manifest.open if before is not None else None
    if before is None or opened is None or opened.point_id != layer.point_id:
        _refuse_over(before, layer)
        raise commit.lost(host, replica, layer.identity)
    entry = next((e for e in opened.layers if (e.slot, e.file) == (layer.slot, layer.identity)), None)
    if entry is None:
        raise commit.lost(host, replica, layer.identity)
    if opened.closed or opened.fences.get(layer.slot, 0) > writer:
        raise Fenced(f"a later claim than {writer} has held {layer.identity}, or it is closed")
    fenced = msgspec.structs.replace(opened, fences=opened.fences | {layer.slot: writer})
    return place.change(before, msgspec.structs.replace(before.manifest, open=fenced)), entry


def _refuse_over(found: place.Snapshot | None, layer: Layer) -> None:
    if found is not None and found.manifest.is_over(layer.point_id):
        raise Fenced(f"point {layer.point_id} is committed or aborted")


def _refuse_taken(
    host: Host, replica: Replica, found: place.Snapshot | None, layer: Layer, writer: int
) -> place.Snapshot:
    """Refuse a writer whose layer is somebody else's by now, or nobody's; returns the replica otherwise."""
    _refuse_over(found, layer)
    opened = found.manifest.open if found is not None else None
    if found is None or opened is None or opened.point_id != layer.point_id:
        raise commit.lost(host, replica, layer.identity)
    if opened.closed or opened.fences.get(layer.slot, 0) > writer:
        raise Fenced(f"layer {layer.identity} was taken from writer {writer}")
    return found


def _explain(host: Host, replica: Replica, layer: Layer, writer: int) -> NoReturn:
    """Find out why a writer's server ended, and raise it."""
    found = _refuse_taken(host, replica, place.read(host, replica), layer, writer)
    state = host.state(found.vm)
    place.refuse_running(host, replica, state)
    if state.mark != str(layer.point_id):
        raise commit.lost(host, replica, layer.identity)
    raise error(
        Code.TARGET_WRITE_ERROR,
        f"the writer of {layer.identity} on host {host.name} ended or stopped answering",
        host=host.name,
    )


def open_reader(host: Host, replica: Replica, point_id: UUID, slot: str) -> LayerReader:
    """Read one disk of a point; see `Target.open_reader`."""
    return host.reader(_disk_of(host, replica, point_id, slot))


def share(host: Host, replica: Replica, point_id: UUID, slot: str) -> contextlib.AbstractContextManager[Share]:
    """Look whether a disk of a point is there, and return what shares it; see `Target.share`."""
    return _shared(host, _disk_of(host, replica, point_id, slot), slot)


@contextlib.contextmanager
def _shared(host: Host, disk: Disk, slot: str) -> Iterator[Share]:
    with host.served(disk) as socket:
        yield Share(slot=slot, socket=socket, size_bytes=disk.size_bytes)


def _disk_of(host: Host, replica: Replica, point_id: UUID, slot: str) -> Disk:
    found = place.read(host, replica)
    manifest = found.manifest if found is not None else None
    point = manifest.point(point_id) if manifest is not None else None
    entries: tuple[journal.LayerEntry, ...] = ()
    snapshot = None
    if found is not None and point is not None:
        entries, snapshot = layout.disks_of(host, found.vm, replica, point), point.snapshot
    if manifest is not None and manifest.open is not None and manifest.open.point_id == point_id:
        entries = manifest.open.layers
    entry = next((entry for entry in entries if entry.slot == slot), None)
    if found is None or entry is None:
        text = f"{replica.vm_name} on host {host.name} has no point {point_id} with a disk {slot!r}"
        raise host.problem(Code.NO_SUCH_POINT, text, replica, value=str(point_id))
    return Disk(found.vm, entry.file, snapshot, entry.size_bytes)
