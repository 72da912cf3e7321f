"""Starting VMs from points, stopping them, and letting the standby stand on another point."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.base import Replica, StartRequest, VirtualMachine
from bootpoint_worker.targets.kvm import journal, standby
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.qcow2 import checked_name


def start(host: Host, replica: Replica, request: StartRequest) -> VirtualMachine:
    """Start the standby or a test; see `Target.start`."""
    place = host.place(replica)

    def again() -> VirtualMachine:
        with place.guarded():
            before = host.must_read(place, replica)
            point = chosen_point(host, before.manifest, _wanted(before.manifest, request))
            if request.test_id is None:
                return _start_standby(host, place, before, point, request)
            checked_name(request.test_id, "test_id")
            return _start_test(host, place, before, point, request)

    return place.retried(again)


def revert(host: Host, replica: Replica, point_id: UUID | None) -> VirtualMachine:
    """Move the standby's scratch layers over a point; see `Target.revert`."""
    place = host.place(replica)

    def again() -> VirtualMachine:
        with place.guarded():
            before = host.must_read(place, replica)
            point = chosen_point(host, before.manifest, point_id)
            standby.refuse_running(host, before.manifest)
            after = _moved(host, place, before, point, held=point_id is not None)
            host.step("revert:runbook")
            standby.write_runbook(host, place, after.manifest)
            vm_uuid = str(after.manifest.vm_uuid)
            return VirtualMachine(replica.vm_name, vm_uuid, "off", after.manifest.replica.replica_id)

    machine = place.retried(again)
    host.step("revert:done")
    return machine


def _moved(host: Host, place: Place, before: Snapshot, point: journal.PointEntry, *, held: bool) -> Snapshot:
    """Define the standby over a point: on the layers that it has there, if they are empty, else on new ones."""
    standing = before.manifest.standby
    if standing is not None and standing.point_id == point.point_id and standby.untouched(before, standing):
        layers = standing.layers
    else:
        host.step("revert:scratch")
        layers = standby.make_scratch(place, before, point)
    machine = journal.Machine(point_id=point.point_id, layers=layers, held=held)
    host.step("revert:define")
    standby.define(host, place, before.manifest, machine)
    host.step("revert:journal")
    return standby.sweep(place, before, msgspec.structs.replace(before.manifest, standby=machine))


def _wanted(manifest: journal.Manifest, request: StartRequest) -> UUID | None:
    """Return which point a start means: a standby that was reverted starts from where it stands."""
    held = manifest.standby is not None and manifest.standby.held and request.test_id is None
    return manifest.standby.point_id if held and manifest.standby and not request.point_id else request.point_id


def chosen_point(host: Host, manifest: journal.Manifest, point_id: UUID | None) -> journal.PointEntry:
    """Return a committed point, or the head for None.

    Raises:
        NotFoundError: ``no_such_point``.
    """
    point = manifest.point(point_id) if point_id else manifest.head
    if point is None:
        raise error(
            Code.NO_SUCH_POINT,
            f"{manifest.replica.vm_name} on host {host.name} has no point {point_id or 'at all'}",
            value=str(point_id) if point_id else None,
            job=manifest.replica.job,
            host=host.name,
        )
    return point


def _start_standby(
    host: Host, place: Place, before: Snapshot, point: journal.PointEntry, request: StartRequest
) -> VirtualMachine:
    manifest = before.manifest
    standby.refuse_running(host, manifest)
    standing = manifest.standby
    was_held = standing is not None and standing.held
    host.step("start:scratch")
    machine = journal.Machine(
        point_id=point.point_id,
        layers=standby.make_scratch(place, before, point),
        started_at=datetime.now(UTC),
        serial_log=request.serial_log,
        held=was_held and standing is not None and standing.point_id == point.point_id,
    )
    host.step("start:define")
    standby.define(host, place, manifest, machine)
    host.step("start:journal")
    after = standby.sweep(place, before, msgspec.structs.replace(manifest, standby=machine))
    if was_held and not machine.held:
        host.step("start:runbook")
        standby.write_runbook(host, place, after.manifest)
    return _run(host, manifest, machine, paused=request.paused)


def _start_test(
    host: Host, place: Place, before: Snapshot, point: journal.PointEntry, request: StartRequest
) -> VirtualMachine:
    manifest = before.manifest
    name = standby.machine_name(manifest.replica, request.test_id)
    found = host.hypervisor.state(name)
    old = manifest.test(request.test_id or "")
    if old is not None and found is not None and found[0] == "running":
        return VirtualMachine(name, str(old.uuid), "running", manifest.replica.replica_id)
    if old is not None:
        # Left by a start or a stop that was interrupted.
        standby.remove_machine(host, name, manifest.replica.replica_id)
        before = _without_test(place, before, old)
        manifest = before.manifest
    elif found is not None:
        raise host.taken(manifest.replica, f"there is a VM named {name} that bootpoint did not make")
    host.step("start:scratch")
    machine = journal.Machine(
        point_id=point.point_id,
        layers=standby.make_scratch(place, before, point, f"test-{request.test_id}-"),
        test_id=request.test_id,
        uuid=uuid4(),
        started_at=datetime.now(UTC),
        serial_log=request.serial_log,
    )
    host.step("start:journal")
    after = msgspec.structs.replace(manifest, tests=(*manifest.tests, machine))
    place.change("sweep", before, after, what=f"write the test {request.test_id} down")
    host.step("start:define")
    standby.define(host, place, after, machine)
    return _run(host, after, machine, paused=request.paused)


def _run(host: Host, manifest: journal.Manifest, machine: journal.Machine, *, paused: bool) -> VirtualMachine:
    name = standby.machine_name(manifest.replica, machine.test_id)
    host.step("start:run")
    if not paused:
        host.hypervisor.start(name)
    return VirtualMachine(
        name=name,
        uuid=str(machine.uuid or manifest.vm_uuid),
        state="off" if paused else "running",
        replica_id=manifest.replica.replica_id,
    )


def _without_test(place: Place, before: Snapshot, test: journal.Machine) -> Snapshot:
    words = [word for layer in test.layers for word in ("remove", layer.file, "-")]
    after = msgspec.structs.replace(
        before.manifest, tests=tuple(other for other in before.manifest.tests if other.test_id != test.test_id)
    )
    return place.change("sweep", before, after, *words, what=f"forget the test {test.test_id}")


def stop(host: Host, replica: Replica, test_id: str | None) -> None:
    """Stop the standby or a test; see `Target.stop`."""
    place = host.place(replica)

    def again() -> None:
        if host.read(place, replica) is None:
            return
        with place.guarded():
            before = host.must_read(place, replica)
            if test_id is None:
                if standby.owned_state(host, before.manifest) == "running":
                    host.hypervisor.power_off(replica.vm_name)
                return
            test = before.manifest.test(test_id)
            if test is not None:
                name = standby.machine_name(replica, test_id)
                standby.remove_machine(host, name, replica.replica_id)
                _without_test(place, before, test)

    place.retried(again)
