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

from bootpoint_worker.targets import manifest
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.manifest import (
    KeptLayer,
    KeptMachine,
    KeptManifest,
    KeptOpening,
    KeptPoint,
    Merged,
)
from bootpoint_worker.targets.replica import Replica

#: Version of the manifest's form; a newer one is refused, never rewritten.
SCHEMA = 1

#: Digest of a manifest that isn't there, as the scripts compare it.
ABSENT = "absent"


class LayerEntry(KeptLayer, msgspec.Struct, frozen=True):
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


class PointEntry(KeptPoint, msgspec.Struct, frozen=True):
    """A committed point; fields as in `layer.CommitPoint`."""

    point_id: UUID
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    disks: tuple[LayerEntry, ...]


class OpenEntry(KeptOpening, msgspec.Struct, frozen=True):
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


class Machine(KeptMachine, msgspec.Struct, frozen=True):
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


class Merging(manifest.Merging[PointEntry], frozen=True):
    """A point on its way into its successor: its files get the successor's content.

    Attributes:
        settled: Whether the journal names the successor by its new files.
        left: Files that nothing needs once that is so, each with the one that reads alike, if there is one.
    """

    settled: bool = False
    left: tuple[tuple[str, str | None], ...] = ()


class Manifest(KeptManifest[PointEntry, Machine], msgspec.Struct, frozen=True):
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

    def scratch_files(self) -> set[str]:
        """Return the names of all scratch layers in use."""
        machines = (*self.tests, self.standby) if self.standby else self.tests
        return {layer.file for machine in machines for layer in machine.layers}


def decode(data: bytes, *, host: str) -> Manifest:
    """Read a manifest; see `manifest.decode`."""
    return manifest.decode(data, Manifest, schema=SCHEMA, host=host)


def digest(data: bytes | None) -> str:
    """Return what the scripts compare a manifest by."""
    return ABSENT if data is None else hashlib.sha256(data).hexdigest()
