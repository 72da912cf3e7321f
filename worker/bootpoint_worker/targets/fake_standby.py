"""VMs of a replica on the fake host: the standby above the head, and tests; always in scratch layers."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from uuid import UUID, uuid5

from bootpoint_common.errors import Code, error
from bootpoint_worker.conversion.disk import read_layout
from bootpoint_worker.conversion.plan import Machine, Means, decide
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.fake_call import Call
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.fake_journal import Manifest, identities
from bootpoint_worker.targets.fake_layer import FakeLayer
from bootpoint_worker.targets.fake_machine import FakeVm
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.host import VirtualMachine
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.replica import Nic
from bootpoint_worker.targets.sight import Sight

#: Why nothing is converted here.
NO_MEANS = "the fake host converts nothing"

#: What a test VM shows when nobody said what it should.
_UP = (Sight(state="running", serial="fake login: "),)


def remake(call: Call, manifest: Manifest, point: JournalPoint) -> Manifest:
    """Define the standby anew above a point; one that runs or was reverted is left as it is.

    Inside a step. Does nothing when the standby stands on that point and nothing was written since.
    """
    host, name = call.host, manifest.replica.vm_name
    vm = host.vms.get(name)
    if vm is not None and (vm.state == "running" or manifest.held):
        return manifest
    below = {slot: host.layers[layer].backing for slot, layer in manifest.scratch.items()}
    wanted = {slot: host.layers[layer] for slot, layer in identities(point).items()}
    if vm is not None and below == wanted and not any(host.layers[s].written for s in manifest.scratch.values()):
        return manifest
    manifest = host.put_aside(manifest)
    scratch = host.scratch_layers(manifest, identities(point))
    uuid = str(uuid5(manifest.replica.replica_id, name))
    host.vms[name] = FakeVm(name, uuid, "off", manifest.replica.replica_id, scratch, manifest.replica.nics)
    return replace(manifest, scratch=scratch, vm_uuid=uuid, running=False)


def profile_of(host: FakeHost, manifest: Manifest, point: JournalPoint) -> Profile:
    """Return what the disks of a point say of their machine; this host has no means to convert it."""
    sizes = {disk.slot: disk.size_bytes for disk in point.disks}
    order = [disk.slot for disk in manifest.replica.disks if disk.slot in sizes]
    layouts = []
    for slot in order:
        layer = host.layers[identities(point)[slot]]

        def read(offset: int, length: int, layer: FakeLayer = layer, size: int = sizes[slot]) -> bytes:
            length = min(length, size - offset)
            return layer.read(offset, length) if length > 0 else b""

        layouts.append(read_layout(slot, read, sizes[slot]))
    means = Means(light=NO_MEANS, v2v=NO_MEANS, mtools=False)
    replica = manifest.replica
    bus = replica.disks[0].bus if replica.disks else "virtio"
    return decide(point.point_id, Machine(tuple(layouts)), means, bus=bus, nics=replica.nics)


def check_conversion(call: Call, wanted: str) -> None:
    """Refuse what this host can't do.

    Raises:
        FatalError: ``conversion_failed``.
    """
    if wanted in ("light", "v2v"):
        message = f"host {call.host.name}: {NO_MEANS}"
        raise error(Code.CONVERSION_FAILED, message, key="conversion", value=wanted, host=call.host.name)


def stands_on(call: Call, manifest: Manifest) -> UUID | None:
    """Return the point beneath the standby."""
    return next((one.point_id for one in call.host.standings(manifest) if one.test_id is None), None)


def revert(call: Call, manifest: Manifest, point: JournalPoint, *, held: bool) -> VirtualMachine:
    """Define the standby over a point; layers that it has there stay, if they are empty."""
    host, name = call.host, manifest.replica.vm_name
    uuid = str(uuid5(manifest.replica.replica_id, name))
    with call.step("scratch"):
        vm = host.vms.get(name)
        if vm is not None and vm.state == "running":
            message = f"VM {name} on host {host.name} is running"
            raise error(Code.STANDBY_RUNNING, message, value=name, job=call.replica.job, host=host.name)
        written = any(host.layers[layer].written for layer in manifest.scratch.values())
        if written or stands_on(call, manifest) != point.point_id:
            manifest = host.put_aside(manifest)
            manifest = replace(manifest, scratch=host.scratch_layers(manifest, identities(point)))
        manifest = replace(manifest, vm_uuid=uuid, recorded=False, running=False, held=held)
        call.store(manifest)
    with call.step("define"):
        nics, replica_id = manifest.replica.nics, manifest.replica.replica_id
        host.vms[name] = FakeVm(name, uuid, "off", replica_id, manifest.scratch, nics)
    return VirtualMachine(name, uuid, "off", manifest.replica.replica_id)


def start(call: Call, manifest: Manifest, point: JournalPoint, request: StartRequest) -> VirtualMachine:
    """Start the standby itself, or go on where an earlier call for it broke off."""
    host, name = call.host, manifest.replica.vm_name
    with call.step("scratch"):
        vm = host.vms.get(name)
        if vm is not None and vm.state == "running":
            message = f"VM {name} on host {host.name} is running"
            raise error(Code.STANDBY_RUNNING, message, value=name, job=call.replica.job, host=host.name)
        held = manifest.held and stands_on(call, manifest) == point.point_id
        manifest = host.put_aside(manifest)
        scratch = host.scratch_layers(manifest, identities(point))
        uuid = str(uuid5(manifest.replica.replica_id, name))
        # The journal says that bootpoint starts it before it runs: a crash in between must not look like drift.
        manifest = replace(manifest, scratch=scratch, vm_uuid=uuid, recorded=True, held=held)
        manifest = replace(manifest, running=not request.paused)
        call.store(manifest)
    with call.step("define"):
        host.vms[name] = FakeVm(
            name, uuid, "off", manifest.replica.replica_id, scratch, manifest.replica.nics, request.serial_log
        )
    return _run(call, name, paused=request.paused)


def start_test(
    call: Call, manifest: Manifest, point: JournalPoint, request: StartRequest, test_id: str
) -> VirtualMachine:
    """Start a test VM, or return the one of that id."""
    host, name = call.host, manifest.replica.machine_name(test_id)
    with call.step("scratch"):
        vm = host.vms.get(name)
        if vm is not None and vm.replica_id != manifest.replica.replica_id:
            raise call.taken(name, f"VM {vm.uuid}")
        if test_id not in manifest.tests:
            scratch = host.scratch_layers(manifest, identities(point))
            manifest = replace(manifest, tests={**manifest.tests, test_id: scratch})
            call.store(manifest)
    with call.step("define"):
        if name not in host.vms:
            uuid = str(uuid5(manifest.replica.replica_id, name))
            nics = tuple(_isolated(nic, name, number) for number, nic in enumerate(manifest.replica.nics))
            layers = manifest.tests[test_id]
            host.vms[name] = FakeVm(name, uuid, "off", manifest.replica.replica_id, layers, nics, request.serial_log)
    return _run(call, name, paused=request.paused)


def stop(call: Call, manifest: Manifest) -> None:
    """Stop the standby; its scratch layers stay."""
    with call.step("end"):
        vm = call.host.vms.get(manifest.replica.vm_name)
        if vm is not None:
            vm.state = "off"
        call.store(replace(manifest, running=False))


def stop_test(call: Call, manifest: Manifest, test_id: str) -> None:
    """Stop a test VM, and remove its definition and its scratch layers."""
    with call.step("end"):
        _undefine(call, manifest, manifest.replica.machine_name(test_id))
    with call.step("scratch"):
        for identity in manifest.tests.get(test_id, {}).values():
            call.host.layers.pop(identity, None)
        left = {name: layers for name, layers in manifest.tests.items() if name != test_id}
        call.store(replace(manifest, tests=left))


def look(call: Call, manifest: Manifest, test_id: str) -> Sight:
    """Return what a test VM is to show at this look."""
    vm = call.host.vms.get(manifest.replica.machine_name(test_id))
    if vm is None or vm.replica_id != manifest.replica.replica_id:
        return Sight(state="absent")
    if vm.state != "running":
        return Sight(state="off", why="destroyed")
    script = call.host.sights.get(manifest.replica.vm_name, _UP)
    vm.looks += 1
    return script[min(vm.looks, len(script)) - 1]


def undefine_all(call: Call, manifest: Manifest) -> None:
    """Remove every VM of the replica; inside a step."""
    for name in [manifest.replica.vm_name, *(manifest.replica.machine_name(test_id) for test_id in manifest.tests)]:
        _undefine(call, manifest, name)


def _undefine(call: Call, manifest: Manifest, name: str) -> None:
    vm = call.host.vms.get(name)
    if vm is not None and vm.replica_id == manifest.replica.replica_id:
        del call.host.vms[name]


def _run(call: Call, name: str, *, paused: bool) -> VirtualMachine:
    with call.step("run"):
        vm = call.host.vms[name]
        if not paused:
            vm.state = "running"
        return VirtualMachine(vm.name, vm.uuid, vm.state, vm.replica_id)


def _isolated(nic: Nic, name: str, number: int) -> Nic:
    """Return the card of a test VM: no network, and a MAC address of its own."""
    digits = sha256(f"{name}/{number}".encode()).digest()
    mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in digits[:3])
    return replace(nic, network=None, mac=mac, connect=False)
