"""VMs as a hypervisor shows them: what they are, and what each is made of at one moment.

The notes of a VM name the replica. They are written before the first snapshot, so they are in every snapshot, and a
revert keeps them. A VM that somebody renames, or moves to another folder or storage, is still known by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from bootpoint_worker.targets.host import VirtualMachine

#: The line of the notes by which a VM is known.
_MARK = re.compile(r"^bootpoint-replica: (?P<replica>[0-9a-f-]{36})(?: test (?P<test>\S+))?\s*$", re.MULTILINE)

_NOTES = """\
{what} of the job {job}, made by bootpoint: start, revert and delete it with `bootpoint vm`, or by its RUNBOOK.txt.
bootpoint-replica: {replica}{test}"""


def notes(replica_id: UUID, job: str, test_id: str | None = None) -> str:
    """Return the notes of a standby, or of a test of one."""
    what = "Standby" if test_id is None else "Test VM"
    return _NOTES.format(what=what, job=job, replica=replica_id, test=f" test {test_id}" if test_id else "")


def owner(text: str) -> tuple[UUID | None, str | None]:
    """Return the replica that a VM's notes name, and the test."""
    mark = _MARK.search(text)
    return (UUID(mark["replica"]), mark["test"]) if mark else (None, None)


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM as the hypervisor lists it.

    Attributes:
        id: What the hypervisor's own calls name it by.
        name: Its name.
        on: Whether it runs, or is suspended: its disks are in use.
        directory: Path of its folder on the host; None where the host doesn't know it.
        uuid: Its id that stays with it.
        replica_id: The replica that its notes name.
        test_id: The test that they name.
        memory_bytes: Its memory.
        entity: The object by which a library reaches it, where one does.
    """

    id: str
    name: str
    on: bool
    directory: str | None
    uuid: str
    replica_id: UUID | None
    test_id: str | None
    memory_bytes: int
    entity: Any = field(default=None, compare=False, repr=False)

    @property
    def folder(self) -> str:
        """Path of its folder on the host."""
        return self.directory or ""

    @property
    def described(self) -> VirtualMachine:
        """As the interface has it."""
        return VirtualMachine(self.name, self.uuid, "running" if self.on else "off", self.replica_id)


@dataclass(frozen=True, slots=True)
class Node:
    """A snapshot of a VM: id, name, the point that it was made for, the id of the one beneath it, and those above it.

    Attributes:
        id: The hypervisor's id.
        name: Its name.
        point_id: The point, as the hypervisor keeps it with the snapshot; None for somebody else's.
        parent: Id of the snapshot beneath it.
        children: Ids of those above it.
    """

    id: str
    name: str
    point_id: UUID | None
    parent: str | None
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of a VM: the number of its place, and the file that writes go to."""

    key: int
    file: str


@dataclass(frozen=True, slots=True)
class State:
    """A VM at one moment.

    Attributes:
        on: Whether it runs, or is suspended.
        drives: Its disks with the files of their leaves.
        current: Id of the snapshot that the leaves stand on; None when there is none.
        tree: All snapshots by their ids.
        unmerged: Whether deltas of removed snapshots are left, or are being merged.
        mark: What `Host.mark` has written into its configuration since it was reverted the last time.
        devices: All that it is made of, as the hypervisor has it.
    """

    on: bool
    drives: tuple[Drive, ...]
    current: str | None
    tree: dict[str, Node]
    unmerged: bool
    mark: str | None
    devices: Any = field(default=None, compare=False, repr=False)

    def leaf(self, key: int) -> str | None:
        """Return the file that writes to a disk go to; None when there is no such disk."""
        return next((drive.file for drive in self.drives if drive.key == key), None)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that is to be read or written.

    Attributes:
        vm: The VM.
        file: The file.
        snapshot: Id of the snapshot that the file belongs to; None for the VM's leaf.
        size_bytes: Size of the disk at the source.
    """

    vm: Vm
    file: str
    snapshot: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TestPlan:
    """A test VM that is to be made.

    Attributes:
        test_id: Which test.
        name: Its name.
        directory: Path of its folder, which isn't there yet.
        serial_log: Path that its first serial port is to be written to; None for none.
        converted: Its disks are converted, so it has the job's hardware; another has what its source knows.
    """

    test_id: str
    name: str
    directory: str
    serial_log: str | None
    converted: bool
