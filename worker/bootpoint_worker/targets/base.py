"""What a driver of a target host promises: the verbs, and the values that they speak.

Every verb may be called again after a crash half-way: it finds what is done and does the rest. A driver
keeps the truth about a replica in a *journal* on the host itself, so a host without database, broker and
worker still describes its replicas.

Life of a layer::

    open() ──► layer (identity) ──open_writer()──► written, flushed ──commit()──► file(s) of a boot point, immutable
                  └───────────────── abort() ──► gone
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from bootpoint_common.units import SECTOR, MiB
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.share import Share
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.standing import Standing

#: Most bytes of a piece that `LayerReader.stream` yields.
PIECE = MiB

#: Pieces that may be taken after one before its bytes may change: a reader has a ring of buffers, not one for each.
PIECES_KEPT = 8


@dataclass(frozen=True, slots=True)
class Addressing:
    """What the guest's own network configuration is to say of a card.

    Attributes:
        mode: ``source`` (as the source has it, under the card's new name and MAC), ``dhcp`` or ``static``.
        source_name: Name of the card that it stands for, on the source, such as ``eno1``; None where that isn't known.
        source_mac: That card's MAC address.
        addresses: With ``source`` what the source told, with ``static`` the job's one: ``10.9.0.21/24``.
        gateway: Default gateway.
        dns: Name servers.
    """

    mode: str = "source"
    source_name: str | None = None
    source_mac: str | None = None
    addresses: tuple[str, ...] = ()
    gateway: str | None = None
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card of the standby VM.

    Attributes:
        network: The host's network (libvirt network or bridge); None for a card that is not connected.
        model: Device model, such as ``virtio``.
        mac: MAC address, always given (``new`` is resolved when the replica is created).
        connect: Whether the link is up at power-on.
        addressing: What the guest is to know about it.
    """

    network: str | None
    model: str
    mac: str
    connect: bool = True
    addressing: Addressing = Addressing()


@dataclass(frozen=True, slots=True)
class ReplicaDisk:
    """A disk of a replica.

    Attributes:
        slot: Name of the disk within the job.
        size_bytes: Virtual size.
        disk_name: Stem of its files on the host, such as ``erp-standby-system``.
        bus: ``virtio``, ``scsi``, ``sata`` or ``ide``.
        provisioning: ``thin`` or ``thick`` (the base is allocated in full).
        sector_bytes: Logical sectors, as on the source: tables and file systems count in them.
    """

    slot: str
    size_bytes: int
    disk_name: str
    bus: str = "virtio"
    provisioning: str = "thin"
    sector_bytes: int = SECTOR


@dataclass(frozen=True, slots=True)
class Replica:
    """A job's standby VM on one host: what `create` makes, and what names it in every other verb.

    Attributes:
        replica_id: Its id, stored in the journal; a journal with another id is never touched.
        job: The job's name.
        vm_name: Name of the VM on the host.
        storage: The host's storage (libvirt pool, or an absolute directory).
        folder: Folder below the storage; empty for the storage itself.
        cpus: Virtual CPUs.
        memory_bytes: Memory.
        firmware: ``bios`` or ``uefi``.
        disks: In the job's order; the first one is the boot disk.
        nics: In the source's order.
    """

    replica_id: UUID
    job: str
    vm_name: str
    storage: str
    folder: str
    cpus: int
    memory_bytes: int
    firmware: str
    disks: tuple[ReplicaDisk, ...]
    nics: tuple[Nic, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """One disk of a point that is to be opened.

    Attributes:
        slot: Which disk of the replica.
        point_disk_id: Id of this disk of this point.
        size_bytes: Size of the source disk now; at least the head's size.
    """

    slot: str
    point_disk_id: UUID
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OpenPoint:
    """A point that is to be opened above the head.

    Attributes:
        point_id: Id of the point.
        base_point_id: The head it stands on; None for the first point of a chain.
        epoch: The replica's epoch.
        disks: Every disk of the replica.
    """

    point_id: UUID
    base_point_id: UUID | None
    epoch: int
    disks: tuple[OpenDisk, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """What a driver writes into: one disk's open layer.

    Attributes:
        point_id: The open point.
        slot: Which disk of the replica.
        identity: The driver's name of this very layer, stored before the first byte and compared ever after.
    """

    point_id: UUID
    slot: str
    identity: str


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """A sealed point on its way to being committed: what the journal is to say about it.

    Attributes:
        point_id: Id of the point.
        name: ``V<yyyymmdd_hhmmss>``.
        sequence: Its place in the order of the replica's points.
        instant: The snapshot's instant, aware, UTC.
        kind: ``full`` or ``increment``.
        consistency: ``app``, ``fs`` or ``crash``.
        epoch: The replica's epoch.
        layers: The layer of every disk.
        roots: Root digest (``read_digest``) of every disk, by slot, as 64 hex digits.
    """

    point_id: UUID
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    layers: tuple[Layer, ...]
    roots: Mapping[str, str]


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


@dataclass(frozen=True, slots=True)
class Storage:
    """A place for files on a host; sizes in bytes."""

    name: str
    path: str
    size_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Network:
    """A network that a VM can be connected to; kind: ``bridge``, ``nat``, ``isolated`` or ``route``."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """A VM on a host.

    Attributes:
        name: Its name.
        uuid: The hypervisor's id.
        state: ``running`` or ``off``.
        replica_id: The replica it belongs to, if bootpoint made it.
    """

    name: str
    uuid: str
    state: str
    replica_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class HostInfo:
    """A target host as it answers now: the fields of ``host show``.

    Attributes:
        version: Versions of the hypervisor for people.
        cpus: CPUs of the host.
        memory_bytes: Its memory.
        storages: Where replicas can live.
        networks: What VMs can be connected to.
        buses: Disk buses.
        nic_models: Network card models.
        vms: All VMs on it.
        problems: What is missing, each a sentence with its remedy; empty when all is well.
        hints: What it could have besides, each a sentence; without it some machines don't boot there.
        running_memory_bytes: Memory that its running VMs have been given.
        large_sector_buses: Those disk buses whose disks can have sectors of 4,096 bytes.
    """

    version: str
    cpus: int
    memory_bytes: int
    storages: tuple[Storage, ...]
    networks: tuple[Network, ...]
    buses: tuple[str, ...]
    nic_models: tuple[str, ...]
    vms: tuple[VirtualMachine, ...]
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    running_memory_bytes: int = 0
    large_sector_buses: tuple[str, ...] = ()


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

    def inspect_host(self) -> HostInfo:
        """Ask the host what it is and has.

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


@dataclass(frozen=True, slots=True)
class HostAccess:
    """How a host is reached; secrets are in the clear here and never printed.

    Attributes:
        name: The host's name in bootpoint.
        kind: ``kvm``, ``esxi``, ``hyperv`` or ``fake``.
        address: DNS name or address; ``local`` for the machine the worker runs on.
        port: TCP port of its control service.
        user: Account.
        fingerprint: Key fingerprint recorded at the first contact (``SHA256:…``).
        ssh_key: Private key, PEM text.
        password: Password.
        settings: What only one kind knows: ``virt_type`` (``kvm`` or ``qemu``), …
    """

    name: str
    kind: str
    address: str
    port: int
    user: str
    fingerprint: str | None = None
    ssh_key: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
