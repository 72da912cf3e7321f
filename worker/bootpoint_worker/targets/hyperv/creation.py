"""Making the standby's VM on a host, after everything was checked; and test VMs."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.smb.path import join
from bootpoint_worker.targets.hyperv import hardware
from bootpoint_worker.targets.hyperv.host import Host, session_of
from bootpoint_worker.targets.hyperv.session import HyperVSession
from bootpoint_worker.targets.replica import Replica, ReplicaDisk
from bootpoint_worker.targets.snapshots import journal, place
from bootpoint_worker.targets.snapshots.vm import TestPlan, Vm, notes

#: Characters that a name may have: what neither Windows' paths nor PowerShell's wildcards mean something by.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}(?<![ .])")

#: MAC addresses of one machine: neither of a group, nor none.
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", re.IGNORECASE)

#: Seconds for making a VM: the base of a thick disk is zeroed, at some hundred MiB a second.
MAKE_TIMEOUT = 7200.0

#: File in a VM's folder with its notes, until it has them; the module knows it, too. It goes with the journals.
NOTES = f"{place.PREFIX}notes.txt"

#: Most characters of a path of a virtual disk, or of a VM's own file: MAX_PATH without the zero at its end.
LONGEST_PATH = 259

#: Characters that come to the name of a disk's file, of one that has grown and that the host made for a checkpoint; to
#: that of a VM's folder where another one has it; and to its path for the host's own files, on the oldest release.
_OF_DISK = len("-000000000000_00000000-0000-0000-0000-000000000000.avhdx")
_OF_FOLDER = len("-000000000000")
_OF_VM = len("\\Virtual Machines\\00000000-0000-0000-0000-000000000000\\00000000-0000-0000-0000-000000000000.bin")

#: Most bytes of a VHDX's disk ([MS-VHDX] 2.6.2.4).
_LARGEST = 64 << 40


def check(host: Host, replica: Replica) -> None:
    """Look whether a replica can be made here; see `Host.check`."""
    for key, name in (("vm.name", replica.vm_name), *(("storage.disk_name", disk.disk_name) for disk in replica.disks)):
        if _NAME.fullmatch(name) is None:
            text = f"{name!r} can't name files of a Hyper-V host: use letters, digits, space and . _ + -"
            raise host.problem(Code.SPEC_INVALID, text, replica, key=key, value=name)
    if len({disk.disk_name.casefold() for disk in replica.disks}) != len(replica.disks):
        raise host.problem(Code.SPEC_INVALID, "two disks have the same disk_name", replica, key="storage.disk_name")
    for disk in replica.disks:
        _check_disk(host, replica, disk)
    _check_cards(host, replica)
    _check_lengths(host, replica)


def _check_lengths(host: Host, replica: Replica) -> None:
    """Refuse names of which Windows would refuse a file in mid-run."""
    folder = len(join(_above(host, replica), replica.vm_name)) + _OF_FOLDER
    disk = max((len(disk.disk_name) for disk in replica.disks), default=0)
    longest = max(folder + _OF_VM, folder + 1 + disk + _OF_DISK)
    if longest > LONGEST_PATH:
        text = f"files of {replica.vm_name} would have paths of {longest} characters; Windows allows {LONGEST_PATH}"
        hint = f"shorten storage.folder, vm.name or storage.disk_name by {longest - LONGEST_PATH} characters"
        raise host.problem(Code.SPEC_INVALID, text, replica, key="storage.folder", value=replica.folder, hint=hint)


def _above(host: Host, replica: Replica) -> str:
    """Return the folder in which the VM's own one is."""
    return join(host.store(replica.storage).path, *(part for part in re.split(r"[/\\]", replica.folder) if part))


def _check_disk(host: Host, replica: Replica, disk: ReplicaDisk) -> None:
    if disk.bus not in hardware.BUSES or (disk.bus == "ide" and hardware.generation(replica) == 2):
        served = hardware.BUSES if hardware.generation(replica) == 1 else hardware.LARGE_SECTOR_BUSES
        raise _unsupported(host, replica, "storage.bus", disk.bus, served)
    if disk.size_bytes > _LARGEST:
        text = f"disk {disk.slot} has {disk.size_bytes} bytes; a VHDX holds at most 64 TiB"
        raise host.problem(Code.HOST_UNSUPPORTED, text, replica, key=disk.slot, value=disk.size_bytes)
    boots = disk is replica.disks[0] and hardware.generation(replica) == 1
    if disk.sector_bytes != 512 and (boots or disk.bus == "ide"):
        text = f"disk {disk.slot} has sectors of {disk.sector_bytes} bytes; Hyper-V has such disks on SCSI alone"
        raise host.problem(Code.HOST_UNSUPPORTED, text, replica, key=disk.slot, value=disk.sector_bytes)


def _check_cards(host: Host, replica: Replica) -> None:
    for nic in replica.nics:
        if nic.model not in hardware.CARDS or (nic.model == "legacy" and hardware.generation(replica) == 2):
            served = hardware.CARDS if hardware.generation(replica) == 1 else hardware.CARDS[:2]
            raise _unsupported(host, replica, "nic.model", nic.model, served)
        if _MAC.fullmatch(nic.mac) is None:
            text = f"no card can have the MAC address {nic.mac}"
            raise host.problem(Code.SPEC_INVALID, text, replica, key="nic.mac", value=nic.mac)
    wanted = {nic.network for nic in replica.nics if nic.network is not None}
    known = [network.name for network in host.info().networks] if wanted else []
    for name in sorted(wanted - set(known)):
        text = f"host {host.name} has no virtual switch {name!r}; there are: {', '.join(sorted(known)) or 'none'}"
        raise host.problem(Code.NETWORK_UNKNOWN, text, replica, key="nic.network", value=name)


def _unsupported(host: Host, replica: Replica, key: str, value: str, served: Collection[str]) -> BootpointError:
    names = ", ".join(served)
    generation = hardware.generation(replica)
    text = f"host {host.name} has no {value!r} for {key} in a VM of generation {generation}; there are: {names}"
    return host.problem(Code.HOST_UNSUPPORTED, text, replica, key=key, value=value, hint=f"choose one of {names}")


def make(host: Host, replica: Replica) -> None:
    """Make the standby VM with its folder and disks; see `Host.make`."""
    text = notes(replica.replica_id, replica.job)
    folder = _taken_folder(host, _above(host, replica), replica, text)
    taken: set[int] = set()
    disks = []
    for disk in replica.disks:
        spot = must_attach(host, replica, disk, taken)
        disks.append(hardware.disk(disk, spot, host.base_file(folder, disk)))
    host.session.call(
        "create",
        {
            **values(replica, text),
            "name": replica.vm_name,
            "folder": folder,
            "disks": disks,
            "cards": hardware.cards(replica, None),
        },
        timeout=MAKE_TIMEOUT,
    )
    host.session.files.delete(join(folder, NOTES))


def _taken_folder(host: Host, above: str, replica: Replica, text: str) -> str:
    """Return the folder for a VM, with the notes in it by which the VM is known before it has them itself."""
    files = host.session.files
    there = {each.name.casefold() for each in files.list(f"{above}\\") or ()}
    folder = join(above, replica.vm_name)
    ours = files.read(join(folder, NOTES)) == text.encode()  # of a call that broke off
    if replica.vm_name.casefold() in there and not ours:
        # Another VM has the folder of that name, such as one in the trash.
        folder = join(above, f"{replica.vm_name}-{replica.replica_id.hex[-12:]}")
    _announce(host.session, folder, text)
    return folder


def _announce(session: HyperVSession, folder: str, text: str) -> None:
    """Put the notes of a VM that will be made into its folder."""
    session.files.make_folder(folder)
    session.files.write(join(folder, NOTES), text.encode())


def must_attach(host: Host, replica: Replica, disk: ReplicaDisk, taken: set[int]) -> hardware.Spot:
    """Return where a disk is to be attached, and take that place.

    Raises:
        FatalError: ``host_unsupported``: all places are taken.
    """
    spot = hardware.free_spot(
        disk.bus,
        taken,
        first=disk.slot == replica.disks[0].slot,
        second_generation=hardware.generation(replica) == 2,
    )
    if spot is None:
        text = f"a VM of Hyper-V has no place left for disk {disk.slot} on {disk.bus}"
        raise host.problem(Code.HOST_UNSUPPORTED, text, replica, key="storage.bus", value=disk.bus)
    taken.add(spot.key)
    return spot


def values(replica: Replica, text: str, secure_boot: str | None = None) -> dict[str, Any]:
    """Return the values of a VM, as the module takes them; ``text`` are its notes."""
    return {
        "generation": hardware.generation(replica),
        "cpus": replica.cpus,
        "memory": hardware.memory(replica),
        "notes": text,
        "secure_boot": secure_boot,
    }


def make_test(host: Host, before: place.Snapshot, replica: Replica, point: journal.PointEntry, test: TestPlan) -> Vm:
    """Make a test VM; see `Host.make_test`."""
    specs = {disk.slot: disk for disk in replica.disks}
    taken: set[int] = set()
    disks = []
    for number, entry in enumerate(point.disks):
        spec = specs.get(entry.slot) or ReplicaDisk(entry.slot, entry.size_bytes, entry.slot)
        spot = must_attach(host, replica, spec, taken)
        disks.append(hardware.disk(spec, spot, host.test_file(test.directory, number), parent=entry.file))
    text = notes(replica.replica_id, replica.job, test.test_id)
    session = session_of(before.vm)
    _announce(session, test.directory, text)
    made = session.call(
        "create",
        {
            **values(replica, text, hardware.secure_boot(replica, before.manifest.profile)),
            "name": test.name,
            "folder": test.directory,
            "disks": disks,
            "cards": hardware.cards(replica, None if test.converted else before.manifest.profile, isolated=True),
        },
    )
    session.files.delete(join(test.directory, NOTES))
    return Vm(
        id=made["id"],
        name=test.name,
        on=False,
        directory=test.directory,
        uuid=str(UUID(made["id"])),
        replica_id=replica.replica_id,
        test_id=test.test_id,
        memory_bytes=hardware.memory(replica),
        entity=before.vm.entity,
    )


def end_test(host: Host, vm: Vm) -> None:
    """Delete a test VM with its folder; see `Host.end_test`."""
    host.step("test:off")
    host.do("stop", vm)
    host.step("test:delete")
    host.do("remove", vm)
    # Somebody may have moved the VM to where more than its own files lie.
    if vm.folder.endswith(f"-test-{vm.test_id}"):
        host.store_of(vm).delete(vm.folder)
