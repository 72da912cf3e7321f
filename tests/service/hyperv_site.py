"""A disk that a job keeps on a Hyper-V host: our stand-in of the host, its files on a real Samba."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootpoint_common.store.point import Point
from bootpoint_common.units import MiB
from bootpoint_ops import host as adding
from bootpoint_worker.targets.certificate import fetch_fingerprint
from tests.contract.driver_hyperv import NETWORK, STORAGE
from tests.hyperv.host import Host
from tests.hyperv.machine import Machine
from tests.hyperv.readers import by_dissect
from tests.service.component import need
from tests.service.fleet import fleet
from tests.service.site import STANDBY, Site, add_job


@dataclass(kw_only=True)
class HyperVSite(Site):
    """A disk that a job keeps on a Hyper-V host.

    Attributes:
        host: The host.
    """

    host: Host

    @property
    def standby(self) -> Machine:
        """The standby, as the host has it."""
        return self.host.machine(STANDBY)

    def flatten(self, point: Point, into: Path) -> None:
        """See `Site.flatten`: the checkpoint's own files, as dissect reads them."""
        [checkpoint] = [each for each in self.standby._snapshots if each.name == point.name]
        self._flatten(checkpoint.hard_drives[0].path, into)

    def read_standby(self, into: Path) -> None:
        """See `Site.read_standby`."""
        self._flatten(self.standby.hard_drives[0].path, into)

    def _flatten(self, path: str, into: Path) -> None:
        size = self.disk.stat().st_size
        with into.open("wb") as file:
            file.truncate(size)
            for offset in range(0, size, MiB):
                piece = by_dissect(self.host.locate(path), offset, min(MiB, size - offset))
                if piece.strip(b"\0"):
                    file.seek(offset)
                    file.write(piece)


@contextmanager
def hyperv_site(
    database: str, directory: Path, disk: Path, *, points: int, limits: dict[str, Any] | None = None
) -> Iterator[HyperVSite]:
    """Make an installation with one worker, one Hyper-V host, and a job of one disk that hasn't run yet.

    Args:
        database: A migrated, empty database.
        directory: For all that it keeps.
        disk: The disk: a file.
        points: How many boot points the job keeps.
        limits: What the job file says under ``[limits]``.
    """
    need("root", "samba", "qemu-img", "nbdkit")
    with Host(directory / "hyperv", tls=True) as host, fleet(database, directory / "fleet") as made:
        new = adding.NewHost(
            name="hv1", kind="hyperv", address=host.address, port=host.winrm.port, user=host.username,
            fingerprint=fetch_fingerprint(host.address, host.winrm.port), secrets={"password": host.password},
            settings={"winrm": "tls", "smb_port": host.samba.port},
        )  # fmt: skip
        target = {"storage": {"name": STORAGE}, "points": points, "nic": [{"network": NETWORK}]}
        host_id, job = add_job(made, new, disk, target, limits)
        yield HyperVSite(made, disk, host_id, job, host=host)
