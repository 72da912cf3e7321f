"""What all verbs share: the session and libvirt of one host, and where its replicas lie."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.host import taken
from bootpoint_worker.targets.kvm.hypervisor import Hypervisor
from bootpoint_worker.targets.kvm.nbdtls import NbdTls
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.kvm.qcow2 import checked_name
from bootpoint_worker.targets.kvm.session import Session
from bootpoint_worker.targets.replica import Replica


def no_step(_name: str) -> None:
    """Pass a step by; tests put something here that dies."""


def through_session() -> NbdTls | None:
    """Say that NBD goes the way of all else."""
    return None


@dataclass(frozen=True, slots=True)
class Host:
    """One KVM host.

    Attributes:
        name: Its name in bootpoint.
        session: The way to it.
        hypervisor: Its libvirt.
        virt_type: ``kvm`` or ``qemu``.
        virtio_win: Path there of an ISO with drivers for Windows; None where the operator named none.
        tls: Returns how NBD goes to it over TLS, None through the session; raises where that can't be.
        step: Called with a name before each step that a crash could separate from the one before.
    """

    name: str
    session: Session
    hypervisor: Hypervisor
    virt_type: str = "kvm"
    virtio_win: str | None = None
    tls: Callable[[], NbdTls | None] = through_session
    step: Callable[[str], None] = no_step

    def storage_path(self, storage: str) -> str:
        """Return the directory of a storage.

        Raises:
            FatalError: ``storage_unknown``.
        """
        if storage.startswith("/"):
            return posixpath.normpath(storage)
        pools = self.hypervisor.pools()
        if storage not in pools:
            known = ", ".join(sorted(pools)) or "none"
            raise error(
                Code.STORAGE_UNKNOWN,
                f"host {self.name} has no active storage pool {storage!r} that is a directory; there are: {known}",
                key="storage.name",
                value=storage,
                host=self.name,
            )
        return pools[storage]

    def place(self, replica: Replica) -> Place:
        """Return the replica's directory, whether it exists or not."""
        parts = [part for part in replica.folder.split("/") if part]
        for part in parts:
            checked_name(part, "storage.folder")
        name = checked_name(replica.vm_name, "vm.name")
        path = posixpath.join(self.storage_path(replica.storage), *parts, name)
        return Place(session=self.session, directory=path)

    def read(self, place: Place, replica: Replica) -> Snapshot | None:
        """Read the replica's journal; None when there is none.

        Raises:
            RefusedError: ``vm_name_taken``: the directory belongs to another replica.
            RetryableError: ``busy``: it is on its way into the trash.
        """
        snapshot = place.read()
        if snapshot is None:
            return None
        owner = snapshot.manifest.replica
        if owner.replica_id != replica.replica_id:
            why = f"{place.directory} belongs to job {owner.job} (replica {owner.replica_id})"
            raise taken(self.name, replica, why)
        if snapshot.manifest.discarded_at is not None:
            text = f"{replica.vm_name} was deleted, and is on its way into the trash of host {self.name}"
            raise error(Code.BUSY, text, job=replica.job, host=self.name)
        return snapshot

    def must_read(self, place: Place, replica: Replica) -> Snapshot:
        """Read the replica's journal, which has to be there.

        Raises:
            NotFoundError: ``no_such_vm``.
        """
        snapshot = self.read(place, replica)
        if snapshot is None:
            raise error(
                Code.NO_SUCH_VM,
                f"host {self.name} has no replica {replica.vm_name} in {place.directory}",
                value=replica.vm_name,
                job=replica.job,
                host=self.name,
            )
        return snapshot
