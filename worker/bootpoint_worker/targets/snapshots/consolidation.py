"""Removing a point by merging it with its successor: the hypervisor removes the snapshot and keeps its children.

::

    before   base ◄── P's delta ◄── S's delta ◄── …       snapshots P, S, …
    mark     the journal no longer lists P
    remove   the hypervisor removes the snapshot: S's delta is merged into P's; S and all above show the same bytes
    rest     deltas that are left, or still on their way, are merged
    settle   the journal takes the names that the files of all points have now

Each step finds what is done when it comes again. The host goes on with a merge that takes longer than a call.
"""

from __future__ import annotations

import time
from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import format_size
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.manifest import Merging
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, layout, place, runbook
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import State

#: Seconds that one call waits for a merge before it returns with ``busy``; the host goes on with it. Less than a claim
#: lives without progress.
MERGE_SECONDS = 240.0


def consolidate(host: Host, replica: Replica, point_id: UUID) -> JournalPoint:
    """Merge a point into its successor; see `Target.consolidate`."""
    deadline = time.monotonic() + MERGE_SECONDS

    def again() -> JournalPoint:
        before = place.must_read(host, replica)
        merging = before.manifest.consolidating
        if merging is not None and merging.point.point_id != point_id:
            before = _finish(host, before, merging, deadline)
            merging = None
        if merging is None:
            heir = before.manifest.heir(point_id) if before.manifest.point(point_id) is None else None
            if heir is not None:
                return heir.described()
            before, merging = _begin(host, before, point_id)
        after = _finish(host, before, merging, deadline).manifest
        return after.must_have(merging.into, host=host.name).described()

    return place.retried(host, again)


def _begin(host: Host, before: place.Snapshot, point_id: UUID) -> tuple[place.Snapshot, Merging[journal.PointEntry]]:
    """Look at everything that speaks against it, then take the point off the journal's list."""
    manifest = before.manifest
    point = manifest.must_have(point_id, host=host.name)
    if manifest.open is not None:
        text = f"point {manifest.open.point_id} of {manifest.replica.vm_name} is open on host {host.name}"
        raise host.problem(Code.POINT_OPEN, text, manifest.replica)
    if point is manifest.head:
        raise _in_use(host, manifest, point, "it is the newest")
    host.step("consolidate:check")
    into = manifest.points[manifest.points.index(point) + 1]
    state = host.state(before.vm)
    _check_tree(host, manifest, state, point, into)
    _check_machines(host, manifest, state, point, into)
    _check_files(host, before, point, into)
    _check_room(host, before, point, into)
    merging = Merging(point, into.point_id)
    rest = tuple(other for other in manifest.points if other is not point)
    host.step("consolidate:mark")
    marked = place.change(before, msgspec.structs.replace(manifest, points=rest, consolidating=merging))
    host.step("consolidate:marked")
    return marked, merging


def _in_use(host: Host, manifest: journal.Manifest, point: journal.PointEntry, why: str) -> BootpointError:
    text = f"{point.name} of {manifest.replica.vm_name} on host {host.name} can't be merged: {why}"
    return host.problem(Code.POINT_IN_USE, text, manifest.replica, value=point.name)


def _check_tree(
    host: Host, manifest: journal.Manifest, state: State, point: journal.PointEntry, into: journal.PointEntry
) -> None:
    """Refuse where anything but the successor stands on the point: it would not be merged then."""
    if state.current == point.snapshot:
        raise _in_use(host, manifest, point, "the standby stands on it")
    node = state.tree.get(point.snapshot)
    for child in node.children if node else ():
        if child != into.snapshot:
            raise _in_use(host, manifest, point, f"snapshot {state.tree[child].name} stands on it")


def _check_machines(
    host: Host, manifest: journal.Manifest, state: State, point: journal.PointEntry, into: journal.PointEntry
) -> None:
    """Refuse where a VM would lose what it stands on: test VMs name files of the point or its successor.

    A hypervisor renames the files of the standby's own deltas after a merge, and knows nothing of those of other VMs.
    """
    order = [each.point_id for each in manifest.points]
    standing = manifest.standby
    if state.on and standing is not None and order.index(standing.point_id) >= order.index(point.point_id):
        raise _in_use(host, manifest, point, f"{manifest.replica.vm_name} runs above it")
    running = {vm.test_id for vm in host.machines() if vm.on}
    for test in manifest.tests:
        above = order.index(test.point_id) >= order.index(point.point_id)
        if test.point_id in (point.point_id, into.point_id):
            raise _in_use(host, manifest, point, f"test {test.test_id} stands on it, or on its successor")
        if above and test.test_id in running:
            raise _in_use(host, manifest, point, f"test {test.test_id} runs above it")


def _check_files(host: Host, before: place.Snapshot, *points: journal.PointEntry) -> None:
    """Refuse where a file that is to be merged isn't there: the merge would never end, and nothing be opened again."""
    replica = before.manifest.replica
    file = layout.missing(host, before.vm, before.store, replica, points)
    if file is not None:
        raise layout.deleted(host, replica.vm_name, file)


def _check_room(host: Host, before: place.Snapshot, point: journal.PointEntry, into: journal.PointEntry) -> None:
    """Refuse where the storage may fill up: at worst every byte of the successor is new to the point's files."""
    needed = sum(disk.stored_bytes for disk in into.disks if not disk.copied)
    free = before.store.free_bytes()
    if free < needed:
        text = (
            f"storage {before.store.name!r} of {host.name} has {format_size(free)} free, merging {point.name}"
            f" may need {format_size(needed)} for a while"
        )
        raise host.problem(Code.HOST_FULL, text, before.manifest.replica, value=before.store.name)


def _finish(
    host: Host, before: place.Snapshot, merging: Merging[journal.PointEntry], deadline: float
) -> place.Snapshot:
    """Do what is left of a merge that the journal speaks of."""
    vm = before.vm
    begun = merging.point.snapshot not in host.state(vm).tree
    if not begun:
        host.step("consolidate:remove")
        host.remove_snapshot(vm, merging.point.snapshot, max(1.0, deadline - time.monotonic()))
    # A host that was started anew since an earlier call may have stopped merging before the end.
    if begun or host.state(vm).unmerged:
        host.step("consolidate:rest")
        host.merge_rest(vm, max(1.0, deadline - time.monotonic()))
    if host.state(vm).unmerged:
        text = f"host {host.name} has not merged all deltas of {merging.point.name}"
        raise host.problem(Code.BUSY, text, before.manifest.replica)
    host.step("consolidate:settle")
    done = place.change(before, _settled(host, before, merging))
    host.step("consolidate:runbook")
    runbook.write(host, done)
    host.step("consolidate:done")
    return done


def _settled(host: Host, before: place.Snapshot, merging: Merging[journal.PointEntry]) -> journal.Manifest:
    """Return the journal with the files that the points have after a merge."""
    manifest = layout.found(host, before.vm, before.manifest)
    return msgspec.structs.replace(manifest, consolidating=None, merged=manifest.merged_with(merging))
