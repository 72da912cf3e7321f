"""LVM thick and thin, md, and LVM on md, as sources of an agent: in use while it reads them, with every tracker."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bootpoint_common.errors import Code
from bootpoint_common.units import MiB
from bootpoint_producer.snapshots import SnapshotSet, choose
from bootpoint_producer.sources import open_source
from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
from bootpoint_producer.trackers.provider import Provider
from bootpoint_producer.trackers.thin import ThinProvider
from tests.guest.machine import refused, sh, write_at_random, writer
from tests.guest.rounds import AtInstant, Outcome, Rounds

#: The sources: a thick volume, a thin one, a mirror, and a volume on a stripe set. The mirror keeps no snapshot.
DISKS = {
    "thick": Path("/dev/thick/data"),
    "thin": Path("/dev/slim/data"),
    "mirror": Path("/dev/md1"),
    "striped": Path("/dev/stripes/data"),
}

#: What holds each of them.
KINDS = {"thick": "lvm", "thin": "lvm-thin", "mirror": "fsfreeze", "striped": "lvm"}

#: Seconds that file systems may stay frozen: an emulated processor makes a snapshot in seconds, not in milliseconds.
FREEZE = 90.0


def make() -> None:
    """Build everything on vdb to vdg, 160 MiB each, with file systems that are mounted."""
    sh("pvcreate -qq /dev/vdb /dev/vdc && vgcreate -qq thick /dev/vdb && vgcreate -qq slim /dev/vdc")
    sh("lvcreate -qq -y -L 32m -n data thick")
    sh("lvcreate -qq -y -Zn -c 64k -L 100m --poolmetadatasize 4m -T slim/pool")
    sh("lvcreate -qq -y -V 32m -T slim/pool -n data")
    create = "mdadm --create --quiet --run --metadata=1.2 --size=32M"
    sh(f"{create} /dev/md1 --level=1 --raid-devices=2 --assume-clean /dev/vdd /dev/vde")
    sh("mdadm --create --quiet --run --metadata=1.2 /dev/md0 --level=0 --raid-devices=2 --chunk=64 /dev/vdf /dev/vdg")
    sh("pvcreate -qq /dev/md0 && vgcreate -qq stripes /dev/md0 && lvcreate -qq -y -L 32m -n data stripes")
    for slot, disk in DISKS.items():
        sh(f"mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 {disk} && mkdir -p /mnt/{slot}")
        sh(f"mount {disk} /mnt/{slot}")


def take(disks: Mapping[str, Path], *, at_instant: AtInstant) -> SnapshotSet:
    """Take the picture as the agent does, and see that it is of the kinds that these sources allow."""
    chosen = choose(disks, owner="guest", freeze_timeout=FREEZE)
    assert dict(chosen.kinds) == {slot: KINDS[slot] for slot in disks}, chosen
    return chosen.snapshot.take(disks, at_instant=at_instant)


@contextmanager
def writers() -> Iterator[None]:
    """Write to everything that a snapshot holds still; the mirror is read as it is."""
    with ExitStack() as stack:
        for number, slot in enumerate(("thick", "thin", "striped")):
            stack.enter_context(writer(Path(f"/mnt/{slot}"), number))
        yield


def change(number: int) -> None:
    """Change something on each source."""
    for slot in DISKS:
        Path(f"/mnt/{slot}/file-{number}").write_bytes(random.Random(number).randbytes(MiB))
        if number > 1:
            Path(f"/mnt/{slot}/file-{number - 2}").unlink()
    sh("sync")


def rounds(directory: str, *providers: Provider, slots: tuple[str, ...] = tuple(DISKS)) -> list[dict[str, Outcome]]:
    """Make three points while the writers go on; nothing may be missed."""
    agent = Rounds(Path(directory), {slot: DISKS[slot] for slot in slots}, *providers)
    found = []
    for number in range(3):
        change(number)
        with writers():
            found.append(agent.round(take))
    for outcomes in found:
        assert all(outcome.missed == 0 for outcome in outcomes.values()), found
    first, *later = found
    assert {outcome.tracker for outcome in first.values()} == {"hash"}, first
    for outcomes in later:
        assert {(outcome.tracker, outcome.fallback) for outcome in outcomes.values()} == {(providers[0].name, None)}
        assert all(outcome.scanned_bytes < 24 * MiB for outcome in outcomes.values()), outcomes
    return found


def by_ebpf() -> None:
    """Follow all of them in the block layer of this kernel."""
    rounds("/tmp/by-ebpf", EbpfProvider())


def by_thin() -> None:
    """Follow the thin one by its pool."""
    rounds("/tmp/by-thin", ThinProvider(Path("/tmp/by-thin")), slots=("thin",))


def overflow() -> None:
    """A thick snapshot that has no room left says that it is lost."""
    sh("umount /mnt/thick")
    disks = {"thick": DISKS["thick"]}
    taken = choose(disks, "lvm", owner="guest", freeze_timeout=FREEZE).snapshot.take(disks, at_instant=lambda: None)
    source = taken.source("thick")
    try:
        with refused(Code.SNAPSHOT_LOST):
            for seed in range(4):
                write_at_random(DISKS["thick"], random.Random(seed), 600)
            for offset in range(0, source.size_bytes, MiB):
                source.read(offset, MiB)
            taken.confirm()
    finally:
        source.close()
        taken.release()
    assert "bootpoint" not in sh("lvs --noheadings -o lv_name thick")


def vanish() -> None:
    """A disk that is pulled out while it is read is a read error, and missing from then on."""
    disk = Path("/dev/sda")
    source = open_source(disk)
    source.read(0, MiB)
    Path("/sys/block/sda/device/delete").write_text("1")
    with refused(Code.DISK_READ_ERROR):
        for offset in range(MiB, source.size_bytes, MiB):
            source.read(offset, MiB)
    source.close()
    with refused(Code.DISK_MISSING):
        choose({"data": disk})
