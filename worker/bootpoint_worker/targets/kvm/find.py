"""Finding replicas on a host by what the host itself knows: for work without database, broker and workers."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from bootpoint_worker.targets.base import FoundReplica, Replica
from bootpoint_worker.targets.kvm import journal, script, standby
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.session import check


def find_replicas(host: Host) -> list[FoundReplica]:
    """Return all replicas in the host's storage pools, and those that the definitions of its VMs name."""
    places = set(host.hypervisor.pools().values())
    places |= {mark.directory for _, mark in host.hypervisor.machines() if mark and mark.directory}
    result = host.session.run(script.script("find"), *sorted(places))
    paths = check(host.session, result, "look for replicas").text.splitlines()
    found = []
    for path in paths:
        directory = posixpath.dirname(path)
        snapshot = Place(session=host.session, directory=directory).read()
        if snapshot is not None:
            state, drift = standby.observe(host, snapshot)
            described = journal.describe(snapshot.manifest, standby=state, drift=drift)
            found.append(FoundReplica(directory, replica_from_journal(snapshot.manifest, directory), described))
    return found


def find_by_vm(host: Host, name: str) -> FoundReplica | None:
    """Return the replica of a VM, by its name or by libvirt's id of it; None when bootpoint has none such here."""
    for found in find_replicas(host):
        if name in (found.journal.vm_name, found.journal.vm_uuid):
            return found
    return None


def replica_from_journal(manifest: journal.Manifest, directory: str) -> Replica:
    """Return what names a replica in the verbs, from its journal and from where that lies.

    The storage is given as a directory, for the journal may have been moved together with its disk.
    """
    return replace(
        manifest.replica, vm_name=posixpath.basename(directory), storage=posixpath.dirname(directory), folder=""
    )
