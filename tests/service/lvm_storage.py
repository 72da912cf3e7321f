"""Disks in use on LVM, made in the Linux guest (see `linux_guest`), on which the promises of snapshots are tried."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.contract.snapshots import Storage


def run(command: str, *, check: bool = True) -> str:
    """Run a command line and return what it printed."""
    done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{command}\n{done.stdout}{done.stderr}")
    return done.stdout


def listing() -> list[str]:
    """Return every logical volume with its tags, and every device-mapper device that isn't LVM's."""
    rows = json.loads(run("lvs --reportformat json -o vg_name,lv_name,lv_tags"))["report"][0]["lv"]
    return sorted(f"{row['vg_name']}/{row['lv_name']} {row['lv_tags']}" for row in rows)


def mount(device: str, name: str, fs: str = "ext4") -> Path:
    """Make a file system on a device and mount it; returns a file in it."""
    # All at once: what the kernel would do later in the background are writes, too.
    options = {"xfs": "-f", "ext4": "-E lazy_itable_init=0,lazy_journal_init=0"}[fs]
    run(f"mkfs.{fs} {options} -q {device}")
    point = Path("/tmp") / name
    point.mkdir()
    run(f"mount -t {fs} {device} {point}")
    return point / "file"


def volumes(group: str, kind: str, fs: Mapping[str, str]) -> Storage:
    """Make two volumes in a group, with a file system on each.

    Args:
        group: The volume group; a thin pool ``pool`` is in it where the kind is ``lvm-thin``.
        kind: ``lvm`` or ``lvm-thin``.
        fs: The file system of each slot's disk.
    """
    disks, files = {}, {}
    for slot, each in fs.items():
        form = "--virtualsize 48m --thinpool pool" if kind == "lvm-thin" else "--size 48m"
        run(f"lvcreate -y -q {form} --name lv-{slot} {group}")
        disks[slot] = Path("/dev") / group / f"lv-{slot}"
        files[slot] = mount(str(disks[slot]), f"{group}-{slot}", each)
    return Storage(kind, disks, files, listing)


def whole_disks(first: str, second: str) -> Storage:
    """Make two disks of one group: the first with an ESP, a /boot and a physical volume, the second without a table.

    Beside the volumes of the disks' files there are a striped one over both, one that is swapped to, and an unused one.
    """
    run(f"sgdisk -n1:0:+10M -t1:ef00 -n2:0:+16M -n3:0:0 -t3:8e00 {first}; udevadm settle")
    run(f"pvcreate -q {first}3; pvcreate -q --pvmetadatacopies 2 {second}; vgcreate -q whole {first}3 {second}")
    run(f"lvcreate -y -q -L 48m -n ro-ot whole {first}3; lvcreate -y -q -L 48m -n home whole {second}")
    run("lvcreate -y -q -L 40m -i 2 -n striped whole; lvcreate -y -q -L 12m -n swap whole")
    run("lvcreate -y -q -L 8m -n unused whole; mkswap -q /dev/whole/swap; swapon /dev/whole/swap")
    run(f"mkfs.vfat {first}1; mkdir /tmp/esp; mount {first}1 /tmp/esp; echo efi >/tmp/esp/efi")
    mount(f"{first}2", "boot")
    run("echo kernel >/tmp/boot/kernel")
    mount("/dev/whole/striped", "striped")
    files = {"system": mount("/dev/whole/ro-ot", "root"), "data": mount("/dev/whole/home", "home")}
    return Storage("lvm", {"system": Path(first), "data": Path(second)}, files, listing)
