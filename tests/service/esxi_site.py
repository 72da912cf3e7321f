"""A disk that a job keeps on an ESXi host: a fleet in one process, our stand-in of the host, the real vddk plugin."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from bootpoint_common.store import host as hosts
from bootpoint_common.store.database import Row
from bootpoint_common.store.run import Run
from bootpoint_common.units import GiB, MiB
from bootpoint_ops import host as adding
from bootpoint_worker.context import access_of
from bootpoint_worker.replica import replica_of
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING, PLUGIN_SETTING
from bootpoint_worker.targets.replica import Replica
from tests.esxi import chain
from tests.esxi.client import connect as log_in
from tests.esxi.client import leaves
from tests.esxi.server import ADDRESS, Esxi
from tests.esxi.world import ROOT
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.process import wait_for
from tests.service.vddk import vddk

#: Seconds that a run may take on a loaded machine.
PATIENCE = 300.0

#: The only datastore.
DATASTORE = "datastore1"


@dataclass
class EsxiSite:
    """A disk that a job keeps on an ESXi host.

    Attributes:
        host: The host.
        fleet: The installation.
        disk: The disk.
        host_id: The host's row.
        job: The job.
        copies: The disk at the instant of each run.
    """

    host: Esxi
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

    def kill_servers(self) -> None:
        """Kill every nbdkit that serves a disk of the host to this machine, as ``kill -9`` does."""
        for pid in wait_for(self._servers, "a server of a disk"):
            os.kill(pid, signal.SIGKILL)

    def _servers(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # One that has ended since it was listed has no words any more.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"nbdkit") and b"port=%d" % self.host.port in words:
                    found.append(int(entry.name))
        return found

    @contextmanager
    def standby(self) -> Iterator[tuple[Any, Any]]:
        """Give the standby in the hands of somebody else: the VM, and what waits for its tasks."""
        with log_in(self.host) as client:
            [vm] = [each for each in client.datacenter.vmFolder.childEntity if each.name == "erp-standby"]
            yield vm, client.result

    def read_standby(self, into: Path) -> None:
        """Read what the standby's disk shows, in the host's own files."""
        with self.standby() as (vm, _):
            [path] = leaves(vm)
        extent = chain.read_link(self.host.world.locate(path)).extent
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(extent), str(into)], check=True)


@contextmanager
def esxi_site(
    database: str, directory: Path, disk: Path, *, points: int, limits: dict[str, Any] | None = None
) -> Iterator[EsxiSite]:
    """Make an installation with one worker, one ESXi host, and a job of one disk that hasn't run yet.

    Args:
        database: A migrated, empty database.
        directory: For all that it keeps.
        disk: The disk: a file.
        points: How many boot points the job keeps.
        limits: What the job file says under ``[limits]``.
    """
    need("pyvmomi", "libnbd", "nbdkit", "qemu-img", "qemu-nbd")
    with (
        Esxi(directory / "esxi", datastores={DATASTORE: 8 * GiB}) as host,
        fleet(database, directory / "fleet") as made,
    ):
        library = vddk()
        new = adding.NewHost(
            name="esx1", kind="esxi", address=ADDRESS, port=host.port, user=ROOT.name,
            fingerprint=fetch_fingerprint(ADDRESS, host.port), secrets={"password": ROOT.password},
            settings={PLUGIN_SETTING: str(library.plugin), LIBDIR_SETTING: str(library.libdir)},
        )  # fmt: skip
        with made.database.transaction() as connection:
            host_id = adding.add(connection, made.vault, new, actor="test").id
        made.add_worker("w1", pools=("esxi",), slices=2)
        made.add_agent("erp", [disk], pool="esxi")
        target = {
            "storage": {"name": DATASTORE}, "points": points, "vm": {"cpus": 1, "memory": "256MiB"},
            "nic": [{"network": "VM Network"}],
        }  # fmt: skip
        job = made.add_job("erp", "erp", {"system": disk}, host_id, target=target, limits=limits)
        yield EsxiSite(host, made, disk, host_id, job)
