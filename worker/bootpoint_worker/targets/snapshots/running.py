"""Starting the standby from a point, stopping it, and letting it stand on another point.

The standby has one leaf, and that is also what an open point is written into: so the standby is started only while no
point is open, and no point is opened while it runs. A test VM has no such limit (`trial`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.host import VirtualMachine
from bootpoint_worker.targets.kvm.conversion.layer import Work
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, leaf, place, runbook
from bootpoint_worker.targets.snapshots.conversion import apply, converted
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.trial import start_test, stop_test


def start(host: Host, replica: Replica, request: StartRequest) -> VirtualMachine:
    """Start the standby or a test; see `Target.start`."""
    if request.test_id is not None:
        return start_test(host, replica, request, request.test_id)
    before = place.must_read(host, replica)
    point = _wanted(host, before, request)
    _refuse(host, before)
    with converted(host, before.manifest.replica, point.point_id, request) as work:
        return place.retried(host, lambda: _start(host, replica, request, point.point_id, work))


def _wanted(host: Host, before: place.Snapshot, request: StartRequest) -> journal.PointEntry:
    """Return the point that a start means: a standby that was reverted starts from where it stands."""
    standing = before.manifest.standby
    held = standing.point_id if standing is not None and standing.held else None
    return before.manifest.must_have(request.point_id or held, host=host.name)


def _refuse(host: Host, before: place.Snapshot) -> None:
    place.refuse_running(host, before.manifest.replica, host.state(before.vm))
    _refuse_open(host, before.manifest)


def _start(host: Host, replica: Replica, request: StartRequest, point_id: UUID, work: Work | None) -> VirtualMachine:
    before = place.must_read(host, replica)
    point, standing = before.manifest.must_have(point_id, host=host.name), before.manifest.standby
    _refuse(host, before)
    host.step("start:stand")
    before = leaf.stand(host, before, point)
    held = standing is not None and standing.held and standing.point_id == point.point_id
    now = datetime.now(UTC)
    entry = journal.Machine(point_id=point.point_id, started_at=now, held=held, converted=work is not None)
    host.step("start:journal")
    # Before it runs: a crash in between must not look like drift.
    after = place.change(before, msgspec.structs.replace(before.manifest, standby=entry, dirty=True))
    host.step("start:fill")
    _fill(host, after, point, work)
    if not request.paused:
        host.step("start:run")
        host.power_on(after.vm)
    runbook.write(host, after)
    state = "off" if request.paused else "running"
    return VirtualMachine(replica.vm_name, str(after.manifest.vm_uuid), state, replica.replica_id)


def _fill(host: Host, before: place.Snapshot, point: journal.PointEntry, work: Work | None) -> None:
    """Write into the leaves what a conversion has changed, or attach them by a bus that the machine knows."""
    state = host.state(before.vm)
    if work is None:
        host.rehang(before, state)
        return
    apply(host, work, before.vm, {disk.slot: state.leaf(disk.key) or "" for disk in point.disks})


def _refuse_open(host: Host, manifest: journal.Manifest) -> None:
    if manifest.open is not None:
        text = (
            f"point {manifest.open.point_id} of {manifest.replica.vm_name} on host {host.name} is open,"
            " and is written into the standby's own disks"
        )
        raise host.problem(Code.POINT_OPEN, text, manifest.replica)
    if manifest.consolidating is not None:
        text = f"{manifest.consolidating.point.name} of {manifest.replica.vm_name} is being merged"
        raise host.problem(Code.BUSY, text, manifest.replica)


def revert(host: Host, replica: Replica, point_id: UUID | None) -> VirtualMachine:
    """Let the standby stand on a point; see `Target.revert`."""

    def again() -> VirtualMachine:
        before = place.must_read(host, replica)
        point = before.manifest.must_have(point_id, host=host.name)
        place.refuse_running(host, replica, host.state(before.vm))
        if before.manifest.open is None and before.manifest.consolidating is None:
            host.step("revert:stand")
            before = leaf.stand(host, before, point)
        # While a point is open the VM stands on the head: it goes back with the commit, or with the abort.
        entry = journal.Machine(point_id=point.point_id, held=point_id is not None)
        host.step("revert:journal")
        after = place.change(before, msgspec.structs.replace(before.manifest, standby=entry))
        runbook.write(host, after)
        return VirtualMachine(replica.vm_name, str(after.manifest.vm_uuid), "off", replica.replica_id)

    vm = place.retried(host, again)
    host.step("revert:done")
    return vm


def stop(host: Host, replica: Replica, test_id: str | None) -> None:
    """Stop the standby or a test; see `Target.stop`."""
    if test_id is not None:
        stop_test(host, replica, test_id)
        return
    before = place.read(host, replica)
    if before is not None and before.vm.on:
        host.step("stop:off")
        host.power_off(before.vm)
