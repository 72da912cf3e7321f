"""What the fake host knows about a replica: its manifest, replaced in one atomic act, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.journal import Journal, JournalPoint
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.standing import Standing


@dataclass(frozen=True, slots=True)
class Branch:
    """Scratch layers that held changes when their VM moved on to another point; kept, never deleted in silence.

    Attributes:
        layers: Layer of every disk, by slot.
        recorded: Whether bootpoint itself had started the VM.
    """

    layers: Mapping[str, str]
    recorded: bool


@dataclass(frozen=True, slots=True)
class Merging:
    """A point on its way into its successor.

    Attributes:
        point: The point that goes.
        into: Id of the successor.
        settled: Whether the journal names the successor by its new layers.
        left: Layers that nothing needs once that is so.
    """

    point: JournalPoint
    into: UUID
    settled: bool = False
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The journal of a replica as the fake host stores it.

    Attributes:
        replica: As `create` was last told.
        epoch: Epoch of the newest commit.
        vm_uuid: Id of the standby VM, once it is defined.
        points: Committed points, oldest first.
        open_point_id: The open point.
        open_layers: Its layers.
        scratch: The standby's scratch layers, by slot.
        recorded: Whether bootpoint started the standby on these scratch layers.
        running: Whether bootpoint started the standby, and has not stopped it.
        held: Whether the standby was reverted to the point beneath its scratch layers, and stays there.
        tests: Scratch layers of every test, by its id and by slot.
        branches: Scratch layers with changes that were set aside.
        runbook: Text of the runbook.
        profile: What `examine` found.
        removing: `remove` has begun: the replica is gone, its files may still be there.
        discarded_at: When it was put into the trash.
        merging: The point that is being merged into its successor.
        merged: Which point every merged one went into.
    """

    replica: Replica
    epoch: int = 0
    vm_uuid: str | None = None
    points: tuple[JournalPoint, ...] = ()
    open_point_id: UUID | None = None
    open_layers: tuple[Layer, ...] = ()
    scratch: Mapping[str, str] = field(default_factory=dict)
    recorded: bool = False
    running: bool = False
    held: bool = False
    tests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    runbook: str = ""
    profile: Profile | None = None
    removing: bool = False
    discarded_at: datetime | None = None
    merging: Merging | None = None
    merged: Mapping[UUID, UUID] = field(default_factory=dict)

    @property
    def head(self) -> JournalPoint | None:
        """The newest committed point."""
        return self.points[-1] if self.points else None

    def point(self, point_id: UUID) -> JournalPoint | None:
        """Return a committed point; None when there is none of that id."""
        return next((point for point in self.points if point.point_id == point_id), None)

    def heir(self, point_id: UUID) -> JournalPoint | None:
        """Return the point that holds what a merged one held; None when that one was never merged."""
        while point_id in self.merged:
            point_id = self.merged[point_id]
        return self.point(point_id)

    def layer_names(self) -> set[str]:
        """Return the names of all layers that belong to the replica."""
        names = {disk.identity for point in self.points for disk in point.disks}
        names.update(layer.identity for layer in self.open_layers)
        names.update(self.scratch.values())
        if self.merging is not None:
            names.update(self.merging.left, (disk.identity for disk in self.merging.point.disks))
        for layers in (*self.tests.values(), *(branch.layers for branch in self.branches)):
            names.update(layers.values())
        return names

    def stands_on(self, backing: str) -> UUID | None:
        """Return the point that a layer belongs to."""
        return next((p.point_id for p in self.points for disk in p.disks if disk.identity == backing), None)

    def journal(
        self, *, running: bool, tested: bool, written: bool, standings: tuple[Standing, ...] = ()
    ) -> Journal:
        """Return what `Target.inspect` says.

        Args:
            running: Whether the standby runs.
            tested: Whether a test VM runs.
            written: Whether the standby's scratch layers hold changes.
            standings: What stands on which point.
        """
        return Journal(
            replica_id=self.replica.replica_id,
            job=self.replica.job,
            vm_name=self.replica.vm_name,
            vm_uuid=self.vm_uuid,
            epoch=self.epoch,
            points=self.points,
            open_point_id=self.open_point_id,
            open_layers=self.open_layers,
            standby="running" if running else "test" if tested else "off",
            drift=self._drift(running=running, written=written),
            consolidating=self.merging.point.point_id if self.merging is not None else None,
            profile=self.profile,
            standings=standings,
            discarded_at=self.discarded_at,
        )

    def _drift(self, *, running: bool, written: bool) -> str | None:
        name = self.replica.vm_name
        if running and not self.running:
            return f"VM {name} is running, and bootpoint did not start it"
        if written and not self.recorded:
            return f"the scratch layers of VM {name} hold changes, and bootpoint did not start it"
        if any(not branch.recorded for branch in self.branches):
            return f"VM {name} was started outside bootpoint; its changes are kept beside the points"
        return None


def identities(point: JournalPoint) -> dict[str, str]:
    """Return the layers of a point, by slot."""
    return {disk.slot: disk.identity for disk in point.disks}


def runbook(manifest: Manifest) -> str:
    """Return the runbook of a replica: one line for each point, newest first."""
    lines = [f"# {manifest.replica.vm_name}: to start a point by hand"]
    lines += [f"fake-start {manifest.replica.vm_name} --point {point.name}" for point in reversed(manifest.points)]
    return "\n".join(lines) + "\n"
