"""Deleted replicas: the standby keeps its files where they are, under another name in the inventory.

A hypervisor moves the folder of a VM with snapshots only by copying it, and a VM out of its list can't be found again:
so a deleted replica is a VM that is off, has the trash's name, and whose journal says when it was deleted. Its own name
is free.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from bootpoint_common.errors import Code
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import creation, layout, leaf, opening, place, runbook
from bootpoint_worker.targets.snapshots.host import Host

#: Most characters of a VM's own name that its name in the trash has: vSphere's names have 80, Hyper-V's 100.
_NAME_LENGTH = 50


def trash_name(replica: Replica) -> str:
    """Return the name of a replica's standby in the trash."""
    return f"{replica.vm_name[:_NAME_LENGTH]} (bootpoint trash {replica.replica_id.hex[-12:]})"


def discard(host: Host, replica: Replica, at: datetime, *, dry_run: bool) -> None:
    """Put a replica into the trash; see `Target.discard`."""

    def again() -> None:
        before = _own(host, replica)
        if before is None:
            return  # it isn't here, or it is there already
        if before.manifest.discarded_at is None:
            _check(host, before)
            if dry_run:
                return
            opened = before.manifest.open
            if opened is not None:
                opening.abort_point(host, replica, opened.point_id, opened.described())
                before = place.must_read(host, replica)
            host.step("discard:mark")
            before = place.change(before, msgspec.structs.replace(before.manifest, discarded_at=at))
        if not dry_run and before.vm.name != trash_name(before.manifest.replica):
            host.step("discard:name")
            host.rename(before.vm, trash_name(before.manifest.replica))

    place.retried(host, again)
    host.step("discard:done")


def _own(host: Host, replica: Replica) -> place.Snapshot | None:
    """Return a replica wherever it is; None when the host has none, whoever has its name."""
    vm = place.standby_of(host.machines(), replica)
    return None if vm is None else place.read_journal(host, vm)


def _is_lost(host: Host, before: place.Snapshot) -> bool:
    """Tell whether a file of a point is gone: then a merge never ends, and the trash is the way out."""
    manifest = before.manifest
    return layout.missing(host, before.vm, before.store, manifest.replica, manifest.points) is not None


def _check(host: Host, before: place.Snapshot) -> None:
    manifest = before.manifest
    place.refuse_running(host, manifest.replica, host.state(before.vm))
    if manifest.tests:
        names = ", ".join(test.test_id or "" for test in manifest.tests)
        text = f"test {names} of {manifest.replica.vm_name} stands on a boot point on host {host.name}"
        raise host.problem(Code.POINT_IN_USE, text, manifest.replica)
    if manifest.consolidating is not None and not _is_lost(host, before):
        text = f"{manifest.consolidating.point.name} of {manifest.replica.vm_name} is being merged"
        raise host.problem(Code.BUSY, text, manifest.replica)


def restore(host: Host, replica: Replica) -> None:
    """Take a replica out of the trash; see `Target.restore`."""

    def again() -> None:
        before = _own(host, replica)
        if before is None:
            text = f"host {host.name} has no replica {replica.vm_name} in its trash"
            place.refuse_taken(host, host.machines(), replica)
            raise host.problem(Code.NO_SUCH_VM, text, replica, value=replica.vm_name)
        own = before.manifest.replica
        place.refuse_taken(host, host.machines(), own)
        if before.vm.name == trash_name(own):
            host.step("restore:name")
            host.rename(before.vm, own.vm_name)
        if before.manifest.discarded_at is None:
            return
        host.step("restore:mark")
        before = place.change(before, msgspec.structs.replace(before.manifest, discarded_at=None))
        host.step("restore:stand")
        runbook.write(host, leaf.stand(host, before, before.manifest.stood_on()))

    place.retried(host, again)


def purge(host: Host, replica: Replica) -> None:
    """Remove a replica from the trash for good; see `Target.purge`."""
    before = _own(host, replica)
    if before is not None and before.manifest.discarded_at is not None:
        creation.destroy(host, replica, before.vm)
