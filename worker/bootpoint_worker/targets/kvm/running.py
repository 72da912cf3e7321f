"""Starting VMs from points, stopping them, and letting the standby stand on another point."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec

from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.host import VirtualMachine, taken
from bootpoint_worker.targets.kvm import journal, standby
from bootpoint_worker.targets.kvm.conversion import Converted, convert, examine, layer
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.qcow2 import checked_name
from bootpoint_worker.targets.replica import Replica


def start(host: Host, replica: Replica, request: StartRequest) -> VirtualMachine:
    """Start the standby or a test; see `Target.start`.

    The conversion comes before the lock on the replica's VMs is taken: it may last, and a commit goes on meanwhile.
    """
    place = host.place(replica)
    if request.test_id is not None:
        checked_name(request.test_id, "test_id")
    made = place.retried(lambda: _converted(host, place, replica, request))

    def again() -> VirtualMachine:
        with place.guarded():
            before = host.must_read(place, replica)
            wanted = made.work.point.point_id if made.work else _wanted(before.manifest, request)
            point = before.manifest.must_have(wanted, host=host.name)
            if request.test_id is None:
                return _start_standby(host, place, before, point, made)
            return _start_test(host, place, before, point, made)

    return place.retried(again)


def revert(host: Host, replica: Replica, point_id: UUID | None) -> VirtualMachine:
    """Move the standby's scratch layers over a point; see `Target.revert`."""
    place = host.place(replica)

    def again() -> VirtualMachine:
        with place.guarded():
            before = host.must_read(place, replica)
            point = before.manifest.must_have(point_id, host=host.name)
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


def _converted(host: Host, place: Place, replica: Replica, request: StartRequest) -> Converted:
    before = host.must_read(place, replica)
    manifest = before.manifest
    request = replace(request, point_id=_wanted(manifest, request))
    if request.test_id is None:
        standby.refuse_running(host, manifest)
    if request.conversion == "auto" and manifest.profile is None:
        examine(host, replica, manifest.must_have(request.point_id, host=host.name).point_id)
        before = host.must_read(place, replica)
    if request.test_id is None:
        return convert(host, place, before, request)
    found = host.hypervisor.state(replica.machine_name(request.test_id))
    if manifest.test(request.test_id) is not None and found is not None and found[0] == "running":
        return Converted(request)
    return convert(host, place, before, request, standby.new_macs(manifest.replica))


def _scratch(
    place: Place, before: Snapshot, point: journal.PointEntry, made: Converted, label: str = ""
) -> tuple[journal.ScratchEntry, ...]:
    """Return the layers that a VM writes into: those that were converted, or fresh ones."""
    if made.work is None:
        return standby.make_scratch(place, before, point, label)
    return layer.adopt(made.work, before, standby.scratch_names(point, label))


def _start_standby(
    host: Host, place: Place, before: Snapshot, point: journal.PointEntry, made: Converted
) -> VirtualMachine:
    request, manifest = made.request, before.manifest
    standby.refuse_running(host, manifest)
    standing = manifest.standby
    was_held = standing is not None and standing.held
    host.step("start:scratch")
    machine = journal.Machine(
        point_id=point.point_id,
        layers=_scratch(place, before, point, made),
        started_at=datetime.now(UTC),
        serial_log=request.serial_log,
        converted=made.work is not None,
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
    host: Host, place: Place, before: Snapshot, point: journal.PointEntry, made: Converted
) -> VirtualMachine:
    request, manifest = made.request, before.manifest
    name = manifest.replica.machine_name(request.test_id)
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
        raise taken(host.name, manifest.replica, f"there is a VM named {name} that bootpoint did not make")
    host.step("start:scratch")
    machine = journal.Machine(
        point_id=point.point_id,
        layers=_scratch(place, before, point, made, f"test-{request.test_id}-"),
        test_id=request.test_id,
        uuid=uuid4(),
        started_at=datetime.now(UTC),
        serial_log=request.serial_log,
        converted=made.work is not None,
        macs=made.macs,
    )
    host.step("start:journal")
    after = msgspec.structs.replace(manifest, tests=(*manifest.tests, machine))
    place.change("sweep", before, after, what=f"write the test {request.test_id} down")
    host.step("start:define")
    standby.define(host, place, after, machine)
    return _run(host, after, machine, paused=request.paused)


def _run(host: Host, manifest: journal.Manifest, machine: journal.Machine, *, paused: bool) -> VirtualMachine:
    name = manifest.replica.machine_name(machine.test_id)
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
    files = [*(layer.file for layer in test.layers), *standby.logs_of(test.test_id or "")]
    words = [word for file in files for word in ("remove", file, "-")]
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
        if test_id is not None:
            # A start that was killed while it converted is in no journal, and its layers would keep the point for ever.
            layer.end(place, layer.key_of(test_id))
        with place.guarded():
            before = host.must_read(place, replica)
            if test_id is None:
                if standby.owned_state(host, before.manifest) == "running":
                    host.hypervisor.power_off(replica.vm_name)
                return
            test = before.manifest.test(test_id)
            if test is not None:
                name = replica.machine_name(test_id)
                standby.remove_machine(host, name, replica.replica_id)
                _without_test(place, before, test)

    place.retried(again)
