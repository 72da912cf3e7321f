"""The driver of a host of this kind: every verb of `Target`, each carried out by the module of its name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from uuid import UUID

from bootpoint_worker.targets.base import LayerReader, LayerWriter, StartRequest
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.host import HostInfo, Told, VirtualMachine
from bootpoint_worker.targets.journal import FoundReplica, Journal, JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenPoint
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.snapshots import (
    addressing,
    commit,
    consolidation,
    conversion,
    creation,
    data,
    observation,
    opening,
    running,
    trash,
)
from bootpoint_worker.targets.snapshots.host import Host


class SnapshotTarget:
    """A host whose boot points are its own snapshots; see `Target`.

    Args:
        host: The host, with its own way of each act.
    """

    #: What was flushed is in the leaf; `data.open_writer` makes sure that it is the same leaf, and nobody's.
    resumes_after_crash = True
    #: Tests are linked copies in VMs of their own.
    can_test_while_open = True
    can_share = True
    over_network = True

    def __init__(self, host: Host) -> None:
        self.host = host

    def inspect_host(self, storages: Sequence[str] = ()) -> HostInfo:  # noqa: ARG002 - it lists all that it has
        """See `Target.inspect_host`."""
        return self.host.inspect()

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

    def open_writer(self, replica: Replica, layer: Layer, writer: int) -> LayerWriter:
        """See `Target.open_writer`."""
        return data.open_writer(self.host, replica, layer, writer)

    def open_reader(self, replica: Replica, point_id: UUID, slot: str) -> LayerReader:
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

    def tell_addresses(self, replica: Replica, seconds: float) -> tuple[Told, ...]:
        """See `TellsAddresses.tell_addresses`."""
        return addressing.tell(self.host, replica, seconds)

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
        self.host.close()
