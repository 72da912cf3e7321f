"""Making a replica's VM on a host, after everything was checked; and removing it."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi import compute, fence, hardware, inventory, journal, leaf, machine, place, runbook
from bootpoint_worker.targets.esxi.datastore import Datastore, is_there, join, split
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.esxi.trial import end_test
from bootpoint_worker.targets.replica import Nic, Replica

#: Characters that a name may have: neither vSphere's escapes (``%2f``) nor what a path means something by.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}")

#: MAC addresses that vSphere lets be set by hand.
_MAC = re.compile(hardware.MAC_PREFIX + r":[0-3][0-9a-f](:[0-9a-f]{2}){2}", re.IGNORECASE)


def create(host: Host, replica: Replica, *, dry_run: bool) -> None:
    """Check, then make the VM, its folder and the journal; see `Target.create`."""
    _check_spec(host, replica)
    store = host.store(replica.storage)
    running = compute.find_compute(host, store, replica)
    networks = hardware.networks(host, replica)
    before = place.look(host, replica)
    if before is not None and before.manifest.discarded_at is not None:
        raise host.taken(replica, "it lies in the trash: `bootpoint replica restore` or `purge` it")
    if dry_run:
        return
    if before is None:
        vm = _made(host, replica, store, running, networks)
        place.retried(host, lambda: _begin(host, replica, store, vm))
    else:
        place.retried(host, lambda: _bring_up_to_date(host, replica))


def _check_spec(host: Host, replica: Replica) -> None:
    for key, name in (("vm.name", replica.vm_name), *(("storage.disk_name", disk.disk_name) for disk in replica.disks)):
        if _NAME.fullmatch(name) is None:
            text = f"{name!r} can't name files of a datastore: use letters, digits, space and . _ + -"
            raise host.problem(Code.SPEC_INVALID, text, replica, key=key, value=name)
    if len({disk.disk_name for disk in replica.disks}) != len(replica.disks):
        raise host.problem(Code.SPEC_INVALID, "two disks have the same disk_name", replica, key="storage.disk_name")
    for disk in replica.disks:
        if disk.bus not in hardware.CONTROLLERS:
            raise _unsupported(host, replica, "storage.bus", disk.bus, hardware.CONTROLLERS)
        if disk.sector_bytes != 512:
            text = f"disk {disk.slot} has sectors of {disk.sector_bytes} bytes; disks of vSphere have 512"
            raise host.problem(Code.HOST_UNSUPPORTED, text, replica, key=disk.slot, value=disk.sector_bytes)
    for nic in replica.nics:
        if nic.model not in hardware.NIC_KINDS:
            raise _unsupported(host, replica, "nic.model", nic.model, hardware.NIC_KINDS)
        _check_mac(host, replica, nic)


def _check_mac(host: Host, replica: Replica, nic: Nic) -> None:
    if _MAC.fullmatch(nic.mac) is None:
        raise host.problem(
            Code.SPEC_INVALID,
            f"vSphere lets no card have the MAC address {nic.mac}",
            replica,
            key="nic.mac",
            value=nic.mac,
            hint='choose one from 00:50:56:00:00:00 to 00:50:56:3f:ff:ff, or mac = "new"',
        )


def _unsupported(host: Host, replica: Replica, key: str, value: str, served: dict[str, Any]) -> BootpointError:
    names = ", ".join(served)
    text = f"host {host.name} has no {value!r} for {key}; there are: {names}"
    return host.problem(Code.HOST_UNSUPPORTED, text, replica, key=key, value=value, hint=f"choose one of {names}")


def _made(
    host: Host, replica: Replica, store: Datastore, running: compute.Compute, networks: dict[str, Any]
) -> inventory.Vm:
    """Return the replica's VM: one that a call made which died before it wrote the journal, or a new one."""
    found = place.standby_of(inventory.machines(host.client), replica)
    if found is not None:
        return found
    guest = hardware.guest_id(None, compute.guests(host, running.browser))
    directories = _folders(store, replica)
    host.step("create:vm")
    for directory in directories:
        wanted = hardware.Wanted(replica, replica.vm_name, directory, guest, networks)
        if _create(host, running, wanted, last=directory == directories[-1]):
            break
    made = place.standby_of(inventory.machines(host.client), replica)
    if made is None:
        raise host.problem(Code.TARGET_WRITE_ERROR, f"host {host.name} made {replica.vm_name}, and lost it", replica)
    return made


def _create(host: Host, running: compute.Compute, wanted: hardware.Wanted, *, last: bool) -> bool:
    """Make a VM; False when its folder is there already, and there is another one to try."""
    board = hardware.Board()
    for number, disk in enumerate(wanted.replica.disks):
        backing = hardware.new_backing(leaf.file_of(wanted.directory, disk), thick=disk.provisioning == "thick")
        board.attach(disk.bus, backing, size_bytes=disk.size_bytes, key=-1000 - number)
    spec = wanted.spec()
    spec.deviceChange = [*board.changes, *wanted.cards()]
    try:
        host.client.run(lambda: running.folder.CreateVM_Task(config=spec, pool=running.pool, host=running.host))
    except BootpointError as exc:
        if last or not is_there(exc):
            raise
        return False
    return True


def _folders(store: Datastore, replica: Replica) -> list[str]:
    """Return folders for a new VM, the best first; another VM may have one, such as one in the trash.

    The host makes the VM's folder itself, and refuses one that is there.
    """
    above = join(f"[{store.name}] ", *(part for part in replica.folder.split("/") if part))
    if split(above)[1]:
        store.make_directory(above)
    return [join(above, name) for name in (replica.vm_name, f"{replica.vm_name}-{replica.replica_id.hex[-12:]}")]


def _begin(host: Host, replica: Replica, store: Datastore, vm: inventory.Vm) -> None:
    """Write the first journal."""
    if place.read_journal(host, vm) is not None:
        return
    state = machine.read_state(host, vm.entity)
    files = {leaf.file_of(vm.directory, disk): disk.slot for disk in replica.disks}
    keys = {
        files[disk.backing.fileName]: disk.key
        for disk in machine.disks(state.devices)
        if disk.backing.fileName in files
    }
    manifest = journal.Manifest(
        replica=replica, vm_uuid=UUID(vm.uuid), keys=keys, leaves=leaf.leaves(host, vm.entity)
    )
    host.step("create:journal")
    done = place.change(place.Snapshot(vm, store, manifest, 0), manifest)
    runbook.write(host, done)


def _bring_up_to_date(host: Host, replica: Replica) -> None:
    """Write new values into the journal; the VM gets them at once where that can be, else with the next commit."""
    before = place.must_read(host, replica)
    if before.manifest.replica == replica:
        return
    after = place.change(before, msgspec.structs.replace(before.manifest, replica=replica))
    state = machine.read_state(host, after.vm.entity)
    if after.manifest.open is None and not state.on and after.manifest.consolidating is None:
        leaf.stand(host, after, after.manifest.stood_on())


def free_bytes(host: Host, replica: Replica) -> int:
    """Return the free bytes of the replica's datastore; see `Target.free_bytes`."""
    store = host.store(replica.storage)
    return int(host.client.read(store.entity, "summary.freeSpace")["summary.freeSpace"])


def remove(host: Host, replica: Replica) -> None:
    """Remove a replica's VMs with all files; see `Target.remove`."""
    found = place.look(host, replica)
    vm = found.vm if found is not None else place.standby_of(inventory.machines(host.client), replica)
    if vm is not None and (found is None or found.manifest.discarded_at is None):
        destroy(host, replica, vm)


def destroy(host: Host, replica: Replica, vm: inventory.Vm) -> None:
    """Remove a standby with its tests, its snapshots and everything in its folder that is bootpoint's."""
    found = place.read_journal(host, vm)
    for test in inventory.machines(host.client):
        if test.replica_id == replica.replica_id and test.test_id is not None:
            end_test(host, test)
    for layer in found.manifest.open.layers if found is not None and found.manifest.open is not None else ():
        fence.end_writers(host, layer.file)
    host.step("remove:off")
    machine.power_off(host, vm.entity)
    host.step("remove:vm")
    machine.destroy(host, vm.entity)
    if found is not None:
        host.step("remove:files")
        for name in found.store.list(vm.directory):
            if name == runbook.NAME or name.startswith(place.PREFIX) or name.endswith(".vmdk"):
                found.store.delete(join(vm.directory, name))
        if not found.store.list(vm.directory):
            found.store.delete(vm.directory)
