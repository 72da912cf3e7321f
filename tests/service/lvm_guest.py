"""The disk of a machine whose root lies on LVM, as Debian's installer makes it, with an initramfs for IDE alone::

    byte 0        MBR: boot code (GRUB's boot.img), two partitions
    byte 512      GRUB's core.img
    byte 1 MiB    ext4: /boot with kernel, initramfs, GRUB's configuration and modules
    byte 129 MiB  LVM physical volume, of it
       + 1 MiB    the volume group's only logical volume, in one piece: ext4, the rest of the system

LVM's own tools write its metadata, without the kernel's device-mapper; nothing is activated or mounted. The system has
a real grub-mkconfig, for virt-v2v insists on it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from bootpoint_common.units import MiB
from bootpoint_ops import guest_disk
from bootpoint_ops.guest_tree import PACKAGES, base_tree, cache_directory, run_tool
from tests.service import guest

#: The volume group, its logical volume, and the name by which the system mounts that.
GROUP, VOLUME = "erp", "root"
ROOT = f"/dev/mapper/{GROUP}-{VOLUME}"

#: Size of /boot: virt-v2v wants 50 MiB free there.
BOOT_SIZE = 128 * MiB

#: Where the physical volume begins.
VOLUME_OFFSET = guest_disk.PARTITION_OFFSET + BOOT_SIZE

#: Where the logical volume begins: LVM leaves 1 MiB for itself.
ROOT_OFFSET = VOLUME_OFFSET + MiB

#: Size of the disk.
SIZE = 704 * MiB

_OPTIONS = "console=ttyS0,115200 fastboot panic=5 init=/sbin/bootpoint-guest"

_DEFAULT_GRUB = f"""\
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX="{_OPTIONS}"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
"""

_GRUB_CFG = """\
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry 'Debian GNU/Linux' {{
  search --no-floppy --fs-uuid --set=root {boot}
  linux /vmlinuz-{kernel} root={root} ro {options} quiet
  initrd /initrd.img-{kernel}
}}
"""


def lvm_disk(path: Path, marker: str) -> None:
    """Make the disk.

    Args:
        path: Where.
        marker: What it prints when it boots.
    """
    tree = base_tree(cache_directory(), (*PACKAGES, "lvm2", "grub-common"), guest.OLD_DRIVERS.split())
    (kernel,) = (folder.name for folder in (tree / "lib/modules").iterdir())
    boot = uuid4()
    with tempfile.TemporaryDirectory(prefix="guest-", dir=path.parent) as name:
        scratch = Path(name)
        disk = scratch / "disk"
        with disk.open("wb") as file:
            file.truncate(SIZE)
        starts = guest_disk.PARTITION_OFFSET // 512, VOLUME_OFFSET // 512
        table = f"start={starts[0]}, size={BOOT_SIZE // 512}, type=83, bootable\nstart={starts[1]}, type=8e\n"
        run_tool(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(disk)], text=f"label: dos\n{table}")
        guest_disk.install_boot_loader(disk, scratch / "core.img", "(hd0,msdos1)/grub")
        shutil.copytree(tree / "boot", scratch / "boot")
        shutil.copytree(guest_disk.GRUB, scratch / "boot/grub/i386-pc")
        configuration = _GRUB_CFG.format(boot=boot, kernel=kernel, root=ROOT, options=_OPTIONS)
        (scratch / "boot/grub/grub.cfg").write_text(configuration)
        _ext4(disk, guest_disk.PARTITION_OFFSET, BOOT_SIZE, scratch / "boot", "-U", str(boot))
        _ext4(disk, ROOT_OFFSET, _volumes(disk), tree)
        _empty(disk, "/boot", tree / "boot")
        files = {
            "/etc/fstab": f"{ROOT} / ext4 errors=remount-ro 0 1\nUUID={boot} /boot ext4 defaults 0 2\n",
            "/etc/default/grub": _DEFAULT_GRUB,
            "/etc/hostname": "bootpoint-guest\n",
            "/etc/network/interfaces": guest.INTERFACES,
            guest_disk.MARKER_FILE: f"{marker}\n",
        }
        guest.put(disk, files, ROOT_OFFSET)
        disk.replace(path)


def _ext4(disk: Path, offset: int, size: int, tree: Path, *options: str) -> None:
    extended = f"offset={offset},nodiscard"
    blocks = f"{size // 1024}k"
    run_tool(["mke2fs", "-q", "-t", "ext4", "-E", extended, *options, "-d", str(tree), str(disk), blocks])


def _empty(disk: Path, folder: str, tree: Path) -> None:
    """Remove what a folder of the root file system holds, for another file system is mounted on it."""
    for path in sorted(tree.rglob("*"), reverse=True):
        verb = "rmdir" if path.is_dir() and not path.is_symlink() else "rm"
        guest.debugfs(disk, f"{verb} {folder}/{path.relative_to(tree)}", ROOT_OFFSET)


def _volumes(disk: Path) -> int:
    """Make the physical volume, its group and the logical volume; returns the size of that."""
    with _loop(disk, VOLUME_OFFSET) as device:

        def lvm(command: str, *words: str) -> str:
            # No device but this one is looked at, and nothing is kept below /etc.
            fixed = ["--devices", device, "--driverloaded", "n"]
            return run_tool(["lvm", command, *fixed, *words]).stdout

        lvm("pvcreate", device)
        lvm("vgcreate", "--autobackup", "n", GROUP, device)
        create = ["--activate", "n", "--zero", "n", "--wipesignatures", "n", "--extents", "100%FREE"]
        lvm("lvcreate", "--autobackup", "n", *create, "--name", VOLUME, GROUP)
        said = lvm("lvs", "--noheadings", "--units", "b", "--options", "lv_size,seg_pe_ranges", GROUP)
        size, extents = said.split()
        assert re.fullmatch(rf"{device}:0-\d+", extents), said
        start = lvm("pvs", "--noheadings", "--units", "b", "--options", "pe_start", device).strip()
        assert start == f"{ROOT_OFFSET - VOLUME_OFFSET}B", start
        return int(size.removesuffix("B"))


@contextmanager
def _loop(disk: Path, offset: int) -> Iterator[str]:
    device = run_tool(["losetup", "--find", "--show", "--offset", str(offset), str(disk)]).stdout.strip()
    try:
        yield device
    finally:
        run_tool(["losetup", "--detach", device])
