"""Making and deleting the VMs of tests, whose disks are deltas above a point's files.

A test VM is deleted without its disks first, for some releases delete a whole chain with the VM that names its end.
Source: vSphere Web Services SDK Programming Guide, "Linked Virtual Machines" and "Performing Advanced Manipulation of
Delta Disks"; `VirtualDiskFlatVer2BackingInfo.parent` in the API reference.
"""

from __future__ import annotations

from typing import Any

from bootpoint_worker.targets.esxi import compute, hardware, inventory, machine
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, place
from bootpoint_worker.targets.snapshots.trial import test_of
from bootpoint_worker.targets.snapshots.vm import TestPlan, Vm


def make_test(
    host: Host, before: place.Snapshot, replica: Replica, point: journal.PointEntry, test: TestPlan
) -> Vm:
    """Make the VM; one that was converted has the job's hardware, another what its source knows."""
    running = compute.find_compute(host, host.store_of(before.vm), replica)
    profile = before.manifest.profile
    wanted = hardware.Wanted(
        replica,
        test.name,
        test.directory,
        hardware.guest_id(profile, compute.guests(host, running.browser)),
        hardware.networks(host, replica),
        None if test.converted else profile,
        test.test_id,
    )
    spec = wanted.spec()
    spec.deviceChange = [*_disks(host, wanted, point), *wanted.cards()]
    if test.serial_log is not None:
        spec.deviceChange.append(_serial_port(test.serial_log))
    host.client.run(lambda: running.folder.CreateVM_Task(config=spec, pool=running.pool, host=running.host))
    made = test_of(inventory.machines(host.client), replica, test.test_id)
    assert made is not None  # noqa: S101 - the host said that it made it
    return made


def _disks(host: Host, wanted: hardware.Wanted, point: journal.PointEntry) -> list[Any]:
    board = hardware.Board()
    specs = {disk.slot: disk for disk in wanted.replica.disks}
    for number, entry in enumerate(point.disks):
        disk = specs.get(entry.slot)
        backing = hardware.new_backing(host.test_file(wanted.directory, number), parent=entry.file)
        bus = wanted.bus(disk) if disk is not None else next(iter(hardware.CONTROLLERS))
        board.attach(bus, backing, size_bytes=entry.size_bytes, key=-1000 - number)
    return board.changes


def _serial_port(path: str) -> Any:
    from pyVmomi import vim

    port = vim.vm.device.VirtualSerialPort
    device = port(key=-900, yieldOnPoll=True, backing=port.FileBackingInfo(fileName=path))
    return vim.vm.device.VirtualDeviceSpec(operation="add", device=device)


def end_test(host: Host, vm: Vm) -> None:
    """Delete a test VM with its folder; what its disks stand on is left alone."""
    from pyVmomi import vim

    host.step("test:off")
    machine.power_off(host, vm)
    found = machine.disks(machine.read_state(host, vm).devices)
    if found:
        host.step("test:detach")
        machine.reconfigure(host, vm, vim.vm.ConfigSpec(deviceChange=list(hardware.removed(found))))
    host.step("test:delete")
    machine.destroy(host, vm)
    host.store_of(vm).delete(vm.folder)
