"""Disks that are not what they were, and hosts that can't take a point: each is named, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from bootpoint_common.store.database import Row
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.host import encrypt_credentials
from bootpoint_common.units import GRAIN, MiB
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.process import free_port
from tests.service.standby import POOL, Protected, add_kvm_host

SIZE = 24 * MiB

#: Somebody else's VM, and a storage pool.
FOREIGN = "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
STORAGE_POOL = "<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"


@dataclass
class Bench:
    """An installation with a KVM host, and one disk that is protected."""

    fleet: Fleet
    libvirt: LibvirtHost
    host_id: UUID
    storage: Path
    directory: Path
    rng: Random

    @property
    def mark(self) -> Path:
        """What the script before the snapshot leaves behind."""
        return self.directory / "touched"

    def protect(self, disk: Path, storage: str | None = None, script: Sequence[str] = ()) -> Protected:
        scripts = {"before_snapshot": {"run": [*script] or ["/usr/bin/touch", str(self.mark)]}}
        place = Path(storage) if storage else self.storage
        name = f"erp-{self.rng.getrandbits(32):08x}"
        return Protected(
            self.fleet, name, {"system": disk}, self.host_id, place, self.directory / "copies", scripts
        )

    def fill(self, disk: Path, grains: int = 100) -> None:
        with disk.open("r+b") as stream:
            for grain in self.rng.sample(range(SIZE // GRAIN), grains):
                stream.seek(grain * GRAIN)
                stream.write(self.rng.randbytes(GRAIN))

    def disk(self) -> Path:
        path = self.directory / "system.raw"
        with path.open("wb") as stream:
            stream.truncate(SIZE)
        self.fill(path, 200)
        return path


@pytest.fixture
def bench(
    database: str, libvirt_host: LibvirtHost, storage_directory: Path, tmp_path: Path, rng: Random
) -> Iterator[Bench]:
    need("root", "loop", "libnbd", "qemu-img", "qemu-nbd")
    with fleet(database, tmp_path) as installation:
        installation.add_worker("w1", pools=(POOL,))
        host_id = add_kvm_host(installation, libvirt_host)
        made = Bench(installation, libvirt_host, host_id, storage_directory, tmp_path, rng)
        yield made


def failure(bench: Bench, protected: Protected) -> Row:
    """Do a run that fails, and return it; the points before it stay."""
    before = bench.fleet.points(protected.job)
    run = protected.begin()
    row = bench.fleet.wait(run, state="failed")
    del protected.copies[run.uid]
    assert bench.fleet.points(protected.job) == before
    return row


# --- the source -----------------------------------------------------------------------------------------------------


def test_a_disk_that_is_missing_is_named_and_the_head_stays(bench: Bench) -> None:
    disk = bench.disk()
    protected = bench.protect(disk)
    protected.protect()
    away = disk.rename(bench.directory / "away")
    bench.mark.unlink()
    run = bench.fleet.run(protected.job)
    row = bench.fleet.wait(run, state="failed")
    assert row["reason"] == "disk_missing"
    assert str(disk) in row["message"]
    assert not bench.mark.exists()
    away.rename(disk)
    bench.fill(disk)
    protected.protect()
    assert protected.check() == 2
    protected.remove()


def test_a_disk_that_shrank_is_another_disk(bench: Bench) -> None:
    disk = bench.disk()
    protected = bench.protect(disk)
    protected.protect()
    os.truncate(disk, SIZE - MiB)
    row = failure(bench, protected)
    assert row["reason"] == "disk_changed"
    os.truncate(disk, SIZE)
    protected.protect()
    assert protected.check() == 2
    protected.remove()


def test_a_disk_that_grew_goes_on_in_a_larger_layer(bench: Bench) -> None:
    disk = bench.disk()
    protected = bench.protect(disk)
    protected.protect()
    larger = SIZE + 3 * MiB + 512
    os.truncate(disk, larger)
    with disk.open("r+b") as stream:
        stream.seek(larger - 512)
        stream.write(bench.rng.randbytes(512))
    second = protected.protect()
    assert protected.check() == 2
    sizes = []
    for _, _, layer in protected.committed():
        said = subprocess.run(["qemu-img", "info", "--output=json", str(layer)], check=True, capture_output=True)
        sizes.append(json.loads(said.stdout)["virtual-size"])
    assert sizes == [SIZE, larger]
    (told,) = bench.fleet.rows("SELECT text, details FROM event WHERE kind = 'disk_grew'")
    assert told["details"] == {"disk": "system", "size_bytes": larger, "before_bytes": SIZE}
    assert "older points keep the smaller disk" in told["text"]
    assert protected.wire_bytes(second) < 3 * GRAIN
    protected.remove()


@contextmanager
def loop(file: Path) -> Iterator[Path]:
    done = subprocess.run(["losetup", "--find", "--show", str(file)], check=True, capture_output=True, text=True)
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_a_disk_that_can_not_be_read_in_its_midst_ends_the_run_and_the_next_one_succeeds(bench: Bench) -> None:
    file = bench.disk()
    with loop(file) as device:
        protected = bench.protect(device)
        protected.protect()
        bench.fill(device)
        subprocess.run(["blockdev", "--flushbufs", str(device)], check=True)
        # What lies beyond the end of the file, the device can't read any more: EIO.
        content = file.read_bytes()
        run = protected.begin()
        os.truncate(file, SIZE // 2)
        row = bench.fleet.wait(run, state="failed")
        del protected.copies[run.uid]
        assert row["reason"] == "disk_read_error"
        assert "at byte" in row["message"]
        assert len(bench.fleet.points(protected.job)) == 1
        file.write_bytes(content)
        protected.protect()
        assert protected.check() == 2
        protected.remove()


# --- the host -------------------------------------------------------------------------------------------------------


#: Undoes a fault.
Mend = Callable[[], object]


def set_host(bench: Bench, **values: Any) -> None:
    """Change columns of the host's row."""
    columns = ", ".join(f"{name} = %s" for name in values)
    with bench.fleet.database.transaction() as connection:
        execute(connection, f"UPDATE host SET {columns} WHERE id = %s", *values.values(), bench.host_id)


def unreachable(bench: Bench, name: str) -> Mend:
    saved = encrypt_credentials(bench.fleet.vault, bench.host_id, {"password": "secret"})
    fingerprint = "SHA256:" + "A" * 43
    set_host(bench, address="127.0.0.1", port=free_port(), credentials=saved, fingerprint=fingerprint)
    return lambda: set_host(bench, address="local")


def no_libvirt(bench: Bench, name: str) -> Mend:
    settings = {"virt_type": "qemu", "libvirt_socket": str(bench.libvirt.socket)}
    set_host(bench, settings=Jsonb({**settings, "libvirt_socket": str(bench.directory / "no-such-socket")}))
    return lambda: set_host(bench, settings=Jsonb(settings))


def name_taken(bench: Bench, name: str) -> Mend:
    file = bench.directory / "foreign.xml"
    file.write_text(FOREIGN.format(name=name))
    bench.libvirt.virsh("define", str(file))
    return lambda: bench.libvirt.virsh("undefine", name)


def no_storage(bench: Bench, name: str) -> Mend:
    away = bench.storage.rename(f"{bench.storage}-away")
    return lambda: away.rename(bench.storage)


HOST_FAULTS = {
    "host_unreachable": (unreachable, "host_unreachable"),
    "libvirt_absent": (no_libvirt, "host_unreachable"),
    "vm_name_taken": (name_taken, "vm_name_taken"),
    "storage_unknown": (no_storage, "storage_unknown"),
}


@pytest.mark.parametrize("fault", HOST_FAULTS)
def test_a_host_that_can_not_take_a_point_is_said_before_the_source_is_touched(bench: Bench, fault: str) -> None:
    protected = bench.protect(bench.disk())
    hurt, code = HOST_FAULTS[fault]
    mend = hurt(bench, f"{protected.name}-standby")
    try:
        row = failure(bench, protected)
    finally:
        mend()
    assert row["reason"] == code
    assert "kvm1" in row["message"]
    untouched(bench)
    protected.protect()
    assert bench.mark.exists()
    assert protected.check() == 1
    protected.remove()


def untouched(bench: Bench) -> None:
    """No script ran, no snapshot was taken, and no point was offered."""
    assert not bench.mark.exists()
    assert bench.fleet.row("SELECT 1 FROM boot_point") is None
    assert bench.fleet.rows("SELECT snapshot, started_at FROM run") == [{"snapshot": None, "started_at": None}]


@contextmanager
def small(place: Path, size: int) -> Iterator[Path]:
    """Mount a file system of a size."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def pool(bench: Bench) -> Iterator[None]:
    """Make the storage a pool of libvirt's."""
    definition = bench.directory / "pool.xml"
    definition.write_text(STORAGE_POOL.format(name=bench.storage.name, path=bench.storage))
    bench.libvirt.virsh("pool-define", str(definition))
    bench.libvirt.virsh("pool-start", bench.storage.name)
    try:
        yield
    finally:
        bench.libvirt.virsh("pool-destroy", bench.storage.name)
        bench.libvirt.virsh("pool-undefine", bench.storage.name)


@pytest.mark.parametrize("kind", [pool, nullcontext], ids=["pool", "directory"])
def test_a_storage_without_room_is_said_before_the_source_is_touched(
    bench: Bench, kind: Callable[[Bench], AbstractContextManager[object]]
) -> None:
    with small(bench.storage, SIZE // 2), kind(bench):
        protected = bench.protect(bench.disk())
        bench.fleet.wait_until(lambda: bench.fleet.row("SELECT 1 FROM agent WHERE inventory IS NOT NULL"))
        row = failure(bench, protected)
        assert row["reason"] == "host_full"
        untouched(bench)
        subprocess.run(["mount", "-o", f"remount,size={4 * SIZE}", str(bench.storage)], check=True)
        protected.protect()
        assert protected.check() == 1
        protected.remove()


def test_a_storage_that_fills_up_in_the_midst_ends_the_run_and_the_head_stays(bench: Bench) -> None:
    spare, filler = bench.directory / "spare", bench.storage / "filler"
    # By the script, because the preflight before it would have seen it.
    fill_up = ("/bin/sh", "-c", '[ ! -e "$0" ] || cp "$0" "$1"', str(spare), str(filler))
    with small(bench.storage, 6 * SIZE):
        disk = bench.disk()
        protected = bench.protect(disk, script=fill_up)
        protected.protect()
        free = os.statvfs(bench.storage)
        spare.write_bytes(bytes(free.f_bavail * free.f_frsize - 3 * MiB))
        bench.fill(disk, 200)
        row = failure(bench, protected)
        assert row["reason"] == "host_full"
        assert bench.fleet.row("SELECT 1 FROM boot_point WHERE state = 'aborted'") is not None
        spare.unlink()
        filler.unlink()
        protected.protect()
        assert protected.check() == 2
        protected.remove()
