"""What a host itself knows about its replicas."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.standing import Standing


@dataclass(frozen=True, slots=True)
class JournalDisk:
    """A disk of a committed point, as the journal has it."""

    slot: str
    identity: str
    size_bytes: int
    stored_bytes: int
    root: str


@dataclass(frozen=True, slots=True)
class JournalPoint:
    """A committed point, as the journal has it; fields as in `CommitPoint`."""

    point_id: UUID
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    disks: tuple[JournalDisk, ...]


@dataclass(frozen=True, slots=True)
class Journal:
    """What the host itself knows about a replica.

    Attributes:
        replica_id: Its id.
        job: The job's name.
        vm_name: Name of the standby VM.
        vm_uuid: The hypervisor's id of the VM, if it has one yet.
        epoch: Epoch of the newest commit.
        points: Committed points, oldest first.
        open_point_id: The open point, if there is one.
        open_layers: Its layers.
        standby: ``off``, ``running`` or ``test``.
        drift: What shows that the standby was started outside bootpoint; None when nothing does.
        consolidating: The point that is being merged into its successor, and is no longer among the points.
        profile: What `Target.examine` found; None when it never looked.
        standings: The standby and the tests, each with the point beneath it.
        discarded_at: When it was put into the trash; None where it wasn't.
    """

    replica_id: UUID
    job: str
    vm_name: str
    vm_uuid: str | None
    epoch: int
    points: tuple[JournalPoint, ...]
    open_point_id: UUID | None = None
    open_layers: tuple[Layer, ...] = ()
    standby: str = "off"
    drift: str | None = None
    consolidating: UUID | None = None
    profile: Profile | None = None
    standings: tuple[Standing, ...] = ()
    discarded_at: datetime | None = None

    @property
    def head(self) -> JournalPoint | None:
        """The newest committed point."""
        return self.points[-1] if self.points else None

    @property
    def standing(self) -> Standing | None:
        """Where the standby stands; None before the first commit."""
        return next((one for one in self.standings if one.test_id is None), None)

    def point(self, point_id: UUID) -> JournalPoint | None:
        """Return a committed point, or None."""
        return next((point for point in self.points if point.point_id == point_id), None)


@dataclass(frozen=True, slots=True)
class FoundReplica:
    """A replica as its journal on the host describes it.

    Attributes:
        directory: Where it lies on the host.
        replica: What names it in the verbs of `Target`.
        journal: Its points and its state.
    """

    directory: str
    replica: Replica
    journal: Journal


def of_vm(found: Iterable[FoundReplica], vm: str) -> FoundReplica | None:
    """Return the replica of a VM, by its name or by the hypervisor's id of it; None when it is none's."""
    return next((each for each in found if vm == each.journal.vm_name or vm.lower() == each.journal.vm_uuid), None)
