"""Disks with every file system: what a replica of their used blocks is worth, and when nothing may be left out."""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, SECTOR, GiB, MiB
from bootpoint_producer.snapshots import Consistency, SnapshotSet, Still, choose
from bootpoint_producer.sources import open_source
from bootpoint_producer.usedblocks import LeftOut, UsedBlocks, left_out, partclone
from bootpoint_producer.usedblocks.free import without
from bootpoint_producer.usedblocks.loop import loop_device
from tests.integration.source.loop import Mount, run
from tests.integration.source.partition import (
    DISK,
    SIZE,
    START,
    SWAP_SIZE,
    SWAP_START,
    PartitionedDisk,
    digests,
    mounted,
    opened,
    partition,
)
from tests.integration.source.replica import SKIP, require_every_file, used_blocks
from tests.service.component import need
from tests.service.feeding import FedReplica
from tests.service.process import wait_for

#: The others are in tests/long.
QUICK = ("ext4", "xfs", "btrfs")


@pytest.fixture(autouse=True)
def programs() -> None:
    need("partclone", "file-systems")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is enough: disks of hundreds of MiB are written and read again and again."""
    roomy = shutil.disk_usage("/dev/shm").free >= 2 * GiB  # a container has 64 MiB
    with tempfile.TemporaryDirectory(dir="/dev/shm" if roomy else None, prefix="bootpoint-") as folder:
        yield Path(folder)


def look(path: Path) -> LeftOut:
    source = open_source(path)
    try:
        return left_out(str(path), source, SKIP)
    finally:
        source.close()


def take(path: Path, kind: str) -> SnapshotSet:
    return choose({"system": path}, kind).snapshot.take({"system": path})


def grains(extents: tuple[Extent, ...]) -> set[int]:
    return {grain for each in extents for grain in range(each.offset // GRAIN, each.end // GRAIN)}


@pytest.mark.parametrize("fs", QUICK)
def test_a_replica_of_the_used_blocks_has_every_file(fs: str, memory: Path, rng: random.Random) -> None:
    require_every_file(fs, memory, rng)


def test_everything_but_what_is_free_equals_the_source(memory: Path, rng: random.Random) -> None:
    disk = PartitionedDisk("ext4", memory / "disk.raw")
    disk.build()
    disk.change(rng)
    found = look(disk.image)
    FedReplica(disk.image, memory / "replica.raw").run(used_blocks(disk.image))
    with disk.image.open("rb") as there, (memory / "replica.raw").open("rb") as here:
        for extent in without([Extent(0, DISK)], found.extents):
            there.seek(extent.offset)
            here.seek(extent.offset)
            assert here.read(extent.length) == there.read(extent.length)
    gaps = [(0, START + MiB), (START + SIZE - MiB, SWAP_START + 4096), (SWAP_START + SWAP_SIZE, DISK)]
    for start, end in gaps:
        assert not [each for each in found.extents if each.offset < end and start < each.end]


def test_the_backups_of_an_ext4_superblock_and_its_tables_are_used(memory: Path) -> None:
    image = memory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(1 * GiB)
    run("mkfs.ext4", "-q", "-F", image)
    found = grains(look(image).extents)
    backups = [
        int(line.split("Backup superblock at ")[1].split(",")[0])
        for line in run("dumpe2fs", image).splitlines()
        if "Backup superblock at" in line
    ]
    assert len(backups) >= 4
    assert len(found) * GRAIN > GiB * 3 // 4
    assert not found & {block * 4096 // GRAIN for block in backups}


def test_a_logical_partition_and_a_whole_disk_without_a_table(memory: Path) -> None:
    image = memory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(200 * MiB)
    table = "label: dos\nstart=2048, size=20480, type=83\nstart=40960, size=360448, type=5\nstart=43008, size=350000\n"
    subprocess.run(["sfdisk", "-q", image], input=table, text=True, check=True)
    with partition(image, 43008 * SECTOR, 350000 * SECTOR) as device:
        run("mkfs.ext4", "-q", "-F", device)
    found = look(image)
    assert min(each.offset for each in found.extents) >= 43008 * SECTOR + MiB
    assert found.size_bytes > 100 * MiB
    run("wipefs", "-q", "-a", image)
    for fs in (["mkfs.ext4", "-q", "-F"], ["mkfs.exfat"], ["mkfs.vfat", "-F", "32", "-I"]):
        run(*fs, image)
        assert look(image).size_bytes > 100 * MiB, fs


def crashed(fs: str, image: Path) -> None:
    """Leave a file system as a power cut would: mounted, written, and its log not replayed."""
    with mounted(fs, image) as point:
        (point / "f70").write_bytes(os.urandom(2 * MiB))
        descriptor = os.open(point / "f70", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        shutil.copyfile(image, image.with_suffix(".cut"))
    image.with_suffix(".cut").replace(image)


def dirty_bit(fs: str, image: Path) -> None:
    """Mark a volume as one that was not unmounted cleanly."""
    at, value = {"vfat": (37, b"\x01"), "exfat": (106, b"\x02")}[fs]
    with image.open("r+b") as file:
        file.seek(START + at)
        file.write(value)


def shorter(fs: str, image: Path) -> None:
    """Make the partition smaller than what is in it."""
    run("sfdisk", "-q", "--delete", image, "2")
    table = f"start={START // SECTOR}, size={(SIZE - 8 * MiB) // SECTOR}\n"
    subprocess.run(["sfdisk", "-q", "-N", "1", image], input=table, text=True, check=True)


def spoilt(fs: str, image: Path) -> None:
    """Overwrite the maps of free blocks of the first groups."""
    with image.open("r+b") as file:
        file.seek(START + 4096)
        file.write(os.urandom(MiB))


@pytest.mark.parametrize(
    ("fs", "harm", "reason"),
    [
        ("ext4", crashed, "journal was not replayed"),
        ("xfs", crashed, "log was not replayed"),
        ("btrfs", crashed, "log was not replayed"),
        ("vfat", dirty_bit, "not unmounted cleanly"),
        ("exfat", dirty_bit, "not unmounted cleanly"),
        ("ext4", shorter, "its place has"),
        ("ext4", spoilt, "partclone.extfs failed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_in_doubt_everything_is_read(fs: str, harm: Callable[[str, Path], None], reason: str, memory: Path) -> None:
    disk = PartitionedDisk(fs, memory / "disk.raw")
    disk.build()
    harm(fs, disk.image)
    found = look(disk.image)
    assert not [each for each in found.extents if each.offset < START + SIZE]
    assert reason in found.reasons[0]


def test_without_partclone_everything_is_read_and_the_reason_said(
    memory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = memory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(64 * MiB)
    run("mkfs.ext4", "-q", "-F", image)
    monkeypatch.setitem(partclone.PROGRAMS, "ext4", "partclone.absent")
    source = open_source(image)
    with caplog.at_level(logging.INFO):
        assert used_blocks(image).begin(source) == ()
    source.close()
    (record,) = [record for record in caplog.records if record.message == "used blocks"]
    assert "partclone.absent isn't installed (package partclone)" in record.__dict__["reasons"]


def test_swap_is_left_out_on_request_only(memory: Path) -> None:
    image = memory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(64 * MiB)
    run("mkswap", image)
    source = open_source(image)
    assert left_out(str(image), source).extents == ()
    assert left_out(str(image), source, ["swap"], still=()).extents == (Extent(GRAIN, 64 * MiB - GRAIN),)
    with image.open("r+b") as file:
        file.seek(4086)
        file.write(b"S1SUSPEND\x00")
    assert left_out(str(image), source, ["swap"]).extents == ()
    assert left_out(str(image), source, ["hibernation"]).extents == (Extent(GRAIN, 64 * MiB - GRAIN),)
    source.close()


def test_a_snapshot_has_its_own_map(mounted: Mount, memory: Path, rng: random.Random) -> None:
    """The disk goes on after the snapshot: what is free on it by then isn't free in the snapshot."""
    pool = mounted("xfs", "pool", size="1G")
    disk = PartitionedDisk("ext4", pool / "disk.raw")
    disk.build()
    disk.change(rng)
    with opened("ext4", disk.image) as folder:
        files = digests(folder)
    taken = take(disk.image, "reflink")
    try:
        with opened("ext4", disk.image) as folder:
            for path in folder.iterdir():
                if path.is_file():
                    path.unlink()
        assert look(disk.image).size_bytes > 0
        fed = FedReplica(Path(taken.path("system")), memory / "replica.raw")
        fed.run(used_blocks(Path(taken.path("system"))))
    finally:
        taken.release()
    with opened("ext4", fed.replica) as folder:
        assert digests(folder) == files
    disk.check(fed.replica)


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_a_frozen_file_system_is_settled(fs: str, mounted: Mount, memory: Path) -> None:
    pool = mounted("xfs", "pool", size="1G")
    disk = PartitionedDisk(fs, pool / "disk.raw")
    disk.build()
    with opened(fs, disk.image) as folder:
        (folder / "f1").write_bytes(os.urandom(20 * MiB))
        files = digests(folder)
        taken = take(disk.image, "auto")
        (folder / "f2").write_bytes(os.urandom(20 * MiB))
    assert taken.consistency is Consistency.FS
    fed = FedReplica(Path(taken.path("system")), memory / "replica.raw")
    outcome = fed.run(used_blocks(Path(taken.path("system"))))
    taken.release()
    assert len(outcome.skipped) * GRAIN > 100 * MiB
    with opened(fs, fed.replica) as folder:
        assert digests(folder) == files


def test_nothing_but_swap_is_left_out_where_somebody_may_write(memory: Path, rng: random.Random) -> None:
    disk = PartitionedDisk("ext4", memory / "disk.raw")
    disk.build()
    disk.change(rng)
    taken = take(disk.image, "none")

    def still() -> bool:
        return taken.confirm() is Consistency.FS

    def choice() -> UsedBlocks:
        return UsedBlocks(slot="system", path=taken.path("system"), still=taken.still("system"), skip=SKIP, quiet=still)

    source = open_source(disk.image)
    quiet, fed = choice(), FedReplica(disk.image, memory / "replica.raw")
    chosen = quiet.begin(source)
    assert sum(each.length for each in chosen) > 80 * MiB
    assert quiet.end(source) == chosen
    swap = [each for each in chosen if each.offset >= SWAP_START]
    # Written to while it is read: the block that was free is seen after all, swap is as good as before.
    with disk.image.open("r+b") as file:
        file.seek(chosen[0].offset)
        file.write(b"a file that came meanwhile")
    outcome = fed.run(quiet)
    assert sum(each.length for each in swap) == len(outcome.skipped) * GRAIN
    assert fed.replica.read_bytes()[:SWAP_START] == disk.image.read_bytes()[:SWAP_START]
    assert list(choice().begin(source)) == swap
    source.close()


def test_a_loop_device_goes_with_whoever_made_it(memory: Path) -> None:
    image = memory / "disk.raw"
    image.write_bytes(os.urandom(4 * MiB))

    def gone() -> bool:  # not at once where another program looks at the new device
        return str(image) not in run("losetup", "--list", "--output", "BACK-FILE")

    with loop_device(str(image), 3 * SECTOR, MiB) as device:
        assert Path(device).read_bytes() == image.read_bytes()[3 * SECTOR : 3 * SECTOR + MiB]
        assert run("blockdev", "--getro", device) == "1"
    wait_for(gone, "the loop device to go")
    script = (
        "import os, signal; from bootpoint_producer.usedblocks.loop import loop_device\n"
        f"with loop_device({str(image)!r}, 0, 4096):\n  os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -9
    wait_for(gone, "the loop device to go")


def test_the_map_is_read_where_the_snapshot_shows_the_file_system(memory: Path, rng: random.Random) -> None:
    """A disk that is put together of its own tables and of a snapshot of what lies on it."""
    disk = PartitionedDisk("ext4", memory / "disk.raw")
    disk.build()
    disk.change(rng)
    with opened("ext4", disk.image) as folder:
        files = digests(folder)
    snapshot = memory / "snapshot"
    content = disk.image.read_bytes()
    snapshot.write_bytes(bytes(4096) + content[START : START + SIZE])
    with opened("ext4", disk.image) as folder:  # goes on
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()
    picture = memory / "picture.raw"
    picture.write_bytes(content)
    source = open_source(picture)
    still = [
        Still(START, SIZE // 2, str(snapshot), 4096),
        Still(START + SIZE // 2, SIZE // 2, str(snapshot), 4096 + SIZE // 2),
    ]
    found = left_out(str(disk.image), source, still=still)
    assert found.size_bytes > 70 * MiB
    for elsewhere in (still[:1], [still[0], Still(START + SIZE // 2, SIZE // 2, str(snapshot), 0)], []):
        assert left_out(str(disk.image), source, still=elsewhere).extents == ()
    source.close()
    with picture.open("r+b") as file:
        for extent in found.extents:
            file.seek(extent.offset)
            file.write(bytes(extent.length))
    with opened("ext4", picture) as folder:
        assert digests(folder) == files
    disk.check(picture)


def test_a_file_system_in_a_logical_volume(memory: Path) -> None:
    """LVM itself makes the volumes; nothing activates them, for this kernel may lack the device mapper."""
    need("lvm")
    image, group = memory / "disk.raw", f"bp{os.getpid()}"
    with image.open("wb") as file:
        file.truncate(300 * MiB)
    subprocess.run(["sfdisk", "-q", image], input="label: gpt\nstart=2048, type=lvm\n", text=True, check=True)
    start, size = MiB, 298 * MiB
    with partition(image, start, size) as device:
        own = ["--driverloaded", "n", "--devices", str(device)]
        run("pvcreate", *own, device)
        run("vgcreate", *own, group, device)
        for name in ("root", "torn", "between"):
            run("lvcreate", *own, "-an", "-Zn", "-Wn", "-L", "80M", "-n", name, group)
        run("lvextend", *own, "-L", "100M", f"{group}/torn")
    places = {"root": start + MiB, "torn": start + 81 * MiB, "between": start + 161 * MiB}
    for place in places.values():
        with partition(image, place, 80 * MiB) as device:
            run("mkfs.ext4", "-q", "-F", device)
    found = look(image)
    for name, place in places.items():
        within = [each for each in found.extents if place <= each.offset and each.end <= place + 80 * MiB]
        assert bool(within) is (name != "torn"), found.reasons
    assert found.size_bytes > 100 * MiB
    assert min(each.offset for each in found.extents) >= places["root"] + MiB


def test_a_loop_device_needs_no_node_of_its_own(tmp_path: Path) -> None:
    """A container has the nodes that were there when it began."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(MiB))
    code = (
        "import pathlib; from bootpoint_producer.usedblocks.loop import loop_device\n"
        f"with loop_device({str(image)!r}, 4096, 8192) as device:\n"
        f"  assert pathlib.Path(device).read_bytes() == pathlib.Path({str(image)!r}).read_bytes()[4096:12288]\n"
    )
    bare = 'mount -t tmpfs none "$1" && mknod "$1/loop-control" c 10 237 && mount --bind "$1" /dev && exec "$2" -c "$3"'
    (tmp_path / "dev").mkdir()
    run("unshare", "--mount", "sh", "-c", bare, "bare", tmp_path / "dev", sys.executable, code)
