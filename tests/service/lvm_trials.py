"""Trials of snapshots of LVM: functions that are called in the Linux guest (see `linux_guest`) and end well or raise.

Each has disks of its own: vdb to vdd 192 MiB each, vde and vdf 128 MiB each.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_producer.snapshots import Consistency, SnapshotSet, choose
from tests.contract import snapshots
from tests.contract.snapshots import FREEZE, OWNER, Storage, shown
from tests.service.lvm_storage import listing, mount, run, volumes, whole_disks

#: Shows only the copies of two disks to LVM.
_COPIES = """--config 'devices { filter = [ "a|/dev/vdb|", "a|/dev/vdc|", "r|.*|" ] }'"""


def thick() -> None:
    """Two volumes of one group keep every promise."""
    run("pvcreate -q /dev/vdb; vgcreate -q th-ick /dev/vdb")
    _promises(volumes("th-ick", "lvm", {"system": "ext4", "data": "ext4"}))
    run("umount /tmp/th-ick-*; vgchange -q -an th-ick")


def thin() -> None:
    """Two volumes of one pool do, and the pool is as LVM expects it afterwards."""
    run("pvcreate -q /dev/vdc; vgcreate -q thin /dev/vdc; lvcreate -y -q -L 120m -T thin/pool")
    storage = volumes("thin", "lvm-thin", {"system": "ext4", "data": "ext4"})
    _promises(storage)
    run("lvcreate -y -q -s -n after thin/lv-system; lvremove -y -q thin/after; thin_check --version")
    taken = storage.snapshot().take(storage.disks)
    run(f"lvremove -y -q thin/{Path(taken.path('data')).name.removeprefix('thin-').replace('--', '-')}")
    with _raises(Code.SNAPSHOT_LOST, "somebody removed it"):
        taken.confirm()
    taken.release()
    _fill_the_pool(storage)
    run("umount /tmp/thin-*; vgchange -q -an thin")


def _fill_the_pool(storage: Storage) -> None:
    run("lvcreate -y -q -V 200m -T thin/pool -n filler; lvchange -y -q --errorwhenfull y thin/pool")
    run("dd if=/dev/urandom of=/dev/thin/filler bs=1M count=190 oflag=direct", check=False)
    before = listing()
    with _raises(Code.SNAPSHOT_FAILED, "thin/lv-system") as caught:
        storage.snapshot().take(storage.disks)
    assert "thin pool thin/pool more room" in str(caught[0].hint), caught
    assert listing() == before
    run("lvremove -y -q thin/filler")


def whole() -> None:
    """Whole disks: the copies of their pictures are disks that LVM and the file systems find in order."""
    storage = whole_disks("/dev/vdd", "/dev/vde")
    big = Path("/tmp/striped/big")
    big.write_bytes(bytes(range(256)) * 4096 * 4)
    _promises(storage)
    before = listing()
    for slot in storage.disks:
        storage.write(slot, 1001)
    run("sync")
    taken = storage.snapshot().take(storage.disks)
    big.write_bytes(b"x" * 4 * MiB)
    for slot in storage.disks:
        storage.write(slot, 1002)
    _copy(taken)
    assert taken.confirm() == Consistency.FS
    Path("/tmp/boot/kernel").write_text("another one")
    run("sync")
    assert taken.confirm() == Consistency.CRASH, "/boot was written to"
    taken.release()
    assert listing() == before
    run("umount /tmp/root /tmp/home /tmp/striped /tmp/boot /tmp/esp; swapoff -a; vgchange -q -an whole")
    # Only now: LVM touches no group of which it sees a disk twice.
    for slot, target in (("system", "vdb"), ("data", "vdc")):
        run(f"dd if=/tmp/{slot}.img of=/dev/{target} bs=1M conv=fsync; rm /tmp/{slot}.img")
    run(f"partprobe /dev/vdb || partx -a /dev/vdb; vgck {_COPIES} whole; vgchange -q -ay {_COPIES} whole")
    found = run(f"lvs {_COPIES} --noheadings -o lv_name whole").split()
    assert sorted(found) == ["home", "ro-ot", "striped", "swap", "unused"], "the standby would have snapshots"
    for device in ("whole/ro-ot", "whole/home", "whole/striped", "vdb2"):
        run(f"e2fsck -fn /dev/{device}")
    run("mount -o ro,noload /dev/whole/ro-ot /tmp/root; mount -o ro,noload /dev/whole/striped /tmp/striped")
    run("mount -o ro /dev/vdb1 /tmp/esp")
    assert Path("/tmp/root/file").read_bytes().startswith(snapshots.mark("system", 1001))
    digest = hashlib.sha256(bytes(range(256)) * 4096 * 4).hexdigest()
    assert hashlib.sha256(big.read_bytes()).hexdigest() == digest
    assert Path("/tmp/esp/efi").read_text() == "efi\n"
    run(f"umount /tmp/root /tmp/striped /tmp/esp; vgchange -q -an {_COPIES} whole; wipefs -qa /dev/vdb /dev/vdc")


def mirror() -> None:
    """A RAID of md's below LVM: the RAID is held as a disk, and its volumes are."""
    # Marks of another trial may lie in what will be free blocks.
    run("blkdiscard -f -z /dev/vdb && blkdiscard -f -z /dev/vdc")
    run("mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 /dev/vdb /dev/vdc")
    run("pvcreate -q -ff -y /dev/md0; vgcreate -q mirrored /dev/md0")
    storage = volumes("mirrored", "lvm", {"system": "ext4", "data": "ext4"})
    snapshots.shows_the_instant(storage)
    whole_raid = Storage("lvm", {"system": Path("/dev/md0")}, storage.files, listing)
    snapshots.shows_the_instant(whole_raid)
    choice = choose({"system": Path("/dev/vdb")}, owner=OWNER)
    assert choice.kinds == {"system": "fsfreeze"}, choice
    run("umount /tmp/mirrored-*; vgchange -q -an mirrored; mdadm --stop /dev/md0")


def overflow() -> None:
    """A snapshot that more is written over than it has room for is lost: when it is read, and at the end."""
    run("wipefs -qa /dev/vdf; pvcreate -q -ff -y /dev/vdf; vgcreate -q tight /dev/vdf")
    run("lvcreate -y -q -L 100m -n full tight")
    file = mount("/dev/tight/full", "tight")
    disks = {"system": Path("/dev/tight/full")}
    taken = choose(disks, owner=OWNER, freeze_timeout=FREEZE).snapshot.take(disks)
    with closing(taken.source("system")) as source:
        source.read(0, MiB)
        file.write_bytes(os.urandom(60 * MiB))
        run("sync")
        with _raises(Code.SNAPSHOT_LOST, "more was written to tight/full than it has room for"):
            source.read(64 * MiB, MiB)
    with _raises(Code.SNAPSHOT_LOST, "more was written to tight/full than it has room for"):
        taken.confirm()
    taken.release()
    assert [name for name in listing() if name.startswith("tight/")] == ["tight/full "]
    run("lvcreate -y -q -l 100%FREE -n rest tight")
    with _raises(Code.SNAPSHOT_FAILED, "volume group tight has 0 B free for a snapshot of tight/full"):
        choose(disks, owner=OWNER).snapshot.take(disks)
    run("umount /tmp/tight; vgchange -q -an tight; vgremove -q -ff -y tight")


_DIES_WITHIN = """
import os, signal
from pathlib import Path
from bootpoint_producer.snapshots import choose
def die():
    os.kill(os.getpid(), signal.SIGKILL)
disks = {{"system": Path({0!r}), "data": Path({1!r})}}
choose(disks, owner="erp-db", freeze_timeout=60.0).snapshot.take(disks, at_instant=die)
"""


def dies() -> None:
    """An agent that is killed while a volume is suspended leaves it going on."""
    run("wipefs -qa /dev/vdf; pvcreate -q -ff -y /dev/vdf; vgcreate -q dying /dev/vdf")
    disks = {}
    for slot in ("system", "data"):
        run(f"lvcreate -y -q -L 32m -n {slot} dying")
        disks[slot] = (f"/dev/dying/{slot}", mount(f"/dev/dying/{slot}", f"dying-{slot}"))
    script = _DIES_WITHIN.format(disks["system"][0], disks["data"][0])
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    for _, file in disks.values():
        subprocess.run(["sh", "-c", f"echo on >{file}; sync {file}"], check=True, timeout=60)
    assert "Suspended" not in run("dmsetup info -c --noheadings -o suspended")
    run("umount /tmp/dying-*; vgchange -q -an dying; vgremove -q -ff -y dying")


#: In the order in which they are run: some need what earlier ones made.
TRIALS: tuple[Callable[[], None], ...] = (thick, thin, whole, mirror, overflow, dies)


def _promises(storage: Storage) -> None:
    for promise in snapshots.PROMISES:
        sys.stdout.write(f"{storage.kind}: {promise.__name__}\n")
        promise(storage)


def _copy(taken: SnapshotSet) -> None:
    """Copy the pictures to files in memory; what is zero takes none."""
    for slot in ("system", "data"):
        assert shown(taken, slot) == 1001
        with closing(taken.source(slot)) as source, Path(f"/tmp/{slot}.img").open("wb") as file:
            file.truncate(source.size_bytes)
            for offset in range(0, source.size_bytes, MiB):
                part = source.read(offset, min(MiB, source.size_bytes - offset))
                if any(part):
                    os.pwrite(file.fileno(), part, offset)


@contextmanager
def _raises(code: Code, words: str) -> Iterator[list[BootpointError]]:
    caught: list[BootpointError] = []
    try:
        yield caught
    except BootpointError as failure:
        if failure.code != code or words not in failure.message:
            raise
        caught.append(failure)
    else:
        raise AssertionError(f"no {code}")
