"""Disks that are followed one by one: a plain one, and the members of an array, which see its writes remapped only."""

from __future__ import annotations

import platform
import random
from pathlib import Path

from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
from tests.guest.machine import sh, write_at_random
from tests.service.cutting import cut_under_load
from tests.service.tracked import TrackedDisk, differing, numbers

#: Where the system mounts its BPF file system.
PINS = Path("/sys/fs/bpf/bootpoint")


def plain() -> str:
    """Follow a disk while partitions of it are written, and cut under load."""
    disk = Path("/dev/vdb")
    assert EbpfProvider().why_not(disk) is None, EbpfProvider().why_not(disk)
    tracked = TrackedDisk(disk, PINS)
    tracked.cut()
    before = tracked.digests()
    sh(f"echo 'start=3MiB, size=20MiB' | sfdisk -q {disk} && udevadm settle; mkfs.ext4 -q {disk}1")
    sh(f"mkdir -p /mnt/plain && mount {disk}1 /mnt/plain && cp -a /usr/lib/python3*/email /mnt/plain")
    sh("fstrim /mnt/plain; umount /mnt/plain")
    reported, after = numbers(tracked.cut()), tracked.digests()
    changed = differing(before, after)
    assert len(changed) > 20, len(changed)
    assert changed <= reported, sorted(changed - reported)[:20]
    assert len(reported) < len(after), "everything counts as written"
    counts = cut_under_load(tracked, Path("/tmp"), 64 * MiB // GRAIN, 20)
    assert counts.lost == 0, counts
    return f"Linux {platform.release()}: {len(changed)} grains differ, {len(reported)} reported; {counts}"


def members() -> str:
    """Follow the disks of a stripe set, which lies on a partition of each."""
    for disk in ("vdc", "vdd"):
        sh(f"echo 'start=3MiB, size=40MiB' | sfdisk -q /dev/{disk}")
    sh("udevadm settle; mdadm --create --quiet --run --metadata=1.2 /dev/md7 --level=0 --raid-devices=2 --chunk=64"
       " /dev/vdc1 /dev/vdd1")  # fmt: skip
    followed = [TrackedDisk(Path(f"/dev/{disk}"), PINS) for disk in ("vdc", "vdd")]
    said = []
    for tracked in followed:
        tracked.cut()
    before = [tracked.digests() for tracked in followed]
    write_at_random(Path("/dev/md7"), random.Random(7), 150)
    for tracked, old in zip(followed, before, strict=True):
        reported, changed = numbers(tracked.cut()), differing(old, tracked.digests())
        assert len(changed) > 30, len(changed)
        assert changed <= reported, sorted(changed - reported)[:20]
        assert len(reported) <= 1.3 * len(changed) + 64, (len(reported), len(changed))
        said.append(f"{tracked.device}: {len(changed)} grains differ, {len(reported)} reported")
    sh("mdadm --stop --quiet /dev/md7")
    return "; ".join(said)
