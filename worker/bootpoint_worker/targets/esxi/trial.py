"""Test VMs: linked copies of a point, that stand in folders of their own and are connected to nothing.

::

    base ◄── V1 ◄── V2 ◄── leaf of the standby
              ▲
              └── <vm>-test-<id>/<disk>.vmdk         a delta that the host makes above the point's file

So the standby isn't touched, a point may be open meanwhile, and several tests may run. The limits: the point and its
successor aren't merged while a test stands on the point, for vSphere doesn't follow names of files into other VMs; and
the test VM is deleted without its disks first, for some releases delete a whole chain with the VM that names its end.
Source: vSphere Web Services SDK Programming Guide, "Linked Virtual Machines" and "Performing Advanced Manipulation of
Delta Disks"; `VirtualDiskFlatVer2BackingInfo.parent` in the API reference.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.esxi import compute, hardware, inventory, journal, layout, machine, place
from bootpoint_worker.targets.esxi.conversion import apply, converted
from bootpoint_worker.targets.esxi.datastore import join, parent, split
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.host import VirtualMachine
from bootpoint_worker.targets.kvm.conversion.layer import Work
from bootpoint_worker.targets.replica import Nic, Replica, new_mac

#: Name of the file that a test's first serial port is written to.
SERIAL = "serial.log"


def start_test(host: Host, replica: Replica, request: StartRequest, test_id: str) -> VirtualMachine:
    """Start a test VM, or return the one of that id."""
    before = place.must_read(host, replica)
    there = test_of(inventory.machines(host.client), replica, test_id)
    if there is not None and there.on and before.manifest.test(test_id) is not None:
        return there.described
    point = place.point_of(host, before.manifest, request.point_id)
    # The head may be another one when the conversion is done.
    request, own = replace(request, point_id=point.point_id), before.manifest.replica
    isolated = replace(own, nics=tuple(_isolated(nic) for nic in own.nics))
    with converted(host, isolated, request.point_id, request) as work:
        return place.retried(host, lambda: _start(host, isolated, request, test_id, work))


def _start(host: Host, replica: Replica, request: StartRequest, test_id: str, work: Work | None) -> VirtualMachine:
    before = place.must_read(host, replica)
    point = place.point_of(host, before.manifest, request.point_id)
    name = journal.test_name(replica, test_id)
    vms = inventory.machines(host.client)
    there = test_of(vms, replica, test_id)
    if there is not None:
        end_test(host, there)  # left by a start or a stop that was interrupted
    directory = _directory(before, replica, test_id)
    if any(vm.name == name or (vm.vmx and vm.directory == directory) for vm in vms if vm is not there):
        raise host.taken(replica, f"there is a VM named {name}, or in {directory}, that bootpoint did not make")
    serial = request.serial_log if (request.serial_log or "").startswith("[") else join(directory, SERIAL)
    entry = journal.Machine(
        point_id=point.point_id, test_id=test_id, started_at=datetime.now(UTC), serial_log=serial
    )
    host.step("test:journal")
    place.change(before, _without(before.manifest, test_id, entry))
    host.step("test:make")
    vm = _make(host, before, replica, point, entry, converted=work is not None)
    if work is not None:
        host.step("test:fill")
        apply(host, work, vm.moref, {disk.slot: _file_of(directory, number) for number, disk in enumerate(point.disks)})
    if not request.paused:
        host.step("test:run")
        machine.power_on(host, vm.entity)
    return VirtualMachine(name, vm.uuid, "off" if request.paused else "running", replica.replica_id)


def _without(manifest: journal.Manifest, test_id: str, entry: journal.Machine | None = None) -> journal.Manifest:
    rest = tuple(test for test in manifest.tests if test.test_id != test_id)
    return msgspec.structs.replace(manifest, tests=(*rest, entry) if entry is not None else rest)


def _make(
    host: Host,
    before: place.Snapshot,
    replica: Replica,
    point: journal.PointEntry,
    entry: journal.Machine,
    *,
    converted: bool,
) -> inventory.Vm:
    """Make the VM; one that was converted has the job's hardware, another what its source knows."""
    manifest, directory = before.manifest, _directory(before, replica, entry.test_id or "")
    running = compute.find_compute(host, before.store, replica)
    guest = hardware.guest_id(manifest.profile, compute.guests(host, running.browser))
    name = journal.test_name(replica, entry.test_id or "")
    wanted = hardware.Wanted(
        replica,
        name,
        directory,
        guest,
        hardware.networks(host, replica),
        None if converted else manifest.profile,
        entry.test_id,
    )
    before.store.delete(directory)  # of a start that was interrupted; the host refuses a folder that is there
    spec = wanted.spec()
    entries = layout.disks_of(host, replica, point)
    spec.deviceChange = [*_disks(wanted, entries), *wanted.cards(), _serial_port(entry.serial_log or "")]
    host.client.run(lambda: running.folder.CreateVM_Task(config=spec, pool=running.pool, host=running.host))
    made = test_of(inventory.machines(host.client), replica, entry.test_id or "")
    assert made is not None  # noqa: S101 - the host said that it made it
    return made


def _disks(wanted: hardware.Wanted, entries: tuple[journal.LayerEntry, ...]) -> list[Any]:
    board = hardware.Board()
    specs = {disk.slot: disk for disk in wanted.replica.disks}
    for number, entry in enumerate(entries):
        disk = specs.get(entry.slot)
        backing = hardware.new_backing(_file_of(wanted.directory, number), parent=entry.file)
        bus = wanted.bus(disk) if disk is not None else next(iter(hardware.CONTROLLERS))
        board.attach(bus, backing, size_bytes=entry.size_bytes, key=-1000 - number)
    return board.changes


def _directory(before: place.Snapshot, replica: Replica, test_id: str) -> str:
    return join(parent(before.vm.directory), journal.test_name(replica, test_id))


def _file_of(directory: str, number: int) -> str:
    return join(directory, f"disk-{number}.vmdk")


def _serial_port(path: str) -> Any:
    from pyVmomi import vim

    port = vim.vm.device.VirtualSerialPort
    device = port(key=-900, yieldOnPoll=True, backing=port.FileBackingInfo(fileName=path))
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=device)


def _isolated(nic: Nic) -> Nic:
    """Return the card of a test: connected to nothing, with a MAC address of its own."""
    return replace(nic, network=None, mac=new_mac(hardware.MAC_PREFIX), connect=False)


def test_of(vms: list[inventory.Vm], replica: Replica, test_id: str) -> inventory.Vm | None:
    """Return a test VM of a replica, or None."""
    return next((vm for vm in vms if vm.replica_id == replica.replica_id and vm.test_id == test_id), None)


def stop_test(host: Host, replica: Replica, test_id: str) -> None:
    """End a test VM and forget it; nothing when there is none."""
    there = test_of(inventory.machines(host.client), replica, test_id)
    if there is not None:
        end_test(host, there)

    def forget() -> None:
        before = place.read(host, replica)
        if before is not None and before.manifest.test(test_id) is not None:
            place.change(before, _without(before.manifest, test_id))

    host.step("test:forget")
    place.retried(host, forget)


def end_test(host: Host, vm: inventory.Vm) -> None:
    """Delete a test VM with its folder; what its disks stand on is left alone."""
    from pyVmomi import vim

    host.step("test:off")
    machine.power_off(host, vm.entity)
    state = machine.read_state(host, vm.entity)
    found = machine.disks(state.devices)
    if found:
        host.step("test:detach")
        machine.reconfigure(host, vm.entity, vim.vm.ConfigSpec(deviceChange=list(hardware.removed(found))))
    store, directory = host.store(split(vm.vmx or "")[0]), vm.directory
    host.step("test:delete")
    machine.destroy(host, vm.entity)
    store.delete(directory)
