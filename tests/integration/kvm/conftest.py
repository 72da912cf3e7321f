"""A replica on a private KVM host, reached locally or over SSH."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.identity import new_id
from bootpoint_common.units import MiB
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.kvm import KvmTarget
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Replica, ReplicaDisk
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.sshd import SshServer

SIZE = 4 * MiB

START = datetime(2026, 12, 3, 10, 0, tzinfo=UTC)


@dataclass
class Bench:
    """A replica with two disks, and a short way to make points of it.

    Attributes:
        access: How the host is reached.
        replica: The replica.
        host: The libvirt behind it.
        step: Called at each step of the driver; a test puts something here that dies.
    """

    access: HostAccess
    replica: Replica
    host: LibvirtHost
    step: Callable[[str], None] = lambda _name: None
    sequence: int = 0
    targets: list[KvmTarget] = field(default_factory=list)

    def connect(self, **changes: Any) -> KvmTarget:
        target = KvmTarget(access=replace(self.access, **changes), step=self._step)
        self.targets.append(target)
        return target

    def _step(self, name: str) -> None:
        self.step(name)  # looked up now: a test may have changed it since

    @property
    def directory(self) -> Path:
        return Path(self.replica.storage) / self.replica.vm_name

    def opening(self, base: JournalPoint | None) -> OpenPoint:
        disks = tuple(OpenDisk(disk.slot, new_id(), disk.size_bytes) for disk in self.replica.disks)
        return OpenPoint(new_id(), base.point_id if base else None, 1, disks)

    def sealing(self, layers: tuple[Layer, ...]) -> CommitPoint:
        self.sequence += 1
        instant = START + timedelta(minutes=self.sequence)
        return CommitPoint(
            point_id=layers[0].point_id,
            name=f"V{instant:%Y%m%d_%H%M%S}",
            sequence=self.sequence,
            instant=instant,
            kind="increment",
            consistency="fs",
            epoch=1,
            layers=layers,
            roots={layer.slot: f"{self.sequence:064x}" for layer in layers},
        )

    def filled(self, target: KvmTarget, base: JournalPoint | None, data: bytes) -> CommitPoint:
        """Open a point, write the data at the start of each disk, and return what commits it."""
        layers = target.open(self.replica, self.opening(base))
        for layer in layers:
            with closing(target.open_writer(self.replica, layer, 1)) as writer:
                writer.write(0, data)
                writer.flush()
        return self.sealing(layers)

    def point(self, target: KvmTarget, base: JournalPoint | None, data: bytes) -> JournalPoint:
        return target.commit(self.replica, self.filled(target, base, data))

    def start_of(self, target: KvmTarget, point: JournalPoint, length: int) -> list[bytes]:
        """Return the first bytes of each disk of a point."""
        found = []
        for disk in self.replica.disks:
            with closing(target.open_reader(self.replica, point.point_id, disk.slot)) as reader:
                found.append(reader.read(0, length))
        return found


@pytest.fixture
def bench(libvirt_host: LibvirtHost, storage_directory: Path) -> Iterator[Bench]:
    """A replica on this machine."""
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-img", "qemu-nbd")
    name = f"erp-{new_id().hex[-12:]}"
    replica = Replica(
        replica_id=new_id(),
        job="erp-db",
        vm_name=name,
        storage=str(storage_directory),
        folder="",
        cpus=1,
        memory_bytes=64 * MiB,
        firmware="bios",
        disks=(ReplicaDisk("system", SIZE, f"{name}-system"), ReplicaDisk("data", SIZE, f"{name}-data", "scsi")),
    )
    settings = {"virt_type": "qemu", "libvirt_socket": str(libvirt_host.socket)}
    access = HostAccess(name="kvm1", kind="kvm", address="local", port=22, user="root", settings=settings)
    made = Bench(access, replica, libvirt_host)
    yield made
    made.step = lambda _name: None
    target = made.connect(address="local")
    target.stop(replica, None)
    target.remove(replica)
    for connected in made.targets:
        connected.close()


@pytest.fixture
def small(bench: Bench, tmp_path: Path) -> Iterator[Bench]:
    """The replica on a file system of 128 MiB."""
    need("loop")
    image, mount = tmp_path / "small.img", Path(bench.replica.storage) / "small"
    mount.mkdir()
    image.touch()
    os.truncate(image, 128 * MiB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    mount.chmod(0o711)
    here, bench.replica = bench.replica, replace(bench.replica, storage=str(mount))
    try:
        yield bench
    finally:
        with closing(bench.connect()) as target:
            target.remove(bench.replica)
        bench.replica = here
        subprocess.run(["umount", mount], check=True)


def fill(bench: Bench, *, left: int) -> Path:
    """Fill the storage of a replica but for some bytes, and return the file to remove for it."""
    ballast = Path(bench.replica.storage) / "ballast"
    room = os.statvfs(bench.replica.storage)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left)
    return ballast


@pytest.fixture
def ssh(bench: Bench, sshd_server: SshServer) -> Bench:
    """The same, over SSH with a key."""
    bench.access = replace(
        bench.access,
        address=sshd_server.address,
        port=sshd_server.port,
        user=sshd_server.user,
        ssh_key=sshd_server.user_key,
        fingerprint=sshd_server.fingerprint,
    )
    return bench
