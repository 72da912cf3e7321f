"""Test VMs: linked copies of a point, that stand in folders of their own and are connected to nothing.

::

    base ◄── V1 ◄── V2 ◄── leaf of the standby
              ▲
              └── <vm>-test-<id>/disk-0.…         a delta that the host makes above the point's file

So the standby isn't touched, a point may be open meanwhile, and several tests may run. The limit: the point and its
successor aren't merged while a test stands on the point, for hypervisors don't follow names of files into other VMs.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.host import VirtualMachine, taken
from bootpoint_worker.targets.kvm.conversion.layer import Work
from bootpoint_worker.targets.replica import Nic, Replica, new_mac
from bootpoint_worker.targets.snapshots import journal, layout, place
from bootpoint_worker.targets.snapshots.conversion import apply, converted
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import TestPlan, Vm


def start_test(host: Host, replica: Replica, request: StartRequest, test_id: str) -> VirtualMachine:
    """Start a test VM, or return the one of that id."""
    before = place.must_read(host, replica)
    there = test_of(host.machines(), replica, test_id)
    if there is not None and there.on and before.manifest.test(test_id) is not None:
        return there.described
    point = before.manifest.must_have(request.point_id, host=host.name)
    # The head may be another one when the conversion is done.
    request, own = replace(request, point_id=point.point_id), before.manifest.replica
    isolated = replace(own, nics=tuple(_isolated(host, nic) for nic in own.nics))
    with converted(host, isolated, request.point_id, request) as work:
        return place.retried(host, lambda: _start(host, isolated, request, test_id, work))


def _start(host: Host, replica: Replica, request: StartRequest, test_id: str, work: Work | None) -> VirtualMachine:
    before = place.must_read(host, replica)
    point = before.manifest.must_have(request.point_id, host=host.name)
    name = replica.machine_name(test_id)
    vms = host.machines()
    there = test_of(vms, replica, test_id)
    if there is not None:
        host.end_test(there)  # left by a start or a stop that was interrupted
    directory = host.join(host.parent(before.vm.folder), name)
    if any(vm.name == name or vm.directory == directory for vm in vms if vm is not there):
        raise taken(host.name, replica, f"there is a VM named {name}, or in {directory}, that bootpoint did not make")
    serial = host.serial_log(directory, request.serial_log)
    entry = journal.Machine(point_id=point.point_id, test_id=test_id, started_at=datetime.now(UTC), serial_log=serial)
    host.step("test:journal")
    place.change(before, _without(before.manifest, test_id, entry))
    host.step("test:make")
    before.store.delete(directory)  # of a start that was interrupted; the host refuses a folder that is there
    plan = TestPlan(test_id, name, directory, serial, converted=work is not None)
    # With the files that it has now.
    point = msgspec.structs.replace(point, disks=layout.disks_of(host, before.vm, replica, point))
    vm = host.make_test(before, replica, point, plan)
    if work is not None:
        host.step("test:fill")
        files = {disk.slot: host.test_file(directory, number) for number, disk in enumerate(point.disks)}
        apply(host, work, vm, files)
    if not request.paused:
        host.step("test:run")
        host.power_on(vm)
    return VirtualMachine(name, vm.uuid, "off" if request.paused else "running", replica.replica_id)


def _without(manifest: journal.Manifest, test_id: str, entry: journal.Machine | None = None) -> journal.Manifest:
    rest = tuple(test for test in manifest.tests if test.test_id != test_id)
    return msgspec.structs.replace(manifest, tests=(*rest, entry) if entry is not None else rest)


def _isolated(host: Host, nic: Nic) -> Nic:
    """Return the card of a test: connected to nothing, with a MAC address of its own."""
    return replace(nic, network=None, mac=new_mac(host.mac_prefix), connect=False)


def test_of(vms: list[Vm], replica: Replica, test_id: str) -> Vm | None:
    """Return a test VM of a replica, or None."""
    return next((vm for vm in vms if vm.replica_id == replica.replica_id and vm.test_id == test_id), None)


def stop_test(host: Host, replica: Replica, test_id: str) -> None:
    """End a test VM and forget it; nothing when there is none."""
    there = test_of(host.machines(), replica, test_id)
    if there is not None:
        host.end_test(there)

    def forget() -> None:
        before = place.read(host, replica)
        if before is not None and before.manifest.test(test_id) is not None:
            place.change(before, _without(before.manifest, test_id))

    host.step("test:forget")
    place.retried(host, forget)
