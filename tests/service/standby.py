"""Disks that a job protects on the KVM host of this machine, and the proof that its points equal them.

A fleet in one process (`fleet`), real qemu and libvirt. Each instant of the source is kept as a plain copy, made while
nobody writes to it; a point is right when `qemu-img compare` says so, and when what `qemu-img convert` makes of it is
the copy byte for byte.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from bootpoint_common.store import host
from bootpoint_common.store.run import Run
from bootpoint_worker.context import access_of
from bootpoint_worker.replica import replica_of
from bootpoint_worker.targets.kvm import KvmTarget
from tests.service.fleet import Fleet
from tests.service.libvirt import LibvirtHost

#: The pool of everything here.
POOL = "kvm"


def add_kvm_host(fleet: Fleet, libvirt: LibvirtHost, name: str = "kvm1") -> UUID:
    """Write the row of this machine as a KVM host."""
    settings = {"virt_type": "qemu", "libvirt_socket": str(libvirt.socket)}
    return fleet.add_host(name, kind=POOL, address="local", settings=settings)


@dataclass
class Protected:
    """A source with its agent, its job, and what every point of it has to be.

    Attributes:
        fleet: The installation.
        name: Name of its agent and of its job.
        disks: Path of each disk, by slot: files or block devices.
        host_id: Where its replica goes.
        storage: Directory of its replica.
        scratch: Directory for copies.
        scripts: What the job file says of scripts.
        points: How many points the job keeps.
        memory: Memory of its standby.
        copies: The source at the instant of each run, by run and slot.
        job: Number of the job.
    """

    fleet: Fleet
    name: str
    disks: dict[str, Path]
    host_id: UUID
    storage: Path
    scratch: Path
    scripts: dict[str, Any] | None = None
    points: int = 22
    memory: str = "64MiB"
    copies: dict[UUID, dict[str, Path]] = field(default_factory=dict)
    job: int = 0

    def __post_init__(self) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.fleet.add_agent(self.name, list(self.disks.values()), pool=POOL)
        target = {
            "storage": {"name": str(self.storage)}, "vm": {"cpus": 1, "memory": self.memory}, "points": self.points
        }  # fmt: skip
        self.job = self.fleet.add_job(
            self.name, self.name, self.disks, self.host_id, target=target, scripts=self.scripts
        )

    def begin(self) -> Run:
        """Copy the disks, which stay as they are while the run lasts, and begin a run."""
        number = len(self.copies)
        copies = {slot: self.scratch / f"{slot}-{number}.raw" for slot in self.disks}
        for slot, path in self.disks.items():
            subprocess.run(["cp", "--sparse=always", path, copies[slot]], check=True)
        run = self.fleet.run(self.job)
        self.copies[run.uid] = copies
        return run

    def protect(self) -> Run:
        """Do a run to its end."""
        run = self.begin()
        self.fleet.wait(run)
        return run

    def directory(self) -> Path:
        """Return the replica's directory."""
        row = self.fleet.row(
            "SELECT definition->>'vm_name' AS vm, definition->>'folder' AS folder FROM replica WHERE job_id = %s",
            self.job,
        )
        assert row is not None
        return self.storage / (row["folder"] or "") / str(row["vm"])

    def committed(self) -> Iterator[tuple[UUID, str, Path]]:
        """Yield run, slot and file of every disk of every committed point, oldest first."""
        found = self.fleet.rows(
            "SELECT p.run_uid, d.slot, d.layer FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
            " JOIN replica y ON y.id = p.replica_id WHERE y.job_id = %s AND p.state = 'committed'"
            " AND p.consolidated_at IS NULL ORDER BY p.sequence, d.slot",
            self.job,
        )
        for row in found:
            yield row["run_uid"], row["slot"], self.directory() / row["layer"]

    def check(self) -> int:
        """Compare every disk of every committed point with its source; returns how many there are."""
        count = 0
        for run_uid, slot, layer in self.committed():
            assert_identical(layer, self.copies[run_uid][slot], self.scratch / "converted.raw")
            count += 1
        return count

    def wire_bytes(self, run: Run) -> int:
        """Return the encrypted bytes that a run sent for its point."""
        row = self.fleet.row(
            "SELECT sum(d.wire_bytes)::bigint AS n FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
            " WHERE p.run_uid = %s",
            run.uid,
        )
        assert row is not None
        return int(row["n"])

    def remove(self) -> None:
        """End the agent, and remove the replica from the host."""
        self.fleet.agents.pop(self.name).stop()
        row = self.fleet.row("SELECT id FROM replica WHERE job_id = %s AND definition IS NOT NULL", self.job)
        if row is None:
            return
        with self.fleet.database.transaction() as connection:
            on, replica = host.get(connection, self.host_id), replica_of(connection, row["id"])
        with closing(KvmTarget(access=access_of(on, self.fleet.vault))) as target:
            target.remove(replica)


def assert_identical(layer: Path, expected: Path, scratch: Path) -> None:
    """Compare a point's file with a plain copy of its source, in qemu's way and byte for byte."""
    assert_equal(layer, expected)
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(layer), str(scratch)], check=True)
    done = subprocess.run(["cmp", str(scratch), str(expected)], capture_output=True, text=True)
    assert done.returncode == 0, f"{layer.name}: {done.stdout}{done.stderr}"
    scratch.unlink()


def assert_equal(layer: Path, expected: Path) -> None:
    """Compare a point's file with a plain copy of its source, in qemu's way alone."""
    compared = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(layer), str(expected)]
    done = subprocess.run(compared, capture_output=True, text=True)
    assert done.returncode == 0, f"{layer.name}: {done.stdout}{done.stderr}"


def size_of(path: Path) -> int:
    """Return the size of a file or a block device in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
