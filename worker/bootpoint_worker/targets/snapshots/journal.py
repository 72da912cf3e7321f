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

from bootpoint_worker.targets import manifest
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.manifest import (
    KeptLayer,
    KeptMachine,
    KeptManifest,
    KeptOpening,
    KeptPoint,
    Merged,
    Merging,
)
from bootpoint_worker.targets.replica import Replica

#: Version of the journal's form; a newer one is refused, never rewritten.
SCHEMA = 1


class LayerEntry(KeptLayer, msgspec.Struct, frozen=True):
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


class PointEntry(KeptPoint, msgspec.Struct, frozen=True):
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


class OpenEntry(KeptOpening, msgspec.Struct, frozen=True):
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


class Machine(KeptMachine, msgspec.Struct, frozen=True):
    """What stands on a point: the standby, or a test.

    Attributes:
        point_id: The point beneath it.
        test_id: Which test; None for the standby.
        uuid: A test VM's own id.
        started_at: When bootpoint started it, or let it be written to; None when it didn't.
        held: The standby was reverted to this point, and a commit doesn't move it on.
        converted: The start has converted what the standby's disks show, with its guest's addresses.
        serial_log: Path on the host that its first serial port is written to.
    """

    point_id: UUID
    test_id: str | None = None
    uuid: UUID | None = None
    started_at: datetime | None = None
    held: bool = False
    converted: bool = False
    serial_log: str | None = None


class Leaf(msgspec.Struct, frozen=True):
    """A leaf of the VM as it was when nobody had written to it: what differs later is drift."""

    key: int
    file: str
    stored_bytes: int


class Manifest(KeptManifest[PointEntry, Machine], msgspec.Struct, frozen=True):
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
    consolidating: Merging[PointEntry] | None = None
    merged: tuple[Merged, ...] = ()
    profile: Profile | None = None
    discarded_at: datetime | None = None
    schema: int = SCHEMA

    def stood_on(self) -> PointEntry | None:
        """Return the point that the standby stands on while nothing is open; None before the first commit."""
        return self.point(self.standby.point_id) if self.standby is not None else self.head


def decode(data: bytes, *, host: str) -> Manifest:
    """Read a journal; see `manifest.decode`."""
    return manifest.decode(data, Manifest, schema=SCHEMA, host=host)
