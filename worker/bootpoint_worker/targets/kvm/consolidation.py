"""Removing a point by merging it with its successor: the qcow2 way.

The point P goes, its successor is S, and the next one T. P's file gets S's content; S reads right at every moment::

    before   … ◄── P.file ◄── S.file ◄── T.file         S.file stands on P.file
    mark     the journal no longer lists P: half merged, it can't be started
    merge    S's clusters are copied into P.file; read through S.file, nothing changes
    settle   … ◄── P.file ◄── T.file                    whatever stood on S.file stands on P.file,
                         ◄── S.file                     and the journal says that S is P.file
    clear    S.file is removed

Each step finds what is done when it comes again, and each is refused on the host unless the journal is the one that it
was worked out from: a worker that was frozen and thaws merges nothing. The runbook is written after the mark, without
P, and once more before S.file is removed: each of its blocks works at every moment.

Whoever has P.file open, directly or beneath something, holds a lock of QEMU's on it. What is powered off holds none:
so what stands on P.file is looked for in the headers of all files in the directory.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping
from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.units import format_size
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.kvm import creation, journal
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.qcow2 import layer_id
from bootpoint_worker.targets.kvm.standby import write_runbook
from bootpoint_worker.targets.replica import Replica

#: Seconds that one call works on a merge before it returns with ``busy``; the host goes on with it. Less than a claim
#: lives without progress, and less than the lock on the VMs is held.
MERGE_SECONDS = 240.0

#: Copies a layer into the one beneath it, makes that durable, and gives back what a killed attempt had taken.
MERGE = (
    'qemu-img commit -q -d -t writeback -f qcow2 "$1" && sync "$2" || exit 1; '
    'qemu-img check -q -f qcow2 "$2"; code=$?; '
    'if [ "$code" -eq 3 ]; then qemu-img check -q -f qcow2 -r leaks "$2" && sync "$2"; code=$?; fi; '
    '[ "$code" -eq 0 ] || { echo "the check failed"; exit 2; }'
)

#: What qemu-img says when somebody else has a file open: 'Failed to get "write" lock', or a shared one.
_LOCKED = "Failed to get "

#: What any tool says when the storage is full.
_FULL = "No space left"


def consolidate(host: Host, replica: Replica, point_id: UUID) -> JournalPoint:
    """Merge a point into its successor; see `Target.consolidate`."""
    place = host.place(replica)
    deadline = time.monotonic() + MERGE_SECONDS

    def again() -> JournalPoint:
        with place.guarded():
            before = host.must_read(place, replica)
            merging = before.manifest.consolidating
            if merging is not None and merging.point.point_id != point_id:
                before = _finish(host, place, before, deadline)
                merging = None
            if merging is None:
                heir = before.manifest.heir(point_id) if before.manifest.point(point_id) is None else None
                if heir is not None:
                    return heir.described()
                before = _begin(host, place, before, point_id)
            into = before.manifest.consolidating.into if before.manifest.consolidating else point_id
            return _finish(host, place, before, deadline).manifest.must_have(into, host=host.name).described()

    return place.retried(again)


def _begin(host: Host, place: Place, before: Snapshot, point_id: UUID) -> Snapshot:
    """Look at everything that speaks against it, then take the point off the journal's list."""
    manifest = before.manifest
    point = manifest.must_have(point_id, host=host.name)
    if manifest.open is not None:
        text = f"point {manifest.open.point_id} of {manifest.replica.vm_name} is open on host {host.name}"
        raise error(Code.POINT_OPEN, text, job=manifest.replica.job, host=host.name)
    if point is manifest.head:
        raise _in_use(host, manifest, point, "it is the newest")
    host.step("consolidate:check")
    into = manifest.points[manifest.points.index(point) + 1]
    overlays = place.overlays()
    _check_overlays(host, manifest, point, into, overlays)
    _check_machines(host, place, manifest, point, overlays)
    _check_room(host, manifest, point, into)
    rest = tuple(other for other in manifest.points if other is not point)
    after = msgspec.structs.replace(manifest, points=rest, consolidating=journal.Merging(point, into.point_id))
    host.step("consolidate:mark")
    marked = place.change("mark", before, after, *(d.file for d in point.disks), what=f"begin to merge {point.name}")
    host.step("consolidate:marked")
    return marked


def _in_use(host: Host, manifest: journal.Manifest, point: journal.PointEntry, why: str) -> BootpointError:
    return error(
        Code.POINT_IN_USE,
        f"{point.name} of {manifest.replica.vm_name} on host {host.name} can't be merged: {why}",
        value=point.name,
        job=manifest.replica.job,
        host=host.name,
    )


def _check_overlays(
    host: Host,
    manifest: journal.Manifest,
    point: journal.PointEntry,
    into: journal.PointEntry,
    overlays: Mapping[str, str],
) -> None:
    """Refuse where anything but the successor stands on the point: it would change with it."""
    successors = {disk.file for disk in into.disks}
    tests = {layer.file: test.test_id for test in manifest.tests for layer in test.layers}
    for file, below in overlays.items():
        if file not in successors and any(disk.file in below for disk in point.disks):
            test = f" (test {tests[file]})" if file in tests else ""
            raise _in_use(host, manifest, point, f"{file} stands on it{test}")


def _check_machines(
    host: Host, place: Place, manifest: journal.Manifest, point: journal.PointEntry, overlays: Mapping[str, str]
) -> None:
    """Refuse where a VM runs on anything above the point: QEMU's locks would, half-way."""
    files = {disk.file for disk in point.disks}
    for name, disks in host.hypervisor.running_disks().items():
        for path in disks:
            directory, file = posixpath.split(path)
            seen = set()
            while posixpath.normpath(directory) == place.directory and file and file not in seen:
                seen.add(file)
                file = posixpath.basename(overlays.get(file, ""))
            if seen & files:
                raise _in_use(host, manifest, point, f"VM {name} runs above it")


def _check_room(host: Host, manifest: journal.Manifest, point: journal.PointEntry, into: journal.PointEntry) -> None:
    """Refuse where the storage may fill up: at worst every byte of the successor is new to the point's files."""
    files = {old for old, _new in _pairs(point, into)}
    needed = sum(disk.stored_bytes for disk in into.disks if disk.file in files)
    free = creation.free_bytes(host, manifest.replica)
    if free < needed:
        raise error(
            Code.HOST_FULL,
            f"storage {manifest.replica.storage!r} on {host.name} has {format_size(free)} free, merging {point.name}"
            f" may need {format_size(needed)} for a while",
            value=manifest.replica.storage,
            job=manifest.replica.job,
            host=host.name,
        )


def _pairs(point: journal.PointEntry, into: journal.PointEntry) -> list[tuple[str, str]]:
    """Return the files to merge, the successor's and the point's; a disk that is newer or gone has none."""
    files = {disk.file for disk in point.disks}
    return [(disk.file, disk.base) for disk in into.disks if disk.base in files]


def _finish(host: Host, place: Place, before: Snapshot, deadline: float) -> Snapshot:
    """Do what is left of a merge that the journal speaks of."""
    merging = before.manifest.consolidating
    if merging is None:
        return before
    into = before.manifest.must_have(merging.into, host=host.name)
    if not merging.settled:
        host.step("consolidate:runbook")
        write_runbook(host, place, before.manifest)
        for pair in _pairs(merging.point, into):
            host.step("consolidate:merge")
            _merge(host, place, before, pair, deadline)
        host.step("consolidate:settle")
        before = _settle(place, before, merging, into)
    host.step("consolidate:rename")
    write_runbook(host, place, before.manifest)
    merging = before.manifest.consolidating or merging
    merged = before.manifest.merged_with(merging)
    after = msgspec.structs.replace(before.manifest, consolidating=None, merged=merged)
    words = [word for file, heir in merging.left for word in (file, heir or "-", layer_id(file))]
    host.step("consolidate:clear")
    done = place.change("clear", before, after, *words, what=f"remove what {merging.point.name} left")
    host.step("consolidate:done")
    return done


def _merge(host: Host, place: Place, before: Snapshot, pair: tuple[str, str], deadline: float) -> None:
    """Copy a layer into the one beneath it, as a long operation."""
    old, new = pair
    what = f"merge {old} into {new}"
    code, said = place.operate(
        f"merge-{layer_id(old)}",
        ("sh", "-c", MERGE, "merge", old, new),
        timeout=max(0.0, deadline - time.monotonic()),
        what=what,
        before=before,
    )
    if code == 0:
        return
    cause = (
        Code.TARGET_CHECK_FAILED
        if code == 2
        else Code.BUSY
        if _LOCKED in said
        else Code.HOST_FULL
        if _FULL in said
        else Code.TARGET_WRITE_ERROR
    )
    said = said.strip()[-500:] or f"exit code {code}"
    raise error(cause, f"host {host.name} could not {what}: {said}", job=before.manifest.replica.job, host=host.name)


def _settle(place: Place, before: Snapshot, merging: journal.Merging, into: journal.PointEntry) -> Snapshot:
    """Let everything above stand on the point's files, and the journal name the successor by them."""
    manifest = before.manifest
    now = dict(_pairs(merging.point, into))
    below = {disk.file: disk.base for disk in merging.point.disks}
    stored = place.stored_bytes(list(now.values())) if now else {}

    def moved(disk: journal.LayerEntry) -> journal.LayerEntry:
        if disk.file in now:
            file = now[disk.file]
            return msgspec.structs.replace(disk, file=file, base=below[file], stored_bytes=stored[file])
        return msgspec.structs.replace(disk, base=now.get(disk.base or "", disk.base))

    def shifted(machine: journal.Machine) -> journal.Machine:
        layers = tuple(msgspec.structs.replace(layer, base=now.get(layer.base, layer.base)) for layer in machine.layers)
        return msgspec.structs.replace(machine, layers=layers)

    left: list[tuple[str, str | None]] = list(now.items())
    left += [(disk.file, None) for disk in merging.point.disks if disk.file not in now.values()]
    after = msgspec.structs.replace(
        manifest,
        points=tuple(
            msgspec.structs.replace(point, disks=tuple(moved(disk) for disk in point.disks))
            for point in manifest.points
        ),
        standby=shifted(manifest.standby) if manifest.standby else None,
        tests=tuple(shifted(test) for test in manifest.tests),
        branches=tuple(
            msgspec.structs.replace(branch, base=now.get(branch.base, branch.base)) for branch in manifest.branches
        ),
        consolidating=msgspec.structs.replace(merging, settled=True, left=tuple(left)),
    )
    words = [word for pair in now.items() for word in pair]
    return place.change("settle", before, after, *words, what=f"settle the merge of {merging.point.name}")
