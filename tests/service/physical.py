"""A machine's disk as the first point of a replica on the KVM host of this machine, without agent and broker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
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
from bootpoint_worker.targets.layer import CommitPoint, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Addressing, Nic, Replica, ReplicaDisk
from tests.service import guest
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.process import wait_for
from tests.service.sshd import SshServer

START = datetime(2026, 12, 3, 10, 0, tzinfo=UTC)


@dataclass
class Physical:
    """A replica of a machine.

    Attributes:
        host: The libvirt of its host.
        storage: Where its replica lies.
        replica: The replica, of one disk for each path.
        addressing: Mode of its card's addressing.
        ssh: The way to the host; None: it is this machine.
        step: Called at each step of the driver.
    """

    host: LibvirtHost
    storage: Path
    disks: Sequence[Path]
    firmware: str = "bios"
    bus: str = "virtio"
    settings: dict[str, Any] = field(default_factory=dict)
    addressing: str = "source"
    ssh: SshServer | None = None
    step: Callable[[str], None] = lambda _name: None
    replica: Replica = field(init=False)
    target: KvmTarget = field(init=False)
    points: list[JournalPoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = f"erp-{new_id().hex[-12:]}"
        addressing = Addressing(self.addressing, guest.CARD, guest.OLD_MAC, ("10.1.0.21/24",), "10.1.0.1")
        self.replica = Replica(
            replica_id=new_id(),
            job="erp-db",
            vm_name=name,
            storage=str(self.storage),
            folder="",
            cpus=2,
            memory_bytes=512 * MiB,
            firmware=self.firmware,
            disks=tuple(
                ReplicaDisk(f"disk{number}", path.stat().st_size, f"{name}-disk{number}", self.bus)
                for number, path in enumerate(self.disks)
            ),
            nics=(Nic(None, "virtio", "52:54:00:00:00:21", addressing=addressing),),
        )
        self.target = self.connect()
        self.target.create(self.replica)
        self.protect(self.disks)

    def connect(self) -> KvmTarget:
        settings = {"virt_type": "qemu", "libvirt_socket": str(self.host.socket), **self.settings}
        access = HostAccess(name="kvm1", kind="kvm", address="local", port=22, user="root", settings=settings)
        if self.ssh is not None:
            access = replace(
                access,
                address=self.ssh.address,
                port=self.ssh.port,
                user=self.ssh.user,
                ssh_key=self.ssh.user_key,
                fingerprint=self.ssh.fingerprint,
            )
        return KvmTarget(access=access, step=self._step)

    def _step(self, name: str) -> None:
        self.step(name)  # looked up now: a test may have changed it since

    @property
    def directory(self) -> Path:
        return self.storage / self.replica.vm_name

    @property
    def log(self) -> Path:
        """Where a VM's serial port goes."""
        return self.storage / f"{self.replica.vm_name}.log"

    def protect(self, disks: Sequence[Path]) -> JournalPoint:
        """Make a point of raw disks."""
        base = self.points[-1].point_id if self.points else None
        opened = OpenPoint(
            new_id(), base, 1, tuple(OpenDisk(disk.slot, new_id(), disk.size_bytes) for disk in self.replica.disks)
        )
        layers = self.target.open(self.replica, opened)
        for layer, path in zip(layers, disks, strict=True):
            with closing(self.target.open_writer(self.replica, layer, 1)) as writer, path.open("rb") as source:
                offset = 0
                while data := source.read(MiB):
                    if data.count(0) != len(data):
                        writer.write(offset, data)
                    offset += len(data)
                writer.flush()
        number = len(self.points) + 1
        instant = START + timedelta(minutes=number)
        point = self.target.commit(
            self.replica,
            CommitPoint(
                opened.point_id, f"V{instant:%Y%m%d_%H%M%S}", number, instant, "full", "crash", 1, layers,
                {layer.slot: f"{number:064x}" for layer in layers},
            ),
        )  # fmt: skip
        self.points.append(point)
        return point

    def digests(self) -> list[str]:
        """Return a digest of each file of a point."""
        found = []
        for disk in self.points[-1].disks:
            with (self.directory / disk.identity).open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
        return found

    def leftovers(self) -> list[str]:
        """Return what is left of conversions: files, and processes."""
        files = [str(path) for path in self.directory.rglob("*convert*")]
        return files + [line for line in commands() if f"{self.directory}/run/convert-" in line] + stuck()

    def close(self) -> None:
        self.step = lambda _name: None
        self.target.stop(self.replica, None)
        self.target.remove(self.replica)
        self.target.close()


def stuck() -> list[str]:
    """Return exports of disks that don't end, because the kernel waits for what they would have to write themselves."""

    def found() -> list[str]:
        exports = [text for text in thread_states() if "(qemu-storage-da" in text]
        return [text.split()[0] for text in exports if text.rpartition(")")[2].split()[0] == "D"]

    # A thread that waits for a disk is in this state too, for a moment.
    once = found()
    if once:
        with suppress(TimeoutError):
            wait_for(lambda: not set(once) & set(found()), "exports to end", 10.0)
    return sorted(set(once) & set(found()))


def thread_states() -> list[str]:
    """Return the line of proc(5)'s ``stat`` for each thread of each process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the process has ended
            for thread in (process / "task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):
                    found.append((thread / "stat").read_text())
    return found


def commands() -> list[str]:
    """Return the command lines of all processes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


Make = Callable[..., Physical]


@pytest.fixture
def make(libvirt_host: LibvirtHost, storage_directory: Path) -> Iterator[Make]:
    """Makes replicas of machines, each with one point."""
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-nbd", "mmdebstrap", "grub", "bwrap", "fuse")
    made: list[Physical] = []

    def physical(*disks: Path, **values: object) -> Physical:
        made.append(Physical(libvirt_host, storage_directory, disks, **values))  # type: ignore[arg-type]
        return made[-1]

    yield physical
    for each in made:
        each.close()
