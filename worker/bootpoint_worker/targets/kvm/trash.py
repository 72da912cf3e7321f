"""Deleted replicas: their files lie in a trash beside their place, until they are taken back or go for good.

::

    <folder>/<vm name>/                          <folder>/.bootpoint-trash/<replica id>/
        manifest.json  ──mark──► discarded_at
        <disk>.….qcow2 ──move──────────────────►     <disk>.….qcow2
        manifest.json  ──move, the last────────►     manifest.json

Files move one by one, for what isn't ours stays where it is; layers name their backing files without a directory, so
the chain holds as soon as all of them are there. While they move nobody uses them: the journal is marked before, and
moved at the end. Each step finds what is done when it comes again.
"""

from __future__ import annotations

import posixpath
import re
from datetime import datetime

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.host import taken
from bootpoint_worker.targets.kvm import domain, journal, opening, script, standby
from bootpoint_worker.targets.kvm.conversion.layer import end_all
from bootpoint_worker.targets.kvm.creation import stems
from bootpoint_worker.targets.kvm.find import TRASH
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.session import check
from bootpoint_worker.targets.replica import Replica


def discard(host: Host, replica: Replica, at: datetime, *, dry_run: bool) -> None:
    """Put a replica into the trash; see `Target.discard`."""
    place = host.place(replica)

    def again() -> None:
        before = _own(place, replica)
        if before is None:
            return  # it is there already, and what has its place now is somebody else's
        opened = before.manifest.open
        if opened is not None and not dry_run:
            opening.abort_point(host, replica, opened.point_id, opened.described())
        with place.guarded():
            before = _own(place, replica)
            if before is None:
                return
            _check(host, place, before)
            if not dry_run:
                _discard(host, place, before, at)

    place.retried(again)


def _discard(host: Host, place: Place, before: Snapshot, at: datetime) -> None:
    replica = before.manifest.replica
    host.step("discard:machine")
    standby.remove_machine(host, posixpath.basename(place.directory), replica.replica_id)
    end_all(place)
    host.step("discard:mark")
    if before.manifest.discarded_at is None:
        after = msgspec.structs.replace(before.manifest, discarded_at=at)
        before = place.change("mark", before, after, what=f"mark {place.directory} as deleted")
    host.step("discard:move")
    inside = _trash(place, replica).directory
    place.change("trash", before, None, inside, *stems(before.manifest), what=f"move {place.directory} into the trash")
    host.step("discard:done")


def restore(host: Host, replica: Replica) -> None:
    """Take a replica out of the trash; see `Target.restore`."""
    place = host.place(replica)
    trash = _trash(place, replica)

    def again() -> None:
        outside, inside = host.read(place, replica), trash.read()
        if outside is None:
            _refuse_taken(host, replica)
            if inside is None:
                text = f"host {host.name} has no replica {replica.vm_name} in its trash"
                raise error(Code.NO_SUCH_VM, text, value=replica.vm_name, job=replica.job, host=host.name)
            host.step("restore:move")
            data = msgspec.structs.replace(inside.manifest, discarded_at=None).encoded()
            trash.run(
                "restore",
                inside.digest,
                journal.digest(data),
                place.directory,
                stdin=data,
                what=f"move {place.directory} out of the trash",
            )
        elif inside is not None:  # all but the old journal was moved
            trash.change("remove", inside, None, *stems(inside.manifest), what=f"clear {trash.directory}")

    place.retried(again)
    host.step("restore:define")
    standby.remake(host, place, replica)


def purge(host: Host, replica: Replica) -> None:
    """Remove a replica from the trash; see `Target.purge`."""
    place = host.place(replica)
    trash = _trash(place, replica)

    def again() -> None:
        inside = trash.read()
        if inside is None:
            return
        host.step("purge:place")
        # Somebody may have begun to take it back: as long as the journal is here its files may be in either place.
        left = host.session.run(script.script("leftover"), place.directory, *_files(inside.manifest))
        check(host.session, left, f"clear {place.directory}")
        host.step("purge:files")
        trash.change("remove", inside, None, *stems(inside.manifest), what=f"remove {trash.directory}")

    trash.retried(again)


def _files(manifest: journal.Manifest) -> list[str]:
    """Return the names of all files that a journal in the trash names."""
    files = {disk.file for point in manifest.points for disk in point.disks}
    return sorted(files | manifest.scratch_files() | {branch.file for branch in manifest.branches})


def _trash(place: Place, replica: Replica) -> Place:
    """Return where a replica lies once it was deleted."""
    at = posixpath.join(posixpath.dirname(place.directory), TRASH, str(replica.replica_id))
    return Place(session=place.session, directory=at)


def _own(place: Place, replica: Replica) -> Snapshot | None:
    """Read the journal of a replica that has its place still, marked or not."""
    snapshot = place.read()
    mine = snapshot is not None and snapshot.manifest.replica.replica_id == replica.replica_id
    return snapshot if mine else None


def _refuse_taken(host: Host, replica: Replica) -> None:
    """Refuse a VM's name that somebody else has by now."""
    found = host.hypervisor.state(replica.vm_name)
    mark = domain.mark_of(found[1]) if found else None
    if found and (mark is None or mark.replica_id != replica.replica_id):
        raise taken(host.name, replica, "there is one that bootpoint did not make, or of another job")


def _check(host: Host, place: Place, before: Snapshot) -> None:
    """Refuse what would take a point from under somebody."""
    manifest = before.manifest
    if manifest.discarded_at is not None:
        return  # it was looked at before it was marked
    standby.refuse_running(host, manifest)
    if manifest.consolidating is not None:
        text = f"{manifest.consolidating.point.name} of {manifest.replica.vm_name} is being merged on host {host.name}"
        raise error(Code.BUSY, text, job=manifest.replica.job, host=host.name)
    if manifest.tests:
        names = ", ".join(test.test_id or "" for test in manifest.tests)
        raise _in_use(host, manifest, f"test {names} stands on a point")
    for name, paths in host.hypervisor.running_disks().items():
        if any(posixpath.normpath(posixpath.dirname(path)) == place.directory for path in paths):
            raise _in_use(host, manifest, f"VM {name} runs on files of it")
    disks = "|".join(re.escape(stem) for stem in stems(manifest))
    ours = re.compile(rf"(?:{disks})\.(?:[0-9a-f]{{32}}|(?:scratch|branch|convert)-.*)\.qcow2", re.DOTALL)
    for file, below in place.overlays().items():
        if ours.fullmatch(file) is None and ours.fullmatch(posixpath.basename(below)) is not None:
            raise _in_use(host, manifest, f"{file} beside its points stands on one of them")


def _in_use(host: Host, manifest: journal.Manifest, why: str) -> BootpointError:
    name = manifest.replica.vm_name
    text = f"{name} on host {host.name} can't be deleted: {why}"
    return error(Code.POINT_IN_USE, text, value=name, job=manifest.replica.job, host=host.name)
