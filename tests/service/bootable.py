"""A bootable disk that a job protects, and boot checks of its points, with real QEMU."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from bootpoint_common.store import point
from bootpoint_common.store import trial as trials
from bootpoint_ops import guest_disk, trial
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.process import wait_for
from tests.service.standby import POOL, Protected, add_kvm_host

#: Seconds within which a check ends: its own limit, and some to start and end the VM on a loaded machine.
PATIENCE = 750.0


@dataclass
class Bootable:
    """A protected machine of the demo's kind.

    Attributes:
        fleet: The installation.
        protected: Its job and what every point of it has to be.
        disk: Its disk.
        pristine: The disk as it was built.
        libvirt: The host.
    """

    fleet: Fleet
    protected: Protected
    disk: Path
    pristine: Path
    libvirt: LibvirtHost

    def point(self, change: Callable[[Path], None]) -> UUID:
        """Make a point of the disk as it was built, with a change."""
        again = self.disk.with_suffix(".new")
        shutil.copyfile(self.pristine, again)
        change(again)
        with again.open("rb") as source, self.disk.open("r+b") as file:
            shutil.copyfileobj(source, file, 1 << 20)  # the file stays the same one: its agent knows it
        again.unlink()
        self.protected.protect()
        return self.fleet.points(self.protected.job)[-1].id

    def begin(self, point_id: UUID, kind: trials.Kind = "check", seconds: float = 3600.0) -> UUID:
        """Ask for a boot check, or for a test."""
        with self.fleet.database.transaction() as connection:
            found = point.get(connection, point_id)
            assert found is not None
            return trials.create(connection, found, kind, requested_by="test", seconds=seconds).id

    def item(self, uid: UUID) -> dict[str, Any]:
        """Return a test VM as ``switch list`` does."""
        with self.fleet.database.transaction() as connection:
            return trial.by_id(connection, uid)

    def end_of(self, uid: UUID) -> dict[str, Any]:
        """Wait until nothing is left of a test VM."""
        wait_for(lambda: self.item(uid)["state"] == "ended", "the end of a test VM", PATIENCE)
        return self.item(uid)

    def stop(self, uid: UUID) -> None:
        """End a test VM."""
        with self.fleet.database.transaction() as connection:
            trial.stop(connection, self.item(uid)["id"], actor="test")
        self.end_of(uid)

    def machines(self) -> list[str]:
        """Return the names of all VMs of the host."""
        return self.libvirt.virsh("list", "--all", "--name").split()


@contextmanager
def bootable(database_url: str, directory: Path, libvirt: LibvirtHost, storage: Path) -> Iterator[Bootable]:
    """Make an installation with one worker and one machine that can boot; the first point isn't made yet."""
    disk, pristine = directory / "system.raw", directory / "pristine.raw"
    guest_disk.build(pristine, marker="generation-0", size_bytes=guest_disk.SMALLEST)
    shutil.copyfile(pristine, disk)
    with fleet(database_url, directory) as made:
        made.add_worker("w1", pools=(POOL,), slices=4)
        host_id = add_kvm_host(made, libvirt)
        protected = Protected(made, "erp", {"system": disk}, host_id, storage, directory / "copies", memory="256MiB")
        try:
            yield Bootable(made, protected, disk, pristine, libvirt)
        finally:
            protected.remove()
