"""A replica's place on a host: its VM, and the journal in the VM's folder.

A change of the journal is a new file with the next number. It is written under a name of its own, and then moved,
which the host refuses when there is one of that number: of two who change the same journal, one learns that it came
late, and begins again from what the other one left. So nobody holds a lock across the network, and a worker that was
frozen changes no journal when it thaws: the number that it wants may be free again, for old ones are deleted, but then
the one that it began from is gone, too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.host import taken
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, layout
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.store import Store
from bootpoint_worker.targets.snapshots.vm import State, Vm

_T = TypeVar("_T")

#: How often a change is worked out anew before it is given up: each time somebody else was faster.
ATTEMPTS = 8

#: How the names of journals, and of drafts of them, begin.
PREFIX = "bootpoint-journal-"
_NAME = re.compile(PREFIX + r"(\d{8})\.json")


class Changed(Exception):  # noqa: N818 - the caller begins again
    """The journal is another one than the change was worked out from."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A replica's VM and journal at one moment.

    Attributes:
        vm: The standby VM.
        host: The host.
        store: The storage of its folder.
        manifest: The journal.
        number: The journal's number; 0 for one that isn't written yet.
    """

    host: Host
    vm: Vm
    store: Store
    manifest: journal.Manifest
    number: int


def standby_of(vms: list[Vm], replica: Replica) -> Vm | None:
    """Return the standby VM of a replica, whatever its name is."""
    return next((vm for vm in vms if vm.replica_id == replica.replica_id and vm.test_id is None), None)


def read_journal(host: Host, vm: Vm) -> Snapshot | None:
    """Read the journal in the folder of a VM, which may have been moved since; None where there is none."""
    if vm.directory is None:
        return None
    store = host.store_of(vm)
    # A number may be gone when it is read: somebody has written two more in the meantime.
    for _ in range(ATTEMPTS):
        names = [name for name in store.list(vm.directory, PREFIX + "*.json") if _NAME.fullmatch(name)]
        if not names:
            return None
        data = store.get(host.join(vm.directory, names[-1]))
        if data is not None:
            manifest = journal.decode(data, host=host.name)
            if layout.was_moved(host, manifest, vm.directory):
                manifest = layout.found(host, vm, manifest)
            return Snapshot(host, vm, store, manifest, _number(names[-1]))
    raise error(Code.BUSY, f"the journal in {vm.directory} changes all the time", host=host.name)


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def look(host: Host, replica: Replica) -> Snapshot | None:
    """Find a replica, in the trash or out of it; None when the host has none.

    Raises:
        RefusedError: ``vm_name_taken``: it has none, and a VM of its name is somebody else's.
    """
    vms = host.machines()
    vm = standby_of(vms, replica)
    found = read_journal(host, vm) if vm is not None else None
    if found is None or found.manifest.discarded_at is not None:
        refuse_taken(host, vms, replica)
    return found


def refuse_taken(host: Host, vms: list[Vm], replica: Replica) -> None:
    """Refuse a name that a VM has which isn't this replica's standby.

    Raises:
        RefusedError: ``vm_name_taken``.
    """
    for vm in vms:
        if vm.name == replica.vm_name and (vm.replica_id != replica.replica_id or vm.test_id is not None):
            owner = f"replica {vm.replica_id}" if vm.replica_id else "nobody that bootpoint knows"
            raise taken(host.name, replica, f"VM {vm.id} of that name belongs to {owner}")


def read(host: Host, replica: Replica) -> Snapshot | None:
    """Find a replica that isn't in the trash; see `look`."""
    found = look(host, replica)
    return None if found is None or found.manifest.discarded_at is not None else found


def must_read(host: Host, replica: Replica) -> Snapshot:
    """Find a replica that has to be there.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    found = read(host, replica)
    if found is None:
        text = f"host {host.name} has no replica {replica.vm_name}"
        raise host.problem(Code.NO_SUCH_VM, text, replica, value=replica.vm_name)
    return found


def change(before: Snapshot, after: journal.Manifest) -> Snapshot:
    """Replace the journal.

    Raises:
        Changed: It isn't the one of ``before`` any more.
    """
    if after == before.manifest and before.number:
        return before
    directory, number = before.vm.folder, before.number + 1
    draft = before.host.join(directory, f"{PREFIX}{secrets.token_hex(8)}.draft")
    before.store.put(draft, after.encoded())
    if not before.store.move_new(draft, _path(before, number)):
        before.store.delete(draft)
        raise Changed
    if before.number and before.store.get(_path(before, before.number)) is None:
        before.store.delete(_path(before, number))
        raise Changed
    if number > 2:
        before.store.delete(_path(before, number - 2))
    return replace(before, manifest=after, number=number)


def is_current(before: Snapshot) -> bool:
    """Tell whether the journal is still the one that was read: a cheaper question than to read it again."""
    has = before.store.has
    return has(_path(before, before.number)) and not has(_path(before, before.number + 1))


def _path(before: Snapshot, number: int) -> str:
    return before.host.join(before.vm.folder, f"{PREFIX}{number:08d}.json")


def retried(host: Host, work: Callable[[], _T]) -> _T:
    """Do what changes a journal, again from its start whenever somebody else was faster.

    Raises:
        RetryableError: ``busy``: somebody else was faster all the time.
    """
    for _ in range(ATTEMPTS):
        try:
            return work()
        except Changed:
            continue
    raise error(Code.BUSY, f"others change the same replica on host {host.name} all the time", host=host.name)


def refuse_running(host: Host, replica: Replica, state: State) -> None:
    """Refuse what can't be done to a VM that runs.

    Raises:
        RefusedError: ``standby_running``.
    """
    if state.on:
        raise host.problem(
            Code.STANDBY_RUNNING,
            f"{replica.vm_name} is running on host {host.name}",
            replica,
            hint="stop it first: `bootpoint vm stop`",
        )
