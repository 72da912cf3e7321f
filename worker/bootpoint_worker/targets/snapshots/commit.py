"""Making a point visible, and what follows from it.

Steps, each of which finds what is done when it comes again::

    close     the journal says that nobody may write any more, and no server on this machine does
    check     the VM is off, and its leaves are those that were opened
    snapshot  the leaves become the point's disks; one that is there for the point is taken
    publish   the journal lists the point: here it comes to be
    stand     a standby that was reverted goes back to its point; the runbook is written
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.layer import CommitPoint
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, layout, leaf, place, runbook
from bootpoint_worker.targets.snapshots.host import Host


def commit_point(host: Host, replica: Replica, point: CommitPoint) -> JournalPoint:
    """Commit a point; see `Target.commit`."""

    def again() -> journal.PointEntry:
        after, entry = _publish(host, place.read(host, replica), replica, point)
        _settle(host, after)
        return entry

    entry = place.retried(host, again)
    host.step("commit:done")
    return entry.described()


def _publish(
    host: Host, before: place.Snapshot | None, replica: Replica, point: CommitPoint
) -> tuple[place.Snapshot, journal.PointEntry]:
    if before is not None and (done := before.manifest.point(point.point_id)) is not None:
        return before, done
    before, opened = _opened(host, before, replica, point)
    host.step("commit:close")
    closed = msgspec.structs.replace(opened, closed=True)
    before = place.change(before, msgspec.structs.replace(before.manifest, open=closed))
    for layer in opened.layers:
        host.end_writers(layer.file)
    host.step("commit:check")
    snapshot = _snapshot(host, before, point, opened)
    host.step("commit:measure")
    entry = _entry(point, snapshot, _disks(host, before, snapshot, point, opened))
    host.step("commit:publish")
    manifest = before.manifest
    after = msgspec.structs.replace(
        manifest,
        points=(*manifest.points, entry),
        open=None,
        epoch=max(manifest.epoch, point.epoch),
        standby=_standby(manifest, entry),
        # Whatever the snapshot left above itself is new and empty.
        dirty=False,
        leaves=leaf.leaves(host, before.vm),
    )
    published = place.change(before, after)
    host.step("commit:published")
    return published, entry


def _opened(
    host: Host, before: place.Snapshot | None, replica: Replica, point: CommitPoint
) -> tuple[place.Snapshot, journal.OpenEntry]:
    opened = before.manifest.open if before is not None else None
    same = opened is not None and opened.point_id == point.point_id
    if before is None or opened is None or not same or _files(opened) != {layer.identity for layer in point.layers}:
        text = f"point {point.name} of {replica.vm_name} is neither open nor committed on host {host.name}"
        raise host.problem(Code.LAYER_LOST, text, replica)
    if before.manifest.epoch > point.epoch:
        epoch = before.manifest.epoch
        text = f"{replica.vm_name} on host {host.name} is in epoch {epoch}, {point.name} is of {point.epoch}"
        raise host.problem(Code.EPOCH_STALE, text, replica)
    return before, opened


def _files(opened: journal.OpenEntry) -> set[str]:
    return {layer.file for layer in opened.layers}


def _snapshot(host: Host, before: place.Snapshot, point: CommitPoint, opened: journal.OpenEntry) -> str:
    """Return the point's snapshot: the one that an earlier call has made, or a new one."""
    state = host.state(before.vm)
    there = layout.snapshot_of(state, point.point_id)
    if there is not None:
        return there.id
    head = before.manifest.head
    if state.current != (head.snapshot if head else None):
        replica = before.manifest.replica
        text = f"{replica.vm_name} stands on another snapshot than the one that {point.name} was opened on"
        raise host.problem(Code.LAYER_LOST, text, replica)
    check_leaves(host, before, point.point_id, opened.layers)
    host.step("commit:snapshot")
    job = before.manifest.replica.job
    text = f"Boot point of the job {job}: {point.kind}, consistency {point.consistency}."
    return host.make_snapshot(before.vm, point.name, text, point.point_id)


def check_leaves(host: Host, before: place.Snapshot, point_id: UUID, layers: tuple[journal.LayerEntry, ...]) -> None:
    """Look whether the leaves that were opened for a point are the VM's, and are there.

    Raises:
        RefusedError: ``standby_running``.
        RetryableError: ``layer_lost``.
    """
    state = host.state(before.vm)
    place.refuse_running(host, before.manifest.replica, state)
    for layer in layers:
        same = state.mark == str(point_id) and state.leaf(layer.key) == layer.file
        if not same or not before.store.has(layer.file):
            raise lost(host, before.manifest.replica, layer.file)


def lost(host: Host, replica: Replica, file: str) -> BootpointError:
    """Return the error of a layer that isn't there any more."""
    return host.problem(Code.LAYER_LOST, f"host {host.name} has no open layer {file}", replica)


def _entry(point: CommitPoint, snapshot: str, disks: tuple[journal.LayerEntry, ...]) -> journal.PointEntry:
    return journal.PointEntry(
        point_id=point.point_id,
        name=point.name,
        sequence=point.sequence,
        instant=point.instant,
        kind=point.kind,
        consistency=point.consistency,
        epoch=point.epoch,
        snapshot=snapshot,
        disks=disks,
    )


def _disks(
    host: Host, before: place.Snapshot, snapshot: str, point: CommitPoint, opened: journal.OpenEntry
) -> tuple[journal.LayerEntry, ...]:
    files = host.snapshot_files(before.vm, [snapshot])[snapshot]
    stored = host.stored_bytes(before.vm)
    return tuple(
        msgspec.structs.replace(
            layer,
            file=files[layer.key],
            stored_bytes=stored.get(files[layer.key], 0),
            root=point.roots.get(layer.slot, ""),
        )
        for layer in opened.layers
    )


def _standby(manifest: journal.Manifest, head: journal.PointEntry) -> journal.Machine:
    """Return where the standby stands from now on: on the new head, unless it was reverted to another point."""
    standby = manifest.standby
    return standby if standby is not None and standby.held else journal.Machine(point_id=head.point_id)


def _settle(host: Host, before: place.Snapshot) -> None:
    """Let the standby stand where it has to, unless it runs, or the next point is open already."""
    if before.manifest.open is not None:
        return
    state = host.state(before.vm)
    if not state.on:
        host.step("commit:settle")
        before = leaf.stand(host, before, before.manifest.stood_on())
    host.step("commit:runbook")
    runbook.write(host, before)
