"""Making a replica's VM on a host, after everything was checked; and removing it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code
from bootpoint_worker.targets.host import taken
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, leaf, place, runbook
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import Vm


def create(host: Host, replica: Replica, *, dry_run: bool) -> None:
    """Check, then make the VM, its folder and the journal; see `Target.create`."""
    host.check(replica)
    before = place.look(host, replica)
    if before is not None and before.manifest.discarded_at is not None:
        raise taken(host.name, replica, "it lies in the trash: `bootpoint replica restore` or `purge` it")
    if dry_run:
        return
    if before is None:
        vm = _made(host, replica)
        place.retried(host, lambda: _begin(host, replica, vm))
    else:
        place.retried(host, lambda: _bring_up_to_date(host, replica))


def _made(host: Host, replica: Replica) -> Vm:
    """Return the replica's VM: one that a call made which died before it wrote the journal, or a new one."""
    found = place.standby_of(host.machines(), replica)
    if found is not None:
        return found
    host.step("create:vm")
    host.make(replica)
    made = place.standby_of(host.machines(), replica)
    if made is None:
        raise host.problem(Code.TARGET_WRITE_ERROR, f"host {host.name} made {replica.vm_name}, and lost it", replica)
    return made


def _begin(host: Host, replica: Replica, vm: Vm) -> None:
    """Write the first journal."""
    if place.read_journal(host, vm) is not None:
        return
    files = {host.base_file(vm.folder, disk): disk.slot for disk in replica.disks}
    keys = {files[drive.file]: drive.key for drive in host.state(vm).drives if drive.file in files}
    manifest = journal.Manifest(replica=replica, vm_uuid=UUID(vm.uuid), keys=keys, leaves=leaf.leaves(host, vm))
    host.step("create:journal")
    done = place.change(place.Snapshot(host, vm, host.store_of(vm), manifest, 0), manifest)
    runbook.write(host, done)


def _bring_up_to_date(host: Host, replica: Replica) -> None:
    """Write new values into the journal; the VM gets them at once where that can be, else with the next commit."""
    before = place.must_read(host, replica)
    if before.manifest.replica == replica:
        return
    after = place.change(before, msgspec.structs.replace(before.manifest, replica=replica))
    if after.manifest.open is None and not host.state(after.vm).on and after.manifest.consolidating is None:
        leaf.stand(host, after, after.manifest.stood_on())


def free_bytes(host: Host, replica: Replica) -> int:
    """Return the free bytes of the replica's storage; see `Target.free_bytes`."""
    return host.store(replica.storage).free_bytes()


def remove(host: Host, replica: Replica) -> None:
    """Remove a replica's VMs with all files; see `Target.remove`."""
    found = place.look(host, replica)
    vm = found.vm if found is not None else place.standby_of(host.machines(), replica)
    if vm is not None and (found is None or found.manifest.discarded_at is None):
        destroy(host, replica, vm)


def destroy(host: Host, replica: Replica, vm: Vm) -> None:
    """Remove a standby with its tests, its snapshots and everything in its folder that is bootpoint's."""
    found = place.read_journal(host, vm)
    for test in host.machines():
        if test.replica_id == replica.replica_id and test.test_id is not None:
            host.end_test(test)
    for layer in found.manifest.open.layers if found is not None and found.manifest.open is not None else ():
        host.end_writers(layer.file)
    host.step("remove:off")
    host.power_off(vm)
    host.step("remove:vm")
    host.destroy(vm)
    if found is not None:
        host.step("remove:files")
        for name in ours(host, found.manifest, found.store.list(vm.folder)):
            found.store.delete(host.join(vm.folder, name))
        if not found.store.list(vm.folder):
            found.store.delete(vm.folder)


def ours(host: Host, manifest: journal.Manifest, names: Iterable[str]) -> list[str]:
    """Return those of the names in a standby's folder that are bootpoint's: others may have been put beside them.

    Files of a disk begin with the disk's name, or with that of a link that the journal knows.
    """
    opened = manifest.open.layers if manifest.open is not None else ()
    known = [one.file for one in manifest.leaves] + [layer.file for layer in opened]
    known += [disk.file for point in manifest.points for disk in point.disks]
    stems = {host.name_of(file).rpartition(".")[0] for file in known}
    stems |= {disk.disk_name for disk in manifest.replica.disks}
    of_disk = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(stems)))})[-_.].*")
    return [
        name
        for name in names
        if name == runbook.NAME
        or name.startswith(place.PREFIX)
        or (name.endswith(host.suffixes) and of_disk.fullmatch(name))
    ]
