"""The standby VM's definition, and the scratch layers that it writes into.

The definition never names a point's file. Its disks are scratch layers over the head, made anew at each commit::

    base ◄── V1 ◄── V2 (head) ◄── scratch ··· definition of the standby
              ▲
              └── scratch of a test ··· definition <vm>-test-<id>

A scratch layer that somebody wrote into is never thrown away when it is replaced: it becomes a branch file.
"""

from __future__ import annotations

import posixpath
import secrets
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.base import Nic, Replica
from bootpoint_worker.targets.kvm import domain, journal
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.qcow2 import scratch_file, virtual_size
from bootpoint_worker.targets.kvm.runbook import LABEL, runbook_text


def remake(host: Host, place: Place, replica: Replica) -> None:
    """Bring the standby's scratch layers, its definition and the runbook up to the head; does only what is left.

    A standby that runs, or that was reverted to a point, stays where it is.
    """

    def again() -> None:
        with place.guarded():
            before = host.must_read(place, replica)
            if owned_state(host, before.manifest) != "running":
                before = _renewed(host, place, before)
            host.step("remake:runbook")
            write_runbook(host, place, before.manifest)

    place.retried(again)


def _renewed(host: Host, place: Place, before: Snapshot) -> Snapshot:
    head, standby = before.manifest.head, before.manifest.standby
    if head is None:
        return before
    if standby is not None and (standby.point_id == head.point_id or _held(before.manifest, standby)):
        define(host, place, before.manifest, standby)
        return before
    host.step("remake:scratch")
    machine = journal.Machine(point_id=head.point_id, layers=make_scratch(place, before, head))
    host.step("remake:define")
    define(host, place, before.manifest, machine)
    host.step("remake:sweep")
    return sweep(place, before, msgspec.structs.replace(before.manifest, standby=machine))


def _held(manifest: journal.Manifest, standby: journal.Machine) -> bool:
    """Say whether the standby was reverted to a point that is still there: then it stays, whatever is newer."""
    return standby.held and manifest.point(standby.point_id) is not None


def untouched(before: Snapshot, machine: journal.Machine) -> bool:
    """Say whether a machine's scratch layers are there, and nobody has written into them."""
    return all(0 < before.scratch.get(layer.file, 0) <= layer.fresh_bytes for layer in machine.layers)


def make_scratch(
    place: Place, before: Snapshot, point: journal.PointEntry, label: str = ""
) -> tuple[journal.ScratchEntry, ...]:
    """Make empty layers above a point, which the journal doesn't name yet.

    Args:
        place: The replica's directory.
        before: What is there.
        point: The point.
        label: Part of the files' names, besides the point's name and a number.
    """
    names = {disk.slot: disk.disk_name for disk in before.manifest.replica.disks}
    ending = f"{label}{point.name}-{secrets.token_hex(4)}"
    files = [scratch_file(names.get(disk.slot, disk.slot), ending) for disk in point.disks]
    arguments: list[str] = []
    for disk, file in zip(point.disks, files, strict=True):
        arguments += [file, disk.file, str(virtual_size(disk.size_bytes))]
    said = place.run("scratch", before.digest, *arguments, what="make scratch layers").text
    lengths = {name: int(length) for length, name in (line.split(" ", 1) for line in said.splitlines())}
    return tuple(
        journal.ScratchEntry(slot=disk.slot, file=file, base=disk.file, fresh_bytes=lengths[file])
        for disk, file in zip(point.disks, files, strict=True)
    )


def sweep(place: Place, before: Snapshot, after: journal.Manifest) -> Snapshot:
    """Write a journal, and with it put aside the scratch layers that it no longer names: empty ones are removed,
    others become branches."""
    in_use = after.scratch_files()
    old = {layer.file: layer for layer in before.manifest.standby.layers} if before.manifest.standby else {}
    tests = {layer.file for test in before.manifest.tests for layer in test.layers}
    fresh = max((layer.fresh_bytes for layer in after.standby.layers), default=0) if after.standby else 0
    now = datetime.now(UTC)
    words: list[str] = []
    branches = list(after.branches)
    for file, length in sorted(before.scratch.items()):
        if file in in_use:
            continue
        known = old.get(file)
        if file in tests or length <= (known.fresh_bytes if known else fresh):
            words += ["remove", file, "-"]
            continue
        branch = file.replace(".scratch-", ".branch-")
        words += ["keep", file, branch]
        branches.append(journal.Branch(file=branch, base=known.base if known else "", kept_at=now))
    after = msgspec.structs.replace(after, branches=tuple(branches))
    return place.change("sweep", before, after, *words, what="put old scratch layers aside")


def define(host: Host, place: Place, manifest: journal.Manifest, machine: journal.Machine) -> None:
    """Write the definition of the standby or of a test over its scratch layers."""
    host.hypervisor.define(definition(host, place.directory, manifest, machine))


def definition(host: Host, directory: str, manifest: journal.Manifest, machine: journal.Machine) -> domain.Definition:
    """Return the definition of the standby, or of a test: which has a name, an id and MACs of its own and
    no network."""
    replica = manifest.replica
    buses = {disk.slot: disk.bus for disk in replica.disks}
    order = {disk.slot: number for number, disk in enumerate(replica.disks)}
    layers = sorted(machine.layers, key=lambda layer: order.get(layer.slot, len(order)))
    test = machine.test_id is not None
    networks = host.hypervisor.networks() if replica.nics and not test else {}
    return domain.Definition(
        name=machine_name(replica, machine.test_id),
        uuid=machine.uuid or manifest.vm_uuid,
        replica_id=replica.replica_id,
        directory=directory,
        virt_type=host.virt_type,
        cpus=replica.cpus,
        memory_bytes=replica.memory_bytes,
        firmware=replica.firmware,
        disks=tuple(
            domain.Disk(posixpath.join(directory, layer.file), buses.get(layer.slot, "virtio")) for layer in layers
        ),
        nics=tuple(_with_new_mac(nic) for nic in replica.nics) if test else replica.nics,
        isolated=test,
        serial_log=machine.serial_log,
        bridges=frozenset(nic.network for nic in replica.nics if nic.network and nic.network not in networks),
        test_id=machine.test_id,
    )


def machine_name(replica: Replica, test_id: str | None) -> str:
    """Return the name of the standby VM, or of a test's."""
    return replica.vm_name if test_id is None else f"{replica.vm_name}-test-{test_id}"


def _with_new_mac(nic: Nic) -> Nic:
    tail = ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))
    return Nic(network=nic.network, model=nic.model, mac=f"52:54:00:{tail}", connect=nic.connect)


def owned_state(host: Host, manifest: journal.Manifest) -> str:
    """Return ``running``, ``off``, or ``absent`` of the standby VM.

    Raises:
        RefusedError: ``vm_name_taken``: the VM of that name isn't this replica's.
    """
    found = host.hypervisor.state(manifest.replica.vm_name)
    if found is None:
        return "absent"
    state, xml = found
    mark = domain.mark_of(xml)
    if mark is None or mark.replica_id != manifest.replica.replica_id:
        raise host.taken(manifest.replica, "there is one that bootpoint did not make")
    return state


def refuse_running(host: Host, manifest: journal.Manifest) -> None:
    """Refuse to move a standby that runs.

    Raises:
        RefusedError: ``standby_running``.
    """
    if owned_state(host, manifest) == "running":
        raise error(
            Code.STANDBY_RUNNING,
            f"{manifest.replica.vm_name} is running on host {host.name}",
            hint="stop it first: `bootpoint vm stop`",
            job=manifest.replica.job,
            host=host.name,
        )


def observe(host: Host, snapshot: Snapshot) -> tuple[str, str | None]:
    """Return the standby's state (``off``, ``running``, ``test``), and what shows that it was started by others."""
    manifest = snapshot.manifest
    name = manifest.replica.vm_name
    ours = [(vm, mark) for vm, mark in host.hypervisor.machines() if vm.replica_id == manifest.replica.replica_id]
    running = any(vm.state == "running" and mark and mark.test_id is None for vm, mark in ours)
    testing = any(vm.state == "running" and mark and mark.test_id is not None for vm, mark in ours)
    state = "running" if running else "test" if testing else "off"
    standby = manifest.standby
    if running and (standby is None or standby.started_at is None):
        return state, f"{name} runs on host {host.name}, and bootpoint did not start it"
    by_hand = sorted(file for file in snapshot.scratch if f".scratch-{LABEL}" in file)
    if by_hand:
        return state, f"{name} was started from its runbook on host {host.name}: {by_hand[0]} has its changes"
    if standby is not None and standby.started_at is None:
        for layer in standby.layers:
            if snapshot.scratch.get(layer.file, 0) > layer.fresh_bytes:
                return state, f"{name} was started outside bootpoint on host {host.name}: {layer.file} has its changes"
    return state, None


def write_runbook(host: Host, place: Place, manifest: journal.Manifest) -> None:
    """Write RUNBOOK.txt: how to start every point with the host's own tools."""
    names = {disk.slot: disk.disk_name for disk in manifest.replica.disks}
    definitions = {}
    for point in manifest.points:
        layers = tuple(
            journal.ScratchEntry(
                slot=disk.slot, file=scratch_file(names.get(disk.slot, disk.slot), LABEL + point.name), base=disk.file
            )
            for disk in point.disks
        )
        machine = journal.Machine(point_id=point.point_id, layers=layers)
        definitions[point.point_id] = definition(host, place.directory, manifest, machine)
    place.write("RUNBOOK.txt", runbook_text(place.directory, manifest, definitions).encode())


def remove_machine(host: Host, name: str, replica_id: UUID) -> None:
    """Power a VM off and remove its definition, if it is this replica's; nothing when there is none."""
    found = host.hypervisor.state(name)
    mark = domain.mark_of(found[1]) if found else None
    if mark is not None and mark.replica_id == replica_id:
        host.hypervisor.power_off(name)
        host.hypervisor.undefine(name)
