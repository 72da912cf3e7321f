"""The driver for ESXi and vCenter: every verb of `Target`, each carried out by the module of its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.esxi import (
    commit,
    consolidation,
    conversion,
    creation,
    data,
    inspect,
    inventory,
    observation,
    opening,
    running,
    trash,
)
from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.hardware import CONTROLLERS, MAC_PREFIX, NIC_KINDS
from bootpoint_worker.targets.esxi.host import Host, no_step
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.host import HostAccess, HostInfo, VirtualMachine
from bootpoint_worker.targets.journal import FoundReplica, Journal, JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenPoint
from bootpoint_worker.targets.nbdreader import NbdReader
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share
from bootpoint_worker.targets.sight import Sight


class EsxiTarget:
    """An ESXi host, or a vCenter; see `Target`.

    Args:
        access: How it is reached. Settings: ``vddk_plugin`` and ``vddk_libdir``, see `vddk`.
        step: Called with a name before each step that a crash could separate from the one before it.
    """

    #: A VM has at most 32 levels of snapshots (VMware Configuration Maximums): these, the one that is being made before
    #: the oldest goes, and one to spare.
    point_limit = 30
    #: What was flushed is in the leaf; `data.open_writer` makes sure that it is the same leaf, and nobody's.
    resumes_after_crash = True
    #: Tests are linked copies in VMs of their own.
    can_test_while_open = True
    can_share = True
    over_network = True
    #: Seconds; opening a disk through VDDK takes some.
    slice_seconds = 600.0

    def __init__(self, *, access: HostAccess, step: Callable[[str], None] = no_step) -> None:
        self.host = Host(access=access, client=Client(access=access), step=step)

    def inspect_host(self, storages: Sequence[str] = ()) -> HostInfo:  # noqa: ARG002 - it lists all that it has
        """See `Target.inspect_host`."""
        machines = inventory.machines(self.host.client)
        return replace(
            inspect.inspect_host(self.host.client, self.host.access),
            buses=tuple(CONTROLLERS),
            nic_models=tuple(NIC_KINDS),
            mac_prefix=MAC_PREFIX,
            vms=tuple(machine.described for machine in machines),
            running_memory_bytes=sum(machine.memory_bytes for machine in machines if machine.on),
        )

    def inspect(self, replica: Replica) -> Journal | None:
        """See `Target.inspect`."""
        return observation.inspect(self.host, replica)

    def create(self, replica: Replica, *, dry_run: bool = False) -> None:
        """See `Target.create`."""
        creation.create(self.host, replica, dry_run=dry_run)

    def free_bytes(self, replica: Replica) -> int:
        """See `Target.free_bytes`."""
        return creation.free_bytes(self.host, replica)

    def open(self, replica: Replica, point: OpenPoint) -> tuple[Layer, ...]:
        """See `Target.open`."""
        return opening.open_point(self.host, replica, point)

    def open_writer(self, replica: Replica, layer: Layer, writer: int) -> data.EsxiWriter:
        """See `Target.open_writer`."""
        return data.open_writer(self.host, replica, layer, writer)

    def open_reader(self, replica: Replica, point_id: UUID, slot: str) -> NbdReader:
        """See `Target.open_reader`."""
        return data.open_reader(self.host, replica, point_id, slot)

    def share(self, replica: Replica, point_id: UUID, slot: str) -> AbstractContextManager[Share]:
        """See `Target.share`."""
        return data.share(self.host, replica, point_id, slot)

    def commit(self, replica: Replica, point: CommitPoint) -> JournalPoint:
        """See `Target.commit`."""
        return commit.commit_point(self.host, replica, point)

    def abort(self, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
        """See `Target.abort`."""
        opening.abort_point(self.host, replica, point_id, layers)

    def consolidate(self, replica: Replica, point_id: UUID) -> JournalPoint:
        """See `Target.consolidate`."""
        return consolidation.consolidate(self.host, replica, point_id)

    def remove(self, replica: Replica) -> None:
        """See `Target.remove`."""
        creation.remove(self.host, replica)

    def discard(self, replica: Replica, at: datetime, *, dry_run: bool = False) -> None:
        """See `Target.discard`."""
        trash.discard(self.host, replica, at, dry_run=dry_run)

    def find_discarded(self, known: Sequence[Replica] = ()) -> list[FoundReplica]:  # noqa: ARG002 - it finds all
        """See `Target.find_discarded`."""
        return observation.find_replicas(self.host, discarded=True)

    def restore(self, replica: Replica) -> None:
        """See `Target.restore`."""
        trash.restore(self.host, replica)

    def purge(self, replica: Replica) -> None:
        """See `Target.purge`."""
        trash.purge(self.host, replica)

    def revert(self, replica: Replica, point_id: UUID | None) -> VirtualMachine:
        """See `Target.revert`."""
        return running.revert(self.host, replica, point_id)

    def start(self, replica: Replica, request: StartRequest) -> VirtualMachine:
        """See `Target.start`."""
        return running.start(self.host, replica, request)

    def examine(self, replica: Replica, point_id: UUID) -> Profile:
        """See `Target.examine`."""
        return conversion.examine(self.host, replica, point_id)

    def stop(self, replica: Replica, test_id: str | None) -> None:
        """See `Target.stop`."""
        running.stop(self.host, replica, test_id)

    def look(self, replica: Replica, test_id: str) -> Sight:
        """See `Target.look`."""
        return observation.look(self.host, replica, test_id)

    def find_replicas(self) -> list[FoundReplica]:
        """See `Target.find_replicas`."""
        return observation.find_replicas(self.host, discarded=False)

    def close(self) -> None:
        """See `Target.close`."""
        self.host.client.close()
