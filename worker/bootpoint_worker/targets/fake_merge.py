"""Merging a point with its successor on the fake host, in the steps of a real one: marked, copied, durable, renamed."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.fake_call import Call
from bootpoint_worker.targets.fake_journal import Manifest, Merging, identities, runbook
from bootpoint_worker.targets.fake_layer import FakeLayer
from bootpoint_worker.targets.journal import JournalDisk, JournalPoint


def consolidate(call: Call, point_id: UUID) -> JournalPoint:
    """Merge a point into its successor, or go on where an earlier call broke off; steps of the call itself."""
    manifest = call.find()
    if manifest is None:
        raise call.no_point(point_id)
    if manifest.merging is not None and manifest.merging.point.point_id != point_id:
        manifest = _finish(call, manifest, manifest.merging)
    if manifest.merging is None:
        heir = manifest.heir(point_id) if manifest.point(point_id) is None else None
        if heir is not None:
            return heir
        manifest = _begin(call, manifest, point_id)
    merging = manifest.merging
    if merging is None:
        raise call.no_point(point_id)
    manifest = _finish(call, manifest, merging)
    found = manifest.point(merging.into)
    if found is None:
        raise call.no_point(merging.into)
    return found


def _begin(call: Call, manifest: Manifest, point_id: UUID) -> Manifest:
    with call.step("check"):
        point = manifest.point(point_id)
        if point is None:
            raise call.no_point(point_id)
        job, host = call.replica.job, call.host.name
        if manifest.open_point_id is not None:
            raise error(Code.POINT_OPEN, f"boot point {manifest.open_point_id} is open", job=job, host=host)
        if point is manifest.head:
            raise _in_use(call, point, "it is the newest")
        into = manifest.points[manifest.points.index(point) + 1]
        _check_use(call, point, into)
        needed = sum(call.host.layers[disk.identity].stored_bytes for disk in into.disks)
        if needed > call.host.free_bytes(call.replica.storage):
            raise call.host.full(call.replica.storage, needed)
    with call.step("mark"):
        rest = tuple(other for other in manifest.points if other is not point)
        manifest = replace(manifest, points=rest, merging=Merging(point, into.point_id))
        call.store(manifest)
    return manifest


def _in_use(call: Call, point: JournalPoint, why: str) -> BootpointError:
    message = f"{point.name} on host {call.host.name} can't be merged: {why}"
    return error(Code.POINT_IN_USE, message, value=point.name, job=call.replica.job, host=call.host.name)


def _check_use(call: Call, point: JournalPoint, into: JournalPoint) -> None:
    """Refuse where anything but the successor stands on the point, or a VM runs above it."""
    host = call.host
    files = [host.layers[identity] for identity in identities(point).values()]
    successors = set(identities(into).values())
    for overlay in host.layers.values():
        if overlay.backing in files and overlay.identity not in successors:
            raise _in_use(call, point, f"{overlay.identity} stands on it")
    for vm in host.vms.values():
        if vm.state != "running":
            continue
        for identity in (vm.layers or {}).values():
            layer = host.layers.get(identity)
            while layer is not None:
                if layer in files:
                    raise _in_use(call, point, f"VM {vm.name} runs above it")
                layer = layer.backing


def _finish(call: Call, manifest: Manifest, merging: Merging) -> Manifest:
    host = call.host
    if not merging.settled:
        into = manifest.point(merging.into)
        if into is None:
            raise call.no_point(merging.into)
        pairs = _pairs(call, merging.point, into)
        with call.step("merge"):
            for old, new in pairs:
                new.absorb(old)
        with call.step("sync"):
            for _old, new in pairs:
                new.flush()
        with call.step("settle"):
            merging, manifest = _settle(call, manifest, merging, pairs)
    with call.step("runbook"):
        manifest = replace(manifest, runbook=runbook(manifest))
        call.store(manifest)
    with call.step("clear"):
        for identity in merging.left:
            host.layers.pop(identity, None)
        merged = {**manifest.merged, merging.point.point_id: merging.into}
        manifest = replace(manifest, merging=None, merged=merged)
        call.store(manifest)
    return manifest


def _pairs(call: Call, point: JournalPoint, into: JournalPoint) -> list[tuple[FakeLayer, FakeLayer]]:
    """Return the layers to merge, the successor's and the point's."""
    files = [call.host.layers[identity] for identity in identities(point).values()]
    layers = [call.host.layers[identity] for identity in identities(into).values()]
    return [(layer, layer.backing) for layer in layers if layer.backing is not None and layer.backing in files]


def _settle(
    call: Call, manifest: Manifest, merging: Merging, pairs: list[tuple[FakeLayer, FakeLayer]]
) -> tuple[Merging, Manifest]:
    """Let everything above stand on the point's layers, and the journal name the successor by them; inside a step."""
    now = {old.identity: new for old, new in pairs}
    for layer in call.host.layers.values():
        if layer.backing is not None and layer.backing.identity in now:
            layer.backing = now[layer.backing.identity]

    def moved(disk: JournalDisk) -> JournalDisk:
        new = now.get(disk.identity)
        if new is None:
            return disk
        return replace(disk, identity=new.identity, stored_bytes=new.stored_bytes)

    points = tuple(replace(point, disks=tuple(moved(disk) for disk in point.disks)) for point in manifest.points)
    kept = {new.identity for new in now.values()}
    gone = tuple(identity for identity in identities(merging.point).values() if identity not in kept)
    settled = replace(merging, settled=True, left=(*now, *gone))
    manifest = replace(manifest, points=points, merging=settled)
    call.store(manifest)
    return settled, manifest
