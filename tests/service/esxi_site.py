"""A disk that a job keeps on an ESXi host: our stand-in of the host, and the real vddk plugin."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootpoint_common.units import GiB
from bootpoint_ops import host as adding
from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING, PLUGIN_SETTING
from tests.esxi import chain
from tests.esxi.client import connect as log_in
from tests.esxi.client import leaves
from tests.esxi.server import ADDRESS, Esxi
from tests.esxi.world import ROOT
from tests.service.component import need
from tests.service.fleet import fleet
from tests.service.process import wait_for
from tests.service.site import STANDBY, Site, add_job
from tests.service.vddk import vddk

#: The only datastore.
DATASTORE = "datastore1"


@dataclass(kw_only=True)
class EsxiSite(Site):
    """A disk that a job keeps on an ESXi host.

    Attributes:
        host: The host.
    """

    host: Esxi

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
            [vm] = [each for each in client.datacenter.vmFolder.childEntity if each.name == STANDBY]
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
        target = {"storage": {"name": DATASTORE}, "points": points, "nic": [{"network": "VM Network"}]}
        host_id, job = add_job(made, new, disk, target, limits)
        yield EsxiSite(made, disk, host_id, job, host=host)
