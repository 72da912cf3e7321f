"""Finding replicas on a host by what the host itself knows: for work without database, broker and workers."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.journal import FoundReplica
from bootpoint_worker.targets.kvm import journal, script, standby
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.session import check
from bootpoint_worker.targets.replica import Replica

#: The directory beside replicas in which deleted ones lie, each by its id.
TRASH = ".bootpoint-trash"


def find_replicas(host: Host) -> list[FoundReplica]:
    """Return all replicas in the host's storage pools, and those that the definitions of its VMs name."""
    places = {mark.directory for _, mark in host.hypervisor.machines() if mark and mark.directory}
    found = []
    for directory, snapshot in _journals(host, places):
        if snapshot.manifest.discarded_at is None:
            state, drift = standby.observe(host, snapshot)
            described = snapshot.manifest.described(standby=state, drift=drift)
            found.append(FoundReplica(directory, replica_from_journal(snapshot.manifest, directory), described))
    return found


def find_discarded(host: Host, known: Sequence[Replica]) -> list[FoundReplica]:
    """Return all replicas in the trash of the host's storage pools, and beside the places of known ones."""
    found = []
    for directory, snapshot in _journals(host, set(_beside(host, known))):
        at, folder = posixpath.split(posixpath.dirname(directory))
        if folder == TRASH and snapshot.manifest.discarded_at is not None:
            replica = replace(snapshot.manifest.replica, storage=at, folder="")
            described = snapshot.manifest.described(standby="off", drift=None)
            found.append(FoundReplica(directory, replica, described))
    return found


def _beside(host: Host, known: Iterable[Replica]) -> Iterator[str]:
    """Yield the directories in which replicas have their places; of one whose storage is gone the trash is, too."""
    for replica in known:
        try:
            yield posixpath.dirname(host.place(replica).directory)
        except BootpointError as problem:
            if problem.code is not Code.STORAGE_UNKNOWN:
                raise


def _journals(host: Host, places: Iterable[str]) -> Iterator[tuple[str, Snapshot]]:
    """Yield every directory with a journal in the host's storage pools and in other places."""
    result = host.session.run(script.script("find"), *sorted({*places, *host.hypervisor.pools().values()}))
    for path in check(host.session, result, "look for replicas").text.splitlines():
        directory = posixpath.dirname(path)
        snapshot = Place(session=host.session, directory=directory).read()
        if snapshot is not None:
            yield directory, snapshot


def replica_from_journal(manifest: journal.Manifest, directory: str) -> Replica:
    """Return what names a replica in the verbs, from its journal and from where that lies.

    The storage is given as a directory, for the journal may have been moved together with its disk.
    """
    return replace(
        manifest.replica, vm_name=posixpath.basename(directory), storage=posixpath.dirname(directory), folder=""
    )
