"""The journal of a replica: a file in the standby VM's folder, the truth on the host.

::

    <storage> <folder>/<vm name>/
        bootpoint-journal-00000042.json      this; the highest number counts, the one before it is kept
        RUNBOOK.txt                          how to start every point without bootpoint
        …                                    the VM's own files, and the list of its snapshots
        <disk>.vmdk or .vhdx, …              base and deltas: of the points, and the leaf above the newest

A point is a snapshot of the VM that was made after its bytes had been written; its disks are those of the snapshot's
own configuration. What is written to is always the *leaf*: the delta above the snapshot that the VM stands on.
Hypervisors name leaves anew at each snapshot, revert and removal, so the journal says which leaf is the open layer.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets import journal as known
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.standing import Standing

#: Version of the journal's form; a newer one is refused, never rewritten.
SCHEMA = 1

#: Aborted points that are remembered, so that a late writer is told that it was fenced.
ABORTED_KEPT = 32

#: Merged points that are remembered, so that a worker that comes again learns which point holds what it merged.
MERGED_KEPT = 64


class LayerEntry(msgspec.Struct, frozen=True):
    """One disk's layer: of the open point, or of a committed one.

    Attributes:
        slot: Which disk.
        key: Number of the disk's place in the VM.
        file: Path of the delta or base on the host: its identity.
        size_bytes: Size of the disk at the source; the device may be longer by less than a KiB.
        stored_bytes: Bytes that the file takes on the storage; 0 while open.
        root: Root digest; empty while open.
        copied: The file is no delta, but the first of a new chain that was made for this point.
    """

    slot: str
    key: int
    file: str
    size_bytes: int
    stored_bytes: int = 0
    root: str = ""
    copied: bool = False


class PointEntry(msgspec.Struct, frozen=True):
    """A committed point: ``snapshot`` is the id of its snapshot; the other fields are as in `layer.CommitPoint`."""

    point_id: UUID
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    snapshot: str
    disks: tuple[LayerEntry, ...]


class OpenEntry(msgspec.Struct, frozen=True):
    """The open point.

    Attributes:
        point_id: Its id.
        base_point_id: The head it stands on.
        epoch: Its epoch.
        layers: The VM's leaves, as they were when it was opened.
        fences: Slot -> highest claim that has held its layer.
        closed: Nobody may write any more: it is being committed.
    """

    point_id: UUID
    base_point_id: UUID | None
    epoch: int
    layers: tuple[LayerEntry, ...]
    fences: dict[str, int] = {}
    closed: bool = False


class Machine(msgspec.Struct, frozen=True):
    """What stands on a point: the standby, or a test.

    Attributes:
        point_id: The point beneath it.
        test_id: Which test; None for the standby.
        uuid: A test VM's own id.
        started_at: When bootpoint started it, or let it be written to; None when it didn't.
        held: The standby was reverted to this point, and a commit doesn't move it on.
        serial_log: Path on the host that its first serial port is written to.
    """

    point_id: UUID
    test_id: str | None = None
    uuid: UUID | None = None
    started_at: datetime | None = None
    held: bool = False
    serial_log: str | None = None


class Leaf(msgspec.Struct, frozen=True):
    """A leaf of the VM as it was when nobody had written to it: what differs later is drift."""

    key: int
    file: str
    stored_bytes: int


class Merging(msgspec.Struct, frozen=True):
    """A point on its way into its successor; it isn't among the points any more."""

    point: PointEntry
    into: UUID


class Merged(msgspec.Struct, frozen=True):
    """A point that is gone, and the one that it was merged into."""

    point_id: UUID
    into: UUID


class Manifest(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        replica: The VM's definition values and the replica's ids.
        vm_uuid: The hypervisor's id of the standby VM.
        keys: Slot -> number of the disk's place in the VM.
        epoch: Epoch of the newest commit.
        points: Committed points, oldest first.
        open: The open point.
        standby: Where the standby stands; None before the first commit.
        tests: Test VMs.
        dirty: Somebody may have written to the leaves: they are thrown away before they are used.
        leaves: The leaves as they were made; empty while they are written to.
        aborted: The last aborted points.
        consolidating: The point that is being merged into its successor.
        merged: The last points that were.
        profile: What machine the points are of; None until it was looked at.
        discarded_at: When it was put into the trash.
    """

    replica: Replica
    vm_uuid: UUID
    keys: dict[str, int]
    epoch: int = 0
    points: tuple[PointEntry, ...] = ()
    open: OpenEntry | None = None
    standby: Machine | None = None
    tests: tuple[Machine, ...] = ()
    dirty: bool = False
    leaves: tuple[Leaf, ...] = ()
    aborted: tuple[UUID, ...] = ()
    consolidating: Merging | None = None
    merged: tuple[Merged, ...] = ()
    profile: Profile | None = None
    discarded_at: datetime | None = None
    schema: int = SCHEMA

    @property
    def head(self) -> PointEntry | None:
        """The newest committed point."""
        return self.points[-1] if self.points else None

    def point(self, point_id: UUID) -> PointEntry | None:
        """Return a committed point, or None."""
        return next((point for point in self.points if point.point_id == point_id), None)

    def stood_on(self) -> PointEntry | None:
        """Return the point that the standby stands on while nothing is open; None before the first commit."""
        return self.point(self.standby.point_id) if self.standby is not None else self.head

    def was_committed(self, point_id: UUID) -> bool:
        """Tell whether a point is committed, or was until it was merged."""
        merging = self.consolidating is not None and self.consolidating.point.point_id == point_id
        return merging or self.point(point_id) is not None or any(old.point_id == point_id for old in self.merged)

    def heir(self, point_id: UUID) -> PointEntry | None:
        """Return the point that holds what a merged one held; None when that one was never merged, or it is gone."""
        into = {old.point_id: old.into for old in self.merged}
        while point_id in into:
            point_id = into.pop(point_id)
        return self.point(point_id)

    def test(self, test_id: str) -> Machine | None:
        """Return a test VM, or None."""
        return next((test for test in self.tests if test.test_id == test_id), None)


class _Schema(msgspec.Struct):
    schema: int


def encode(manifest: Manifest) -> bytes:
    """Write a journal as indented JSON, for people read it too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes, *, host: str) -> Manifest:
    """Read a journal.

    Raises:
        FatalError: ``host_unsupported``: it is none, or a newer bootpoint wrote it.
    """
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema == SCHEMA:
            return msgspec.json.decode(data, type=Manifest)
        why = f"it has version {schema}, served is {SCHEMA}"
    except msgspec.MsgspecError as exc:
        raise error(Code.HOST_UNSUPPORTED, f"a replica's journal can't be read: {exc}", host=host) from exc
    raise error(Code.HOST_UNSUPPORTED, f"a replica's journal can't be read: {why}", host=host)


def test_name(replica: Replica, test_id: str) -> str:
    """Return the name of a test VM."""
    return f"{replica.vm_name}-test-{test_id}"


def describe_point(point: PointEntry) -> known.JournalPoint:
    """Return a committed point as the interface has it."""
    return known.JournalPoint(
        point_id=point.point_id,
        name=point.name,
        sequence=point.sequence,
        instant=point.instant,
        kind=point.kind,
        consistency=point.consistency,
        epoch=point.epoch,
        disks=tuple(
            known.JournalDisk(disk.slot, disk.file, disk.size_bytes, disk.stored_bytes, disk.root)
            for disk in point.disks
        ),
    )


def describe_layers(opened: OpenEntry) -> tuple[Layer, ...]:
    """Return the open point's layers as the interface has them."""
    return tuple(Layer(point_id=opened.point_id, slot=layer.slot, identity=layer.file) for layer in opened.layers)


def standings(manifest: Manifest) -> tuple[Standing, ...]:
    """Return what stands on which point: the standby first."""
    replica = manifest.replica
    machines = (manifest.standby, *manifest.tests) if manifest.standby else manifest.tests
    return tuple(
        Standing(
            point_id=machine.point_id,
            vm_name=replica.vm_name if machine.test_id is None else test_name(replica, machine.test_id),
            test_id=machine.test_id,
            held=machine.held,
        )
        for machine in machines
    )


def describe(manifest: Manifest, *, standby: str, drift: str | None) -> known.Journal:
    """Return a journal as the interface has it."""
    return known.Journal(
        replica_id=manifest.replica.replica_id,
        job=manifest.replica.job,
        vm_name=manifest.replica.vm_name,
        vm_uuid=str(manifest.vm_uuid),
        epoch=manifest.epoch,
        points=tuple(describe_point(point) for point in manifest.points),
        open_point_id=manifest.open.point_id if manifest.open else None,
        open_layers=describe_layers(manifest.open) if manifest.open else (),
        consolidating=manifest.consolidating.point.point_id if manifest.consolidating else None,
        standby=standby,
        drift=drift,
        profile=manifest.profile,
        standings=standings(manifest),
        discarded_at=manifest.discarded_at,
    )
