"""The journal of a replica: ``manifest.json`` beside its layers, the truth on the host.

::

    <storage>/<folder>/<vm name>/
        manifest.json                        this
        RUNBOOK.txt                          how to start every point without bootpoint
        .lock                                taken by whoever changes anything here
        <disk>.<point-disk id>.qcow2         layers: of committed points (read-only), and of the open one
        <disk>.scratch-<…>.qcow2             what VMs write into
        <disk>.branch-<…>.qcow2              scratch layers with content that were replaced
        run/                                 fences, and long operations
    <storage>/<folder>/.bootpoint-trash/<replica id>/    all of it, once the replica was deleted

A change is made by one script on the host that takes the lock, compares the manifest with the one that the
change was worked out from, does its part, and replaces the manifest in one rename. So nobody holds the lock
across the network, and a worker that was frozen in between changes nothing when it thaws.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from uuid import UUID

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets import journal as known
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.standing import Standing

#: Version of the manifest's form; a newer one is refused, never rewritten.
SCHEMA = 1

#: Aborted points that are remembered, so that a late writer is told that it was fenced.
ABORTED_KEPT = 32

#: Merged points that are remembered, so that a worker that comes again learns which point holds what it merged.
MERGED_KEPT = 64

#: Digest of a manifest that isn't there, as the scripts compare it.
ABSENT = "absent"


class LayerEntry(msgspec.Struct, frozen=True):
    """One disk's layer: of the open point, or of a committed one.

    Attributes:
        slot: Which disk.
        file: Name of its file, its identity.
        base: Name of its backing file; None for a full base.
        size_bytes: Virtual size.
        stored_bytes: Bytes that it takes on the storage; 0 while open.
        root: Root digest; empty while open.
    """

    slot: str
    file: str
    base: str | None
    size_bytes: int
    stored_bytes: int = 0
    root: str = ""


class PointEntry(msgspec.Struct, frozen=True):
    """A committed point; fields as in `layer.CommitPoint`."""

    point_id: UUID
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    disks: tuple[LayerEntry, ...]


class OpenEntry(msgspec.Struct, frozen=True):
    """The open point."""

    point_id: UUID
    base_point_id: UUID | None
    epoch: int
    layers: tuple[LayerEntry, ...]


class ScratchEntry(msgspec.Struct, frozen=True):
    """A scratch layer.

    Attributes:
        slot: Which disk.
        file: Name of its file.
        base: The point's file beneath it.
        fresh_bytes: Length of its file when it was made: a guest that writes anything makes it longer.
    """

    slot: str
    file: str
    base: str
    fresh_bytes: int = 0


class Machine(msgspec.Struct, frozen=True):
    """A VM and what it writes into: the standby, or a test.

    Attributes:
        point_id: The point beneath it.
        layers: Its scratch layers, in the disks' order.
        test_id: Which test; None for the standby.
        uuid: libvirt's id of a test's VM.
        started_at: When bootpoint started it; None when it didn't.
        serial_log: Where its first serial port goes.
        converted: Whether its layers were made to boot on the job's hardware; else it gets what its source knows.
        macs: MAC addresses of a test's network cards, which its guest may be told.
        held: It was reverted to this point, and a commit doesn't move it on.
    """

    point_id: UUID
    layers: tuple[ScratchEntry, ...]
    test_id: str | None = None
    uuid: UUID | None = None
    started_at: datetime | None = None
    serial_log: str | None = None
    converted: bool = False
    macs: tuple[str, ...] = ()
    held: bool = False


class Branch(msgspec.Struct, frozen=True):
    """A scratch layer with content that was replaced, kept for a person to decide about."""

    file: str
    base: str
    kept_at: datetime


class Merging(msgspec.Struct, frozen=True):
    """A point on its way into its successor; it isn't among the points any more, for it can't be started.

    Attributes:
        point: The point that goes; its files get the successor's content.
        into: The successor.
        settled: Whether the journal names the successor by its new files.
        left: Files that nothing needs once that is so, each with the one that reads alike, if there is one.
    """

    point: PointEntry
    into: UUID
    settled: bool = False
    left: tuple[tuple[str, str | None], ...] = ()


class Merged(msgspec.Struct, frozen=True):
    """A point that is gone, and the one that it was merged into."""

    point_id: UUID
    into: UUID


class Manifest(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        replica: The VM's definition values and the replica's ids.
        vm_uuid: libvirt's id of the standby VM.
        epoch: Epoch of the newest commit or open.
        points: Committed points, oldest first.
        open: The open point.
        standby: The standby's scratch layers; None before the first commit.
        tests: Test VMs.
        branches: Kept scratch layers.
        aborted: The last aborted points.
        consolidating: The point that is being merged into its successor.
        merged: The last points that were.
        profile: What machine the points are of, and what starting it takes; None until it was looked at.
        discarded_at: When it was put into the trash; from then on no verb but those of the trash touches it.
    """

    replica: Replica
    vm_uuid: UUID
    epoch: int = 0
    points: tuple[PointEntry, ...] = ()
    open: OpenEntry | None = None
    standby: Machine | None = None
    tests: tuple[Machine, ...] = ()
    branches: tuple[Branch, ...] = ()
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

    def scratch_files(self) -> set[str]:
        """Return the names of all scratch layers in use."""
        machines = (*self.tests, self.standby) if self.standby else self.tests
        return {layer.file for machine in machines for layer in machine.layers}


def encode(manifest: Manifest) -> bytes:
    """Write a manifest as indented JSON, for people read it too."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode(data: bytes, *, host: str) -> Manifest:
    """Read a manifest.

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


class _Schema(msgspec.Struct):
    schema: int


def digest(data: bytes | None) -> str:
    """Return what the scripts compare a manifest by."""
    return ABSENT if data is None else hashlib.sha256(data).hexdigest()


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
            known.JournalDisk(
                slot=disk.slot,
                identity=disk.file,
                size_bytes=disk.size_bytes,
                stored_bytes=disk.stored_bytes,
                root=disk.root,
            )
            for disk in point.disks
        ),
    )


def describe_layers(opened: OpenEntry) -> tuple[Layer, ...]:
    """Return the open point's layers as the interface has them."""
    return tuple(Layer(point_id=opened.point_id, slot=layer.slot, identity=layer.file) for layer in opened.layers)


def standings(manifest: Manifest) -> tuple[Standing, ...]:
    """Return what stands on which point: the standby first."""
    name = manifest.replica.vm_name
    machines = (manifest.standby, *manifest.tests) if manifest.standby else manifest.tests
    return tuple(
        Standing(
            point_id=machine.point_id,
            vm_name=name if machine.test_id is None else f"{name}-test-{machine.test_id}",
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
