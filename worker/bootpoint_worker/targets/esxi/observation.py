"""What can be seen of a replica's VMs: whether they run, what others did to the standby, and what a test shows."""

from __future__ import annotations

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi import inventory, journal, leaf, machine, place, trial
from bootpoint_worker.targets.esxi.datastore import split
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.journal import FoundReplica, Journal
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.sight import SERIAL_TAIL, Sight, plain


def inspect(host: Host, replica: Replica) -> Journal | None:
    """Read a replica's journal, and look at its VMs; see `Target.inspect`."""
    found = place.read(host, replica)
    return None if found is None else described(host, found, inventory.machines(host.client))


def described(host: Host, found: place.Snapshot, vms: list[inventory.Vm]) -> Journal:
    """Return a journal as the interface has it, with what its VMs do now."""
    state, drift = _observed(host, found, vms)
    return journal.describe(found.manifest, standby=state, drift=drift)


def _observed(host: Host, found: place.Snapshot, vms: list[inventory.Vm]) -> tuple[str, str | None]:
    """Return the standby's state (``off``, ``running``, ``test``), and what shows that others used it."""
    manifest = found.manifest
    standby, name = manifest.standby, f"{manifest.replica.vm_name} on host {host.name}"
    ours = standby is not None and standby.started_at is not None
    ids = {vm.test_id for vm in vms if vm.on and vm.replica_id == manifest.replica.replica_id}
    running, state = None in ids, "running" if None in ids else "test" if ids else "off"
    if running:
        return state, None if ours else f"{name} runs, and bootpoint did not start it"
    if ours or manifest.open is not None or manifest.dirty or manifest.consolidating is not None:
        return state, None
    now = machine.read_state(host, found.vm.entity)
    point = manifest.stood_on()
    if now.current != (point.snapshot if point else None):
        there = now.tree.get(now.current or "")
        return state, f"{name} stands on {there.name if there else 'no snapshot'}, and bootpoint did not put it there"
    if changed := leaf.written(host, found, now):
        return state, f"{name} was started outside bootpoint: {changed[0]} has its changes"
    return state, None


def find_replicas(host: Host, *, discarded: bool) -> list[FoundReplica]:
    """Return every replica on a host, or in its trash, by the notes of its VMs."""
    vms = inventory.machines(host.client)
    found = []
    for vm in vms:
        if vm.replica_id is None or vm.test_id is not None:
            continue
        snapshot = place.read_journal(host, vm)
        if snapshot is not None and (snapshot.manifest.discarded_at is not None) is discarded:
            found.append(FoundReplica(vm.directory, snapshot.manifest.replica, described(host, snapshot, vms)))
    return found


def look(host: Host, replica: Replica, test_id: str) -> Sight:
    """Look at a test VM; see `Target.look`."""
    vm = trial.test_of(inventory.machines(host.client), replica, test_id)
    if vm is None:
        return Sight(state="absent")
    paths = ("summary.guest.toolsRunningStatus", "runtime.question")
    found = host.client.read(vm.entity, optional=paths)
    serial = _serial(host, replica, vm, test_id)
    if not vm.on:
        return Sight(state="off", serial=serial)
    question = found.get("runtime.question")
    return Sight(
        state="paused" if question is not None else "running",
        why=str(question.text) if question is not None else None,
        serial=serial,
        picture=_picture(host, vm),
        agent=found.get("summary.guest.toolsRunningStatus") == "guestToolsRunning",
    )


def _serial(host: Host, replica: Replica, vm: inventory.Vm, test_id: str) -> str:
    """Return the end of what a test wrote to its first serial port."""
    known = place.read(host, replica)
    test = known.manifest.test(test_id) if known is not None else None
    if known is None or test is None or test.serial_log is None:
        return ""
    written = host.store(split(vm.vmx or "")[0]).get(test.serial_log)
    return plain(written[-SERIAL_TAIL:]) if written else ""


def _picture(host: Host, vm: inventory.Vm) -> bytes | None:
    """Return a VM's screen; the host saves it beside the VM's files, from where it is fetched and deleted."""
    try:
        path = str(host.client.run(lambda: vm.entity.CreateScreenshot_Task()))  # noqa: PLW0108 - pyVmomi's method
    except BootpointError as exc:
        if exc.code in (Code.HOST_UNREACHABLE, Code.HOST_AUTH, Code.HOST_KEY_CHANGED):
            raise
        return None  # it was just powered off, or this host makes none
    store = host.store(split(path)[0])
    picture = store.get(path)
    store.delete(path)
    return picture
