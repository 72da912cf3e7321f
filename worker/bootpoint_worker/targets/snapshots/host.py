"""What a hypervisor does in its own way: the acts that the verbs are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.base import LayerReader, LayerWriter
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.layer import OpenDisk
from bootpoint_worker.targets.replica import Nic, Replica, ReplicaDisk
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.snapshots import journal
from bootpoint_worker.targets.snapshots.store import Store
from bootpoint_worker.targets.snapshots.vm import Disk, State, TestPlan, Vm

if TYPE_CHECKING:
    from uuid import UUID

    from bootpoint_worker.targets.snapshots.place import Snapshot


def no_step(_name: str) -> None:
    """Pass a step by; tests put something here that dies."""


class Host(ABC):
    """One host, or what manages several.

    Attributes:
        name: Its name in bootpoint.
        step: Called with a name before each step that a crash could separate from the one before.
    """

    name: str
    step: Callable[[str], None]

    #: Disk bus of a job -> the one that conversions know it by.
    buses: Mapping[str, str]
    #: First bytes of new MAC addresses.
    mac_prefix: str
    #: Ends of the names of disks' files, the base's first.
    suffixes: tuple[str, ...]
    #: Text of RUNBOOK.txt, with places for ``vm``, ``job``, ``directory``, ``points`` and ``machine``.
    runbook: str
    #: The page of the documentation.
    page: str

    def __init__(self, name: str, step: Callable[[str], None] = no_step) -> None:
        self.name = name
        self.step = step

    def problem(self, code: Code, text: str, replica: Replica, **more: Any) -> BootpointError:
        """Return an error about a replica on this host."""
        return error(code, text, job=replica.job, host=self.name, **more)

    def base_file(self, directory: str, disk: ReplicaDisk) -> str:
        """Return the path of a disk's base."""
        return self.join(directory, f"{disk.disk_name}{self.suffixes[0]}")

    def test_file(self, directory: str, number: int) -> str:
        """Return the path of a disk of a test VM, by its place among the point's disks."""
        return self.join(directory, f"disk-{number}{self.suffixes[0]}")

    @abstractmethod
    def serial_log(self, directory: str, wanted: str | None) -> str | None:
        """Return the file of a test's first serial port, in its folder or where a start wants it; None for none."""

    # --- files -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def store(self, name: str) -> Store:
        """Return a storage.

        Raises:
            FatalError: ``storage_unknown``.
        """

    @abstractmethod
    def store_of(self, vm: Vm) -> Store:
        """Return the storage of a VM's folder."""

    @abstractmethod
    def join(self, directory: str, *names: str) -> str:
        """Join a path of the host and names below it."""

    @abstractmethod
    def parent(self, path: str) -> str:
        """Return the path of the directory that a file lies in."""

    @abstractmethod
    def name_of(self, path: str) -> str:
        """Return the last part of a path."""

    # --- VMs ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def inspect(self) -> HostInfo:
        """Ask the host what it is and has; see `Target.inspect_host`."""

    @abstractmethod
    def machines(self) -> list[Vm]:
        """Return every VM of the host."""

    @abstractmethod
    def state(self, vm: Vm) -> State:
        """Read what a VM is made of."""

    @abstractmethod
    def make_snapshot(self, vm: Vm, name: str, text: str, point_id: UUID | None = None) -> str:
        """Make a snapshot of a VM that is off, and return its id; its leaves are new and empty then.

        Args:
            vm: The VM.
            name: The snapshot's name.
            text: What people are told of it.
            point_id: The point, by which `State` knows it again.
        """

    @abstractmethod
    def revert(self, vm: Vm, snapshot: str) -> None:
        """Let a VM stand on a snapshot, off, with new and empty leaves; its hardware is the snapshot's then."""

    @abstractmethod
    def remove_snapshot(self, vm: Vm, snapshot: str, seconds: float) -> None:
        """Remove a snapshot, whose children stay: begin to merge it, and wait for so long.

        Raises:
            RetryableError: ``busy``.
        """

    @abstractmethod
    def merge_rest(self, vm: Vm, seconds: float) -> None:
        """Wait for so long until no delta of a removed snapshot is left; begin their merging if need be."""

    @abstractmethod
    def snapshot_files(self, vm: Vm, snapshots: list[str]) -> dict[str, dict[int, str]]:
        """Return, for each snapshot, the file of each disk by the disk's key."""

    @abstractmethod
    def stored_bytes(self, vm: Vm) -> dict[str, int]:
        """Return what each link of a VM's disks takes on its storage, by the link's file."""

    @abstractmethod
    def mark(self, vm: Vm, point_id: UUID) -> None:
        """Write into a VM's configuration which point its leaves are open for; a revert takes that away.

        By it the leaf of a point is told from one that somebody made by a revert, which may have the same name.
        """

    @abstractmethod
    def rename(self, vm: Vm, name: str) -> None:
        """Give a VM another name; its files keep theirs."""

    @abstractmethod
    def power_on(self, vm: Vm) -> None:
        """Start a VM."""

    def tell_addresses(self, vm: Vm, nic: Nic, deadline: float) -> str | None:  # noqa: ARG002 - for those who can
        """Tell a guest that runs what addresses a card is to have; it has some, or DHCP.

        Args:
            vm: The VM.
            nic: The card.
            deadline: Until when the guest may take to answer (`time.monotonic`); after it, it is asked once.

        Returns:
            None when the guest has taken them, else why not, as it goes on after "for".
        """
        return "hosts of its kind can't tell a guest that runs"

    @abstractmethod
    def power_off(self, vm: Vm) -> None:
        """Stop a VM as pulling its plug does; nothing when it is off."""

    @abstractmethod
    def destroy(self, vm: Vm) -> None:
        """Delete a VM; files of disks that the hypervisor leaves are deleted by the caller."""

    @abstractmethod
    def sight(self, vm: Vm, serial: str) -> Sight:
        """Look at a VM that may run; see `Target.look`."""

    # --- hardware ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, replica: Replica) -> None:
        """Look whether a replica can be made here: names, storage, networks, buses.

        Raises:
            FatalError: ``storage_unknown``, ``network_unknown``, ``host_permission``, ``host_unsupported``.
            UsageError: ``spec_invalid``.
        """

    @abstractmethod
    def make(self, replica: Replica) -> None:
        """Make the standby VM, its folder and its disks."""

    @abstractmethod
    def remake_disks(self, before: Snapshot, state: State) -> None:
        """Take the disks away with their files: before the first point there is nothing that a revert could go to."""

    @abstractmethod
    def fit(self, before: Snapshot, state: State, point: journal.PointEntry | None) -> tuple[dict[str, int], bool]:
        """Make the VM's hardware what the replica says: name, processors, memory, guest, cards, and disks.

        Args:
            before: The replica.
            state: The VM as it is.
            point: The point that it stands on; one that isn't the head shows the disks that it has, and no others.

        Returns:
            Slot -> key of the disk; and whether anything had to be changed.
        """

    @abstractmethod
    def grow(self, before: Snapshot, disks: Sequence[OpenDisk]) -> dict[str, int]:
        """Give the standby longer disks where the source has: new chains that begin with a copy of the head's.

        Returns:
            Slot -> key of each disk that has a new chain.
        """

    @abstractmethod
    def drop(self, before: Snapshot, layers: Sequence[journal.LayerEntry]) -> None:
        """Delete the new chains of a point that was aborted."""

    @abstractmethod
    def rehang(self, before: Snapshot, state: State) -> None:
        """Attach the disks of a standby by the bus that its machine boots from as it is, where that isn't the job's."""

    @abstractmethod
    def make_test(self, before: Snapshot, replica: Replica, point: journal.PointEntry, test: TestPlan) -> Vm:
        """Make a test VM, whose disks are deltas above a point's files."""

    @abstractmethod
    def end_test(self, vm: Vm) -> None:
        """Delete a test VM with its folder; what its disks stand on is left alone."""

    # --- bytes -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def end_writers(self, file: str) -> None:
        """End everything that writes to a file for bootpoint, for certain."""

    @abstractmethod
    def writer(self, disk: Disk, number: int, explain: Callable[[], NoReturn]) -> LayerWriter:
        """Write to a leaf.

        Args:
            disk: The leaf.
            number: The claim.
            explain: Finds out why a writer ended, and raises that.
        """

    @abstractmethod
    def reader(self, disk: Disk) -> LayerReader:
        """Read a disk."""

    @abstractmethod
    def served(self, disk: Disk, *, writable: bool = False) -> AbstractContextManager[str]:
        """Serve a disk to programs of this machine, by NBD, while a block lasts; gives the path of a unix socket."""

    @abstractmethod
    def close(self) -> None:
        """End the session; may be called twice."""
