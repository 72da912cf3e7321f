"""The leaves of a standby: letting it stand on a point with empty ones, and fitting its hardware to what it is to be.

A revert brings back the snapshot's hardware with its disks: processors, memory, cards and name as they were then, and
no disk that came later. So each revert is followed by a fit.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from bootpoint_worker.targets.snapshots import journal, layout, place
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import State, Vm

#: How the snapshots begin that keep what a standby wrote before it was moved on.
KEPT = "kept-"


def stand(host: Host, before: place.Snapshot, point: journal.PointEntry | None) -> place.Snapshot:
    """Let the standby stand on a point, with empty leaves that are written down.

    Args:
        host: The host.
        before: The replica; nothing is open.
        point: The point; None before the first one, whose disks are made anew then.

    Returns:
        The replica with a journal that says so.

    Raises:
        RefusedError: ``standby_running``.
        RetryableError: ``layer_lost``: the point's snapshot is gone.
        Changed: The journal is another one by now.
    """
    replica, vm = before.manifest.replica, before.vm
    state = host.state(vm)
    place.refuse_running(host, replica, state)
    clean = is_clean(before.manifest, state, point)
    if not clean:
        if written(host, before, state):
            host.step("stand:keep")
            keep(host, before)
        host.step("stand:revert")
        if point is not None:
            if point.snapshot not in state.tree:
                raise layout.removed(host, replica, point)
            host.revert(vm, point.snapshot)
        else:
            host.remake_disks(before, state)
        state = host.state(vm)
    host.step("stand:fit")
    keys, changed = host.fit(before, state, point)
    if clean and not changed:
        return before
    host.step("stand:journal")
    return place.change(
        before, msgspec.structs.replace(before.manifest, keys=keys, dirty=False, leaves=leaves(host, vm))
    )


def is_clean(manifest: journal.Manifest, state: State, point: journal.PointEntry | None) -> bool:
    """Tell whether the VM stands on a point, and on leaves that nobody has written to as far as the journal knows."""
    expected = {leaf.key: leaf.file for leaf in manifest.leaves}
    found = {drive.key: drive.file for drive in state.drives}
    return not manifest.dirty and state.current == (point.snapshot if point else None) and expected == found


def written(host: Host, before: place.Snapshot, state: State) -> list[str]:
    """Return the leaves that hold what a standby wrote; empty where they hold a point's torn bytes, or nothing."""
    manifest = before.manifest
    if manifest.open is not None or manifest.head is None:
        return []
    files = [drive.file for drive in state.drives]
    if manifest.standby is not None and manifest.standby.started_at is not None:
        return files
    fresh = {leaf.file: leaf.stored_bytes for leaf in manifest.leaves}
    sizes = host.stored_bytes(before.vm) if fresh else {}
    return [file for file in files if file in fresh and sizes.get(file, 0) > fresh[file]]


def keep(host: Host, before: place.Snapshot) -> None:
    """Keep what the standby wrote as a snapshot beside the points, for a person to decide about."""
    name = f"{KEPT}{datetime.now(UTC):%Y%m%d_%H%M%S}"
    text = f"What {before.manifest.replica.vm_name} wrote before it was moved on. Delete it when nobody needs it."
    host.make_snapshot(before.vm, name, text)


def leaves(host: Host, vm: Vm) -> tuple[journal.Leaf, ...]:
    """Return the leaves of a VM as they are now."""
    sizes = host.stored_bytes(vm)
    found = host.state(vm).drives
    return tuple(journal.Leaf(drive.key, drive.file, sizes.get(drive.file, 0)) for drive in found)
