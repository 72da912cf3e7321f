"""Where the files of a standby's points are now: hosts name them anew in a merge, and somebody may move the VM.

The points are known by their snapshots, and these by what the host keeps with them: a VM that was taken out of the list
and registered again may have the same snapshots under other ids.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.store import Store
from bootpoint_worker.targets.snapshots.vm import Node, State, Vm

#: The way out where a replica can't be gone on with.
_ANEW = "begin the replica anew: `bootpoint job delete JOB --delete-replica`, then apply its file again"


def snapshot_of(state: State, point_id: object) -> Node | None:
    """Return the snapshot that was made for a point; None when there is none."""
    return next((node for node in state.tree.values() if node.point_id == point_id), None)


def disks_of(host: Host, vm: Vm, replica: Replica, point: journal.PointEntry) -> tuple[journal.LayerEntry, ...]:
    """Return a point's disks with the files that its snapshot has at this moment.

    Where somebody has removed another snapshot, the file that the journal names may be another point's by now.

    Raises:
        RetryableError: ``layer_lost``: the snapshot is gone.
    """
    try:
        files = host.snapshot_files(vm, [point.snapshot]).get(point.snapshot)
    except BootpointError as exc:
        if exc.code is not Code.LAYER_LOST:
            raise
        raise removed(host, replica, point) from exc
    if files is None:
        raise removed(host, replica, point)
    return tuple(msgspec.structs.replace(disk, file=files.get(disk.key, disk.file)) for disk in point.disks)


def removed(host: Host, replica: Replica, point: journal.PointEntry) -> BootpointError:
    """Return the error of a point whose snapshot isn't there any more."""
    text = f"somebody has removed the snapshot {point.name} of {replica.vm_name} on host {host.name}"
    hint = f"if it is the newest, {_ANEW}; {host.page}"
    return host.problem(Code.LAYER_LOST, text, replica, value=point.name, hint=hint)


def missing(host: Host, vm: Vm, store: Store, replica: Replica, points: Iterable[journal.PointEntry]) -> str | None:
    """Return a file of some points that isn't there; None when all are.

    Raises:
        RetryableError: ``layer_lost``: a snapshot is gone.
    """
    files = (disk.file for point in points for disk in disks_of(host, vm, replica, point))
    return next((file for file in files if not store.has(file)), None)


def deleted(host: Host, name: str, file: str) -> BootpointError:
    """Return the error of a point's file that isn't there any more.

    Args:
        host: The host.
        name: The VM.
        file: Path of the file.
    """
    text = f"somebody has deleted {file} of {name} on host {host.name}: points that stand on it can't be read"
    hint = f"put it back from a backup, or {_ANEW}; {host.page}"
    return error(Code.LAYER_LOST, text, value=file, hint=hint, host=host.name)


def was_moved(host: Host, manifest: journal.Manifest, directory: str) -> bool:
    """Tell whether a VM's folder is another one than that in which the points' files were when they were written down.

    Args:
        host: The host.
        manifest: The journal.
        directory: Path of the folder.
    """
    return any(host.parent(disk.file) != directory for point in manifest.points for disk in point.disks)


def found(host: Host, vm: Vm, manifest: journal.Manifest) -> journal.Manifest:
    """Return a journal with the snapshots and files that points and leaves have now.

    Args:
        host: The host.
        vm: The VM.
        manifest: The journal; a point whose snapshot is gone stays as it is.
    """
    state = host.state(vm)
    merging = manifest.consolidating
    points = (*manifest.points, merging.point) if merging is not None else manifest.points
    ids = {point.point_id: node.id for point in points if (node := snapshot_of(state, point.point_id))}
    files = host.snapshot_files(vm, list(ids.values()))
    stored = host.stored_bytes(vm)

    def now(point: journal.PointEntry) -> journal.PointEntry:
        snapshot = ids.get(point.point_id, point.snapshot)
        disks = []
        for disk in point.disks:
            file = files.get(snapshot, {}).get(disk.key, disk.file)
            disks.append(msgspec.structs.replace(disk, file=file, stored_bytes=stored.get(file, disk.stored_bytes)))
        return msgspec.structs.replace(point, snapshot=snapshot, disks=tuple(disks))

    leaves = (msgspec.structs.replace(one, file=state.leaf(one.key) or one.file) for one in manifest.leaves)
    return msgspec.structs.replace(
        manifest,
        points=tuple(map(now, manifest.points)),
        leaves=tuple(leaves),
        consolidating=msgspec.structs.replace(merging, point=now(merging.point)) if merging is not None else None,
    )
