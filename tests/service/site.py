"""A disk that a job keeps on a hypervisor that isn't KVM: a fleet in one process, and a stand-in of the host."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from bootpoint_common.store import host as hosts
from bootpoint_common.store.database import Row
from bootpoint_common.store.point import Point
from bootpoint_common.store.run import Run
from bootpoint_common.units import MiB
from bootpoint_ops import host as adding
from bootpoint_worker.context import access_of
from bootpoint_worker.replica import replica_of
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.journal import JournalDisk
from bootpoint_worker.targets.replica import Replica
from tests.service.fleet import Fleet

#: Seconds that a run may take on a loaded machine.
PATIENCE = 300.0

#: Name of the standby.
STANDBY = "erp-standby"

#: Size of a disk that `rewrite` changes.
SIZE = 8 * MiB

#: Kilobytes a second that a run sends, so that it can be met in its midst.
SLOWLY = {"nice": 0, "network_kb_per_second": [{"value": 1024}]}


@dataclass
class Site(ABC):
    """A disk that a job keeps on a host.

    Attributes:
        fleet: The installation, with one worker for that kind of host.
        disk: The disk.
        host_id: The host's row.
        job: The job.
        copies: The disk at the instant of each run.
    """

    fleet: Fleet
    disk: Path
    host_id: UUID
    job: int
    copies: dict[UUID, Path] = field(default_factory=dict)

    def begin(self) -> Run:
        """Copy the disk, which stays as it is while the run lasts, and begin a run."""
        copy = self.disk.with_name(f"copy-{len(self.copies)}.raw")
        subprocess.run(["cp", "--sparse=always", self.disk, copy], check=True)
        run = self.fleet.run(self.job)
        self.copies[run.uid] = copy
        return run

    def protect(self) -> None:
        """Do a run to its end."""
        self.fleet.wait(self.begin(), seconds=PATIENCE)

    def examined(self) -> None:
        """Wait until a worker has looked into the first point: it doesn't hold the host any more."""
        query = "SELECT 1 FROM replica WHERE profile ? 'made_at'"
        self.fleet.wait_until(lambda: self.fleet.row(query), PATIENCE)

    def refused(self) -> Row:
        """Do a run that has to fail; returns it."""
        return self.fleet.wait(self.fleet.run(self.job), state="failed", seconds=PATIENCE)

    def change(self, *, secrets: dict[str, str] | None = None, **columns: Any) -> None:
        """Change how the host is reached, as ``host set`` does."""
        with self.fleet.database.transaction() as connection:
            name = hosts.get(connection, self.host_id).name
            adding.change(
                connection, self.fleet.vault, name, actor="test", columns=columns, settings={}, secrets=secrets
            )

    @contextmanager
    def session(self) -> Iterator[tuple[Target, Replica]]:
        """Open a session with the host, beside the worker's."""
        row = self.fleet.row("SELECT id FROM replica WHERE job_id = %s", self.job)
        assert row is not None
        with self.fleet.database.transaction() as connection:
            on, replica = hosts.get(connection, self.host_id), replica_of(connection, row["id"])
        with closing(connect(access_of(on, self.fleet.vault))) as target:
            yield target, replica

    def read(self, point_id: UUID, into: Path) -> None:
        """Read a boot point through its snapshot, into a sparse raw file."""
        with (
            into.open("wb") as file,
            self.session() as (target, replica),
            closing(target.open_reader(replica, point_id, "system")) as reader,
        ):
            file.truncate(reader.size_bytes)
            for offset in range(0, reader.size_bytes, MiB):
                piece = reader.read(offset, min(MiB, reader.size_bytes - offset))
                if piece.strip(b"\0"):
                    file.seek(offset)
                    file.write(piece)

    def check(self) -> int:
        """Compare every boot point with the disk at its instant; returns how many there are."""
        points = self.fleet.points(self.job)
        found = self.disk.with_name("found.raw")
        for point in points:
            self.read(point.id, found)
            assert subprocess.run(["cmp", found, self.copies[point.run_uid]]).returncode == 0, point.name
        return len(points)

    def goes_on(self) -> None:
        """Change all of the disk, do a run that succeeds, and compare all points."""
        before = len(self.fleet.points(self.job))
        rewrite(self.disk, 1 + len(self.copies))
        self.protect()
        assert self.check() == before + 1

    def in_its_midst(self) -> Run:
        """Begin a run with all of the disk changed, and return when a part of it is durable on the host."""
        rewrite(self.disk, 1 + len(self.copies))
        run = self.begin()
        query = (
            "SELECT 1 FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
            " WHERE p.run_uid = %s AND d.watermark_bytes > 0"
        )
        self.fleet.wait_until(lambda: self.fleet.row(query, run.uid), PATIENCE)
        return run

    def ended(self, run: Run) -> Row:
        """Wait until a run has ended in whatever way; returns it."""
        query = "SELECT * FROM run WHERE uid = %s AND state NOT IN ('waiting', 'running')"
        return self.fleet.wait_until(lambda: self.fleet.row(query, run.uid), PATIENCE)

    def grown(self) -> tuple[JournalDisk, JournalDisk]:
        """Do a run of the disk with 4 MiB more; returns the disk of the first point and of this one, on the host."""
        with self.disk.open("ab") as file:
            file.write(Random("grown").randbytes(4 * MiB))
        self.protect()
        assert self.check() == 2
        with self.session() as (target, replica):
            journal = target.inspect(replica)
        assert journal is not None
        first, second = (point.disks[0] for point in journal.points)
        assert (first.size_bytes, second.size_bytes) == (SIZE, SIZE + 4 * MiB)
        assert len(self.fleet.rows("SELECT 1 FROM event WHERE kind = 'disk_grew'")) == 1
        return first, second

    def flatten(self, point: Point, into: Path) -> None:
        """Read a boot point into a sparse raw file, by others' readers where there are some."""
        self.read(point.id, into)

    @abstractmethod
    def read_standby(self, into: Path) -> None:
        """Read what the standby's disk shows, in the host's own files and by others' readers."""


def rewrite(disk: Path, seed: int) -> None:
    """Change all of a disk of `SIZE`."""
    with disk.open("r+b" if disk.exists() else "wb") as file:
        file.write(Random(seed).randbytes(SIZE))


def add_job(
    made: Fleet, new: adding.NewHost, disk: Path, target: dict[str, Any], limits: dict[str, Any] | None
) -> tuple[UUID, int]:
    """Add a host, a worker for its kind, and a job of one disk that hasn't run yet.

    Args:
        made: The installation.
        new: The host.
        disk: The disk: a file.
        target: What the job file says under ``[target]``, but for the host and the VM's size.
        limits: Likewise under ``[limits]``.

    Returns:
        The host's row, and the job.
    """
    with made.database.transaction() as connection:
        host_id = adding.add(connection, made.vault, new, actor="test").id
    made.add_worker("w1", pools=(new.kind,), slices=2)
    made.add_agent("erp", [disk], pool=new.kind)
    target = {"vm": {"cpus": 1, "memory": "256MiB"}} | target
    return host_id, made.add_job("erp", "erp", {"system": disk}, host_id, target=target, limits=limits)
