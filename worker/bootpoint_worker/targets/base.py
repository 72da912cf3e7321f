"""What a driver of a target host promises: the verbs. Their values: `replica`, `layer`, `journal`, `host`.

Every verb may be called again after a crash half-way: it finds what is done and does the rest. A driver
keeps the truth about a replica in a *journal* on the host itself, so a host without database, broker and
worker still describes its replicas.

Life of a layer::

    open() ──► layer (identity) ──open_writer()──► written, flushed ──commit()──► file(s) of a boot point, immutable
                  └───────────────── abort() ──► gone
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable
from uuid import UUID

from bootpoint_common.units import MiB
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.host import HostInfo, Role, Told, VirtualMachine
from bootpoint_worker.targets.journal import FoundReplica, Journal, JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenPoint
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share
from bootpoint_worker.targets.sight import Sight

#: Most bytes of a piece that `LayerReader.stream` yields.
PIECE = MiB

#: Pieces that may be taken after one before its bytes may change: a reader has a ring of buffers, not one for each.
PIECES_KEPT = 8


@dataclass(frozen=True, slots=True)
class StartRequest:
    """How a VM is to be started from a point.

    Attributes:
        point_id: The point; None for the one that the standby was reverted to, else for the head.
        test_id: An id makes it a test: own name (``<vm>-test-<id>``), own MACs, isolated network, its own
            scratch layer. None starts the standby itself.
        serial_log: Absolute path on the host that the first serial port is written to; None for none.
        paused: Define it and make the scratch layer, but don't run it.
        conversion: How the scratch layer is made to boot on this host: ``auto`` (as the replica's profile says),
            ``light``, ``v2v``, or ``none`` (as the source was).
    """

    point_id: UUID | None = None
    test_id: str | None = None
    serial_log: str | None = None
    paused: bool = False
    conversion: str = "auto"


class LayerWriter(Protocol):
    """One claim's hold on one layer; not thread-safe.

    All of them raise `RetryableError` with ``target_write_error`` or ``host_unreachable`` when the host
    fails, and `RetryableError` with ``layer_lost`` when the layer is no longer there.
    """

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write bytes at an offset; may return before the write is done, an error then comes from `flush`."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zero, hiding what a lower layer holds there."""

    def read(self, offset: int, length: int) -> bytes:
        """Read what the layer shows, everything written by this writer before included."""

    def flush(self) -> None:
        """Return when everything written before survives a power cut of the host."""

    def close(self) -> None:
        """Let go of the layer; may be called twice; says nothing about what wasn't flushed."""


class LayerReader(Protocol):
    """A read-only view of one disk of a layer or a committed point; not thread-safe."""

    size_bytes: int

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes; the range lies inside the disk."""

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (offset, length, zero) over the range in order: zero means reads as zero for certain."""

    def stream(self, ranges: Iterable[tuple[int, int]]) -> Generator[tuple[int, memoryview], None, None]:
        """Read ranges (offset, length) with requests under way ahead of what was taken.

        Yields (offset, bytes) in the order of the ranges; one of more than `PIECE` comes in pieces. The bytes of a
        piece stay as they are until `PIECES_KEPT` further ones were taken. Nothing else may be asked of the reader
        meanwhile, but `extents` by the iterable itself.
        """

    def close(self) -> None:
        """Let go; may be called twice."""


@runtime_checkable
class Clustered(Protocol):
    """What a driver can besides whose hosts may be nodes of a failover cluster."""

    def set_role(self, replica: Replica, *, add: bool) -> Role:
        """Give the standby its role in the cluster, or take it away; nothing where that is so already.

        Raises:
            NotFoundError: ``no_such_vm``.
            FatalError: ``host_unsupported``: the host is in no cluster, or other nodes can't reach the standby's files;
                ``host_permission``: the cluster refuses this login.
        """


@runtime_checkable
class TellsAddresses(Protocol):
    """What a driver can besides whose hosts may tell a guest that runs what addresses its cards are to have."""

    def tell_addresses(self, replica: Replica, seconds: float) -> Sequence[Told]:
        """Tell the guest of the standby, which runs, of each of its cards; may be called again, with the same outcome.

        Args:
            replica: The replica.
            seconds: How long its guest may take until it can be told; 0 for one try.

        Returns:
            What came of each card; empty where the conversion of its start has written the addresses. Nothing that goes
            wrong is raised: the machine runs all the same.
        """


class Target(Protocol):
    """A driver's hold on one host: one kept session, used by one thread at a time.

    Attributes:
        point_limit: Most points a replica may have on this kind of host.
        resumes_after_crash: Whether a layer below the watermark is intact after a worker died.
        can_test_while_open: Whether a test VM may run while a point is open.
        can_share: Whether points can be shared with programs of this machine, to be exported and mounted.
        over_network: Whether what is written to a layer leaves this machine by the network.
        slice_seconds: Longest slice while others wait.
    """

    point_limit: int
    resumes_after_crash: bool
    can_test_while_open: bool
    can_share: bool
    over_network: bool
    slice_seconds: float

    def inspect_host(self, storages: Sequence[str] = ()) -> HostInfo:
        """Ask the host what it is and has.

        Args:
            storages: Storages in use that the host doesn't list by itself, such as plain directories.

        Raises:
            RetryableError: ``host_unreachable``.
            FatalError: ``host_auth``, ``host_key_changed``, ``host_unsupported``.
        """

    def find_replicas(self) -> Sequence[FoundReplica]:
        """Return every replica that the host itself knows, as its journals describe them."""

    def inspect(self, replica: Replica) -> Journal | None:
        """Read a replica's journal; None when the host has none for this replica's place.

        Raises:
            RefusedError: ``vm_name_taken``: the place belongs to another replica or VM.
        """

    def create(self, replica: Replica, *, dry_run: bool = False) -> None:
        """Make the replica's place and journal, or bring an existing one up to date.

        With ``dry_run`` only the checks are made: names, storage, networks, buses, rights.

        Raises:
            RefusedError: ``vm_name_taken``.
            FatalError: ``storage_unknown``, ``network_unknown``, ``host_permission``, ``host_unsupported``.
        """

    def free_bytes(self, replica: Replica) -> int:
        """Return how many bytes are free where the replica's disks lie, or will lie.

        Raises:
            FatalError: ``storage_unknown``.
        """

    def open(self, replica: Replica, point: OpenPoint) -> tuple[Layer, ...]:
        """Make an empty layer for every disk above the head, and name it in the journal before any byte.

        Called again for the same point it returns the same layers.

        Raises:
            RetryableError: ``base_mismatch`` when ``base_point_id`` isn't the journal's head; ``point_open``
                when another point is open; ``busy`` while a point is half merged.
            FatalError: ``host_full``; ``disk_changed`` when a disk is smaller than the head's.
            RefusedError: ``epoch_stale`` when the journal has a later epoch.
        """

    def open_writer(self, replica: Replica, layer: Layer, writer: int) -> LayerWriter:
        """Take hold of a layer for claim number ``writer``, after every earlier writer was ended for certain.

        Raises:
            RetryableError: ``layer_lost``: the journal's open layer is another one, or its file is gone.
            Fenced: a later writer has held this layer, or the point is committed or aborted.
        """

    def open_reader(self, replica: Replica, point_id: UUID, slot: str) -> LayerReader:
        """Read one disk of a committed point, or of the open one (which then has no writer).

        Raises:
            NotFoundError: ``no_such_point``.
        """

    def share(self, replica: Replica, point_id: UUID, slot: str) -> AbstractContextManager[Share]:
        """Share one disk of a committed point with programs of this machine, read-only, while a block lasts.

        Raises:
            NotFoundError: ``no_such_point``.
            FatalError: ``host_unsupported``, where `can_share` is false.
        """

    def commit(self, replica: Replica, point: CommitPoint) -> JournalPoint:
        """End all writers, check the layers, and make the point visible in one atomic act; then remake the
        standby's definition and the runbook.

        Called again for a committed point it only does what is left to do, and returns the same.

        Raises:
            RetryableError: ``target_check_failed``; ``layer_lost`` when the point is neither open nor
                committed on the host.
        """

    def abort(self, replica: Replica, point_id: UUID, layers: Sequence[Layer]) -> None:
        """End all writers of these layers and throw them away.

        Does nothing to a committed point, nor when the host's open layers are others: a late abort touches
        nothing else.
        """

    def consolidate(self, replica: Replica, point_id: UUID) -> JournalPoint:
        """Remove a committed point by merging it with its successor, which shows the same bytes at every moment.

        From the first byte that is moved the journal doesn't list the point any more; `open` is refused with
        ``busy`` until all is done. Called again it goes on where it broke off; called for a point that was merged
        before, it only says which point holds its content now. One that another call left half merged is finished
        first.

        Returns:
            The successor as it is now: its disks may have other identities and stored sizes.

        Raises:
            NotFoundError: ``no_such_point``.
            RefusedError: ``point_in_use``: it is the head, or something stands on it or runs above it; nothing has
                changed.
            RetryableError: ``point_open``: a point is open; ``busy``: somebody reads it, or the host still works on
                it. `inspect` tells whether it has begun.
            FatalError: ``host_full``.
        """

    def remove(self, replica: Replica) -> None:
        """Remove the standby VM, all its points and the journal; nothing when there is none."""

    def discard(self, replica: Replica, at: datetime, *, dry_run: bool = False) -> None:
        """Put a replica into the trash beside its place: its VM is undefined, its files are kept, its place is free.

        Nothing is done when there is none, or when it is there already. What isn't bootpoint's stays where it is.

        Args:
            replica: The replica.
            at: The instant that the journal is to say.
            dry_run: Only the checks are made.

        Raises:
            RefusedError: ``standby_running``; ``point_in_use``: a test VM, or a file that bootpoint doesn't know,
                stands on a point.
            RetryableError: ``busy``: a point is half merged.
        """

    def find_discarded(self, known: Sequence[Replica] = ()) -> Sequence[FoundReplica]:
        """Return every replica in the host's trash, as `restore` and `purge` want it.

        Args:
            known: Replicas beside whose places is looked too, where the host itself can't find them.
        """

    def restore(self, replica: Replica) -> None:
        """Take a replica out of the trash: its files are in its place again, and its standby is defined.

        Nothing is done when it is back already.

        Raises:
            RefusedError: ``vm_name_taken``: its place or its name is somebody else's by now.
            NotFoundError: ``no_such_vm``: it isn't in the trash.
        """

    def purge(self, replica: Replica) -> None:
        """Remove a replica from the trash for good; nothing when it isn't there, wherever else it may be."""

    def revert(self, replica: Replica, point_id: UUID | None) -> VirtualMachine:
        """Let the standby stand on a point: its definition's disks are empty scratch layers over it, and it is off.

        It stays there when newer points are committed (`Standing.held`), until it is reverted again, or started from
        another point. No point is touched; what the old scratch layers held is kept as a branch.

        Args:
            replica: The replica.
            point_id: The point; None for the head, which the standby then follows again.

        Raises:
            NotFoundError: ``no_such_point``.
            RefusedError: ``standby_running``.
        """

    def start(self, replica: Replica, request: StartRequest) -> VirtualMachine:
        """Start a VM in a fresh scratch layer above a point, converted as the request says; the point is only read.

        A standby that was reverted to the point stays reverted.

        Raises:
            NotFoundError: ``no_such_point``.
            RefusedError: ``standby_running``.
            FatalError: ``conversion_failed``; then nothing of the start is left.
        """

    def examine(self, replica: Replica, point_id: UUID) -> Profile:
        """Look into a committed point, which is only read: what machine it is, and what a start has to do and can't.

        What was found is kept in the journal, and shapes the standby's hardware and the runbook.

        Raises:
            NotFoundError: ``no_such_point``.
        """

    def stop(self, replica: Replica, test_id: str | None) -> None:
        """End a VM that `start` made; a test's definition and scratch layer go with it."""

    def look(self, replica: Replica, test_id: str) -> Sight:
        """Look at a test VM from outside; it is not disturbed, and one that isn't there is ``absent``.

        Raises:
            RetryableError: ``host_unreachable``.
        """

    def close(self) -> None:
        """End the session; may be called twice."""
