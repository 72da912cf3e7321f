"""What can be seen of a replica's VMs: whether they run, what others did to the standby, and what a test shows."""

from __future__ import annotations

from bootpoint_worker.targets.journal import FoundReplica, Journal
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.sight import SERIAL_TAIL, Sight, plain
from bootpoint_worker.targets.snapshots import leaf, place, trial
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import Vm


def inspect(host: Host, replica: Replica) -> Journal | None:
    """Read a replica's journal, and look at its VMs; see `Target.inspect`."""
    found = place.read(host, replica)
    return None if found is None else described(host, found, host.machines())


def described(host: Host, found: place.Snapshot, vms: list[Vm]) -> Journal:
    """Return a journal as the interface has it, with what its VMs do now."""
    state, drift = _observed(host, found, vms)
    return found.manifest.described(standby=state, drift=drift)


def _observed(host: Host, found: place.Snapshot, vms: list[Vm]) -> tuple[str, str | None]:
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
    now = host.state(found.vm)
    point = manifest.stood_on()
    if now.current != (point.snapshot if point else None):
        there = now.tree.get(now.current or "")
        return state, f"{name} stands on {there.name if there else 'no snapshot'}, and bootpoint did not put it there"
    if changed := leaf.written(host, found, now):
        return state, f"{name} was started outside bootpoint: {changed[0]} has its changes"
    return state, None


def find_replicas(host: Host, *, discarded: bool) -> list[FoundReplica]:
    """Return every replica on a host, or in its trash, by the notes of its VMs."""
    vms = host.machines()
    found = []
    for vm in vms:
        if vm.replica_id is None or vm.test_id is not None:
            continue
        snapshot = place.read_journal(host, vm)
        if snapshot is not None and (snapshot.manifest.discarded_at is not None) is discarded:
            found.append(FoundReplica(vm.folder, snapshot.manifest.replica, described(host, snapshot, vms)))
    return found


def look(host: Host, replica: Replica, test_id: str) -> Sight:
    """Look at a test VM; see `Target.look`."""
    vm = trial.test_of(host.machines(), replica, test_id)
    return Sight(state="absent") if vm is None else host.sight(vm, _serial(host, replica, test_id))


def _serial(host: Host, replica: Replica, test_id: str) -> str:
    """Return the end of what a test wrote to its first serial port."""
    known = place.read(host, replica)
    test = known.manifest.test(test_id) if known is not None else None
    if known is None or test is None or test.serial_log is None:
        return ""
    written = known.store.get(test.serial_log)
    return plain(written[-SERIAL_TAIL:]) if written else ""
