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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.units import SECTOR
from bootpoint_worker.targets.host import taken
from bootpoint_worker.targets.kvm import domain, journal
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.qcow2 import disk_name, scratch_file, virtual_size
from bootpoint_worker.targets.kvm.runbook import LABEL, runbook_text
from bootpoint_worker.targets.replica import Nic, Replica, new_mac


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
    files = list(scratch_names(point, label).values())
    arguments: list[str] = []
    for disk, file in zip(point.disks, files, strict=True):
        arguments += [file, disk.file, str(virtual_size(disk.size_bytes))]
    said = place.run("scratch", before.digest, *arguments, what="make scratch layers").text
    lengths = {name: int(length) for length, name in (line.split(" ", 1) for line in said.splitlines())}
    return tuple(
        journal.ScratchEntry(slot=disk.slot, file=file, base=disk.file, fresh_bytes=lengths[file])
        for disk, file in zip(point.disks, files, strict=True)
    )


def scratch_names(point: journal.PointEntry, label: str) -> dict[str, str]:
    """Make new names of scratch layers above a point, by slot."""
    ending = f"{label}{point.name}-{secrets.token_hex(4)}"
    return {disk.slot: scratch_file(disk_name(disk.file), ending) for disk in point.disks}


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
        if file in tests:
            words += ["remove", file, "-"]
            continue
        if length <= (known.fresh_bytes if known else fresh):
            words += ["drop", file, str(length)]
            continue
        branch = file.replace(".scratch-", ".branch-")
        words += ["keep", file, branch]
        branches.append(journal.Branch(file=branch, base=known.base if known else "", kept_at=now))
    after = msgspec.structs.replace(after, branches=tuple(branches))
    return place.change("sweep", before, after, *words, what="put old scratch layers aside")


def define(host: Host, place: Place, manifest: journal.Manifest, machine: journal.Machine) -> None:
    """Write the definition of the standby or of a test over its scratch layers."""
    wanted = definition(host, place.directory, manifest, machine)
    try:
        host.hypervisor.define(wanted)
    except BootpointError as problem:
        if problem.code != Code.HOST_UNSUPPORTED or wanted.firmware_log is None:
            raise
        # An older libvirt has no such port: then resets are seen in what UEFI writes, and those of a BIOS are not.
        host.hypervisor.define(replace(wanted, firmware_log=None))


def definition(host: Host, directory: str, manifest: journal.Manifest, machine: journal.Machine) -> domain.Definition:
    """Return the definition of the standby, or of a test: which has a name, an id and MACs of its own and
    no network."""
    replica = manifest.replica
    layers = sorted(machine.layers, key=lambda layer: _place_of(manifest, layer.slot))
    test = machine.test_id is not None
    networks = host.hypervisor.networks() if replica.nics and not test else {}
    return domain.Definition(
        name=replica.machine_name(machine.test_id),
        uuid=machine.uuid or manifest.vm_uuid,
        replica_id=replica.replica_id,
        directory=directory,
        virt_type=host.virt_type,
        cpus=replica.cpus,
        memory_bytes=replica.memory_bytes,
        firmware=(manifest.profile.firmware if manifest.profile else None) or replica.firmware,
        disks=tuple(
            domain.Disk(posixpath.join(directory, layer.file), bus, _sectors(manifest, layer.slot))
            for layer, bus in zip(layers, _buses(manifest, machine, layers), strict=True)
        ),
        nics=_cards(manifest, machine),
        isolated=test,
        serial_log=machine.serial_log,
        bridges=frozenset(nic.network for nic in replica.nics if nic.network and nic.network not in networks),
        test_id=machine.test_id,
        console_log=None if machine.test_id is None else posixpath.join(directory, logs_of(machine.test_id)[0]),
        firmware_log=None if machine.test_id is None else posixpath.join(directory, logs_of(machine.test_id)[1]),
    )


def logs_of(test_id: str) -> tuple[str, str]:
    """Return the names of a test's files for what its guest and its firmware say."""
    return f"test-{test_id}.serial.log", f"test-{test_id}.firmware.log"


def _place_of(manifest: journal.Manifest, slot: str) -> tuple[bool, int]:
    """Return a disk's place in the order: firmware boots from the first one."""
    order = {disk.slot: number for number, disk in enumerate(manifest.replica.disks)}
    boots = manifest.profile is not None and manifest.profile.boot_disk == slot
    return not boots, order.get(slot, len(order))


def _buses(
    manifest: journal.Manifest, machine: journal.Machine, layers: Sequence[journal.ScratchEntry]
) -> Iterator[str]:
    """Yield each layer's bus: the job's, or for a machine that isn't converted the one that it boots from."""
    buses = {disk.slot: disk.bus for disk in manifest.replica.disks}
    native = manifest.profile.bus if manifest.profile is not None and not machine.converted else None
    for number, layer in enumerate(layers):
        bus = native or buses.get(layer.slot, "virtio")
        if _sectors(manifest, layer.slot) != SECTOR and bus not in domain.LARGE_SECTOR_BUSES:
            bus = buses[layer.slot]  # there it couldn't be attached at all
        # An IDE controller takes four disks.
        yield "sata" if bus == "ide" and number >= domain.IDE_DISKS else bus


def _sectors(manifest: journal.Manifest, slot: str) -> int:
    return next((disk.sector_bytes for disk in manifest.replica.disks if disk.slot == slot), SECTOR)


def _cards(manifest: journal.Manifest, machine: journal.Machine) -> tuple[Nic, ...]:
    """Return the network cards: a test has MACs of its own, and a machine that isn't converted the model it knows."""
    native = manifest.profile.nic_model if manifest.profile is not None and not machine.converted else None
    macs = machine.macs or new_macs(manifest.replica) if machine.test_id is not None else ()
    return tuple(
        replace(nic, model=native or nic.model, mac=macs[number] if macs else nic.mac)
        for number, nic in enumerate(manifest.replica.nics)
    )


def new_macs(replica: Replica) -> tuple[str, ...]:
    """Make a MAC address for each network card of a test."""
    return tuple(new_mac() for _nic in replica.nics)


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
        raise taken(host.name, manifest.replica, "there is one that bootpoint did not make")
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
    definitions = {}
    for point in manifest.points:
        layers = tuple(
            # By the point's own files: the job may have no such disk any more.
            journal.ScratchEntry(
                slot=disk.slot, file=scratch_file(disk_name(disk.file), LABEL + point.name), base=disk.file
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
