"""What the journals on hosts of all kinds say alike, whatever the hypervisor calls its files.

A kind of host stores a form of its own (`kvm.journal`, `snapshots.journal`), and each is written out whole where it is
stored: what lies on hosts is read again for years, and no form may change because another one does. The classes here
store nothing. They name the fields that every form has, and answer what is asked of all of them::

    Manifest         the form              KeptManifest    head, heirs, all of it as `Target.inspect` says it
      points           PointEntry            KeptPoint       as a `JournalPoint`
        disks            LayerEntry            KeptLayer       as a `JournalDisk`, as a `Layer`
      open             OpenEntry             KeptOpening     its layers
      standby, tests   Machine               KeptMachine     as a `Standing`
      consolidating    Merging               Merging         a point on its way into its successor
      merged           Merged                Merged          one that has gone it
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.journal import Journal, JournalDisk, JournalPoint
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.standing import Standing

#: Aborted points that are remembered, so that a late writer is told that it was fenced.
ABORTED_KEPT = 32

#: Merged points that are remembered, so that a worker that comes again learns which point holds what it merged.
MERGED_KEPT = 64


class KeptLayer:
    """One disk's layer; ``file`` is its identity, the other fields are as in `journal.JournalDisk`."""

    __slots__ = ()

    slot: str
    file: str
    size_bytes: int
    stored_bytes: int
    root: str

    def described(self) -> JournalDisk:
        """Return it as the interface has it."""
        return JournalDisk(self.slot, self.file, self.size_bytes, self.stored_bytes, self.root)


class KeptPoint:
    """A committed point; fields as in `layer.CommitPoint`."""

    __slots__ = ()

    point_id: UUID
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    disks: Sequence[KeptLayer]

    def described(self) -> JournalPoint:
        """Return it as the interface has it."""
        return JournalPoint(
            point_id=self.point_id,
            name=self.name,
            sequence=self.sequence,
            instant=self.instant,
            kind=self.kind,
            consistency=self.consistency,
            epoch=self.epoch,
            disks=tuple(disk.described() for disk in self.disks),
        )


class KeptOpening:
    """The open point, and the layers that are written."""

    __slots__ = ()

    point_id: UUID
    layers: Sequence[KeptLayer]

    def described(self) -> tuple[Layer, ...]:
        """Return its layers as the interface has them."""
        return tuple(Layer(point_id=self.point_id, slot=layer.slot, identity=layer.file) for layer in self.layers)


class KeptMachine:
    """What stands on a point: the standby, or a test; fields as in `standing.Standing`."""

    __slots__ = ()

    point_id: UUID
    test_id: str | None
    held: bool

    def described(self, replica: Replica) -> Standing:
        """Return it as the interface has it."""
        return Standing(self.point_id, replica.machine_name(self.test_id), self.test_id, self.held)


PointT = TypeVar("PointT", bound=KeptPoint)
MachineT = TypeVar("MachineT", bound=KeptMachine)


class Merging(msgspec.Struct, Generic[PointT], frozen=True):
    """A point on its way into its successor; it isn't among the points any more, for it can't be started.

    Attributes:
        point: The point that goes.
        into: The successor.
    """

    point: PointT
    into: UUID


class Merged(msgspec.Struct, frozen=True):
    """A point that is gone, and the one that it was merged into."""

    point_id: UUID
    into: UUID


class KeptManifest(Generic[PointT, MachineT]):
    """All of it.

    Attributes:
        replica: The VM's definition values and the replica's ids.
        vm_uuid: The hypervisor's id of the standby VM.
        epoch: Epoch of the newest commit, or of the open point.
        points: Committed points, oldest first.
        open: The open point.
        standby: Where the standby stands; None before the first commit.
        tests: Test VMs.
        aborted: The last aborted points.
        consolidating: The point that is being merged into its successor.
        merged: The last points that were.
        profile: What machine the points are of; None until it was looked at.
        discarded_at: When it was put into the trash.
    """

    __slots__ = ()

    replica: Replica
    vm_uuid: UUID
    epoch: int
    points: tuple[PointT, ...]
    open: KeptOpening | None
    standby: MachineT | None
    tests: tuple[MachineT, ...]
    aborted: tuple[UUID, ...]
    consolidating: Merging[PointT] | None
    merged: tuple[Merged, ...]
    profile: Profile | None
    discarded_at: datetime | None

    @property
    def head(self) -> PointT | None:
        """The newest committed point."""
        return self.points[-1] if self.points else None

    def point(self, point_id: UUID) -> PointT | None:
        """Return a committed point, or None."""
        return next((point for point in self.points if point.point_id == point_id), None)

    def must_have(self, point_id: UUID | None, *, host: str) -> PointT:
        """Return a committed point; the head, where no id is given.

        Raises:
            NotFoundError: ``no_such_point``.
        """
        point = self.point(point_id) if point_id else self.head
        if point is None:
            raise error(
                Code.NO_SUCH_POINT,
                f"{self.replica.vm_name} on host {host} has no point {point_id or 'at all'}",
                value=str(point_id) if point_id else None,
                job=self.replica.job,
                host=host,
            )
        return point

    def was_committed(self, point_id: UUID) -> bool:
        """Tell whether a point is committed, or was until it was merged."""
        merging = self.consolidating is not None and self.consolidating.point.point_id == point_id
        return merging or self.point(point_id) is not None or any(old.point_id == point_id for old in self.merged)

    def is_over(self, point_id: UUID) -> bool:
        """Tell whether nobody may write to a point any more: it was committed or aborted."""
        return self.was_committed(point_id) or point_id in self.aborted

    def heir(self, point_id: UUID) -> PointT | None:
        """Return the point that holds what a merged one held; None when that one was never merged, or it is gone."""
        into = {old.point_id: old.into for old in self.merged}
        while point_id in into:
            point_id = into.pop(point_id)
        return self.point(point_id)

    def test(self, test_id: str) -> MachineT | None:
        """Return a test VM, or None."""
        return next((test for test in self.tests if test.test_id == test_id), None)

    def aborted_with(self, point_id: UUID) -> tuple[UUID, ...]:
        """Return the aborted points with one more, as many as are remembered."""
        return (*self.aborted, point_id)[-ABORTED_KEPT:]

    def merged_with(self, merging: Merging[PointT]) -> tuple[Merged, ...]:
        """Return the merged points with one more, as many as are remembered."""
        return (*self.merged, Merged(merging.point.point_id, merging.into))[-MERGED_KEPT:]

    def encoded(self) -> bytes:
        """Return it as indented JSON, for people read it too."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def described(self, *, standby: str, drift: str | None) -> Journal:
        """Return it as the interface has it, with what was seen of the standby."""
        machines = (self.standby, *self.tests) if self.standby is not None else self.tests
        return Journal(
            replica_id=self.replica.replica_id,
            job=self.replica.job,
            vm_name=self.replica.vm_name,
            vm_uuid=str(self.vm_uuid),
            epoch=self.epoch,
            points=tuple(point.described() for point in self.points),
            open_point_id=self.open.point_id if self.open is not None else None,
            open_layers=self.open.described() if self.open is not None else (),
            consolidating=self.consolidating.point.point_id if self.consolidating is not None else None,
            standby=standby,
            drift=drift,
            profile=self.profile,
            standings=tuple(machine.described(self.replica) for machine in machines),
            discarded_at=self.discarded_at,
        )


class _Schema(msgspec.Struct):
    schema: int


FormT = TypeVar("FormT")


def decode(data: bytes, form: type[FormT], *, schema: int, host: str) -> FormT:
    """Read a journal.

    Args:
        data: The file.
        form: What this kind of host stores.
        schema: The form's version; a newer one is refused, never rewritten.
        host: The host's name in bootpoint.

    Raises:
        FatalError: ``host_unsupported``: it is none, or a newer bootpoint wrote it.
    """
    try:
        found = msgspec.json.decode(data, type=_Schema).schema
        if found == schema:
            return msgspec.json.decode(data, type=form)
        why = f"it has version {found}, served is {schema}"
    except msgspec.MsgspecError as exc:
        raise error(Code.HOST_UNSUPPORTED, f"a replica's journal can't be read: {exc}", host=host) from exc
    raise error(Code.HOST_UNSUPPORTED, f"a replica's journal can't be read: {why}", host=host)
