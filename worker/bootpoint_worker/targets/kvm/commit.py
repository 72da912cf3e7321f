"""Making a point visible, and what follows from it.

Steps, each of which finds what is done when it comes again::

    close    fences of all layers closed for ever, their servers gone
    check    qemu-img check of every layer, as a long operation
    publish  files read-only and durable, then one rename of the manifest: here the point comes to be
    remake   standby: fresh scratch layers over the new head (unless it runs), definition, runbook
"""

from __future__ import annotations

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.kvm import journal
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.opening import pairs
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.qcow2 import layer_id
from bootpoint_worker.targets.kvm.standby import remake
from bootpoint_worker.targets.layer import CommitPoint
from bootpoint_worker.targets.replica import Replica

#: Seconds that the check of a layer may take before the call returns with ``busy``; the host goes on with it.
CHECK_TIMEOUT = 600.0

#: Checks a layer; clusters that a killed server had taken and not yet used are given back, nothing else is repaired.
#: Exit codes of qemu-img check: 0 right, 2 corrupt, 3 leaks only.
CHECK = (
    'qemu-img check -f qcow2 "$1"; code=$?; '
    'if [ "$code" -eq 3 ]; then qemu-img check -q -f qcow2 -r leaks "$1"; code=$?; fi; exit "$code"'
)


def commit_point(host: Host, replica: Replica, point: CommitPoint) -> JournalPoint:
    """Commit a point; see `Target.commit`."""
    place = host.place(replica)
    entry = place.retried(lambda: _publish(host, place, replica, point))
    host.step("commit:remake")
    remake(host, place, replica)
    host.step("commit:done")
    return entry.described()


def _publish(host: Host, place: Place, replica: Replica, point: CommitPoint) -> journal.PointEntry:
    before = host.read(place, replica)
    manifest = before.manifest if before else None
    if manifest is not None and (done := manifest.point(point.point_id)) is not None:
        return done
    opened = manifest.open if manifest else None
    if before is None or manifest is None or opened is None or not _same(opened, point):
        raise error(
            Code.LAYER_LOST,
            f"point {point.name} of {replica.vm_name} is neither open nor committed on host {host.name}",
            job=replica.job,
            host=host.name,
        )
    if manifest.epoch > point.epoch:
        raise error(
            Code.EPOCH_STALE,
            f"{replica.vm_name} on host {host.name} is in epoch {manifest.epoch}, {point.name} is of {point.epoch}",
            job=replica.job,
            host=host.name,
        )
    files = [layer.file for layer in opened.layers]
    host.step("commit:close")
    place.change("close", before, None, *pairs(files), what=f"end the writers of {point.name}")
    for file in files:
        host.step("commit:check")
        _check(host, place, replica, file)
    host.step("commit:measure")
    entry = _entry(place, point, opened)
    after = msgspec.structs.replace(
        manifest, points=(*manifest.points, entry), open=None, epoch=max(manifest.epoch, point.epoch)
    )
    host.step("commit:publish")
    place.change("publish", before, after, *pairs(files), what=f"publish {point.name}")
    host.step("commit:published")
    return entry


def _same(opened: journal.OpenEntry, point: CommitPoint) -> bool:
    return opened.point_id == point.point_id and {layer.file for layer in opened.layers} == {
        layer.identity for layer in point.layers
    }


def _check(host: Host, place: Place, replica: Replica, file: str) -> None:
    code, said = place.operate(
        f"check-{layer_id(file)}",
        ("sh", "-c", CHECK, "check", file),
        timeout=CHECK_TIMEOUT,
        what=f"check {file}",
    )
    if code != 0:
        raise error(
            Code.TARGET_CHECK_FAILED,
            f"{file} on host {host.name} did not pass qemu-img check: {said.strip()[-500:]}",
            job=replica.job,
            host=host.name,
        )


def _entry(place: Place, point: CommitPoint, opened: journal.OpenEntry) -> journal.PointEntry:
    stored = place.stored_bytes([layer.file for layer in opened.layers])
    return journal.PointEntry(
        point_id=point.point_id,
        name=point.name,
        sequence=point.sequence,
        instant=point.instant,
        kind=point.kind,
        consistency=point.consistency,
        epoch=point.epoch,
        disks=tuple(
            msgspec.structs.replace(layer, stored_bytes=stored[layer.file], root=point.roots.get(layer.slot, ""))
            for layer in opened.layers
        ),
    )
