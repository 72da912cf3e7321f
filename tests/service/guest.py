"""Disks of machines that don't boot on virtio as they are, made of the demo's guest.

``ide_disk`` is a machine with an initramfs for IDE alone and device names in its configuration; ``uefi_disk`` boots by
UEFI from a loader that only its own firmware's memory names. Both are built from trees that are made once.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID, uuid4

from bootpoint_common.units import MiB
from bootpoint_ops import guest_disk
from bootpoint_ops.guest_tree import SUITE, base_tree, cache_directory, mirror, run_tool

#: Drivers of the old machine's initramfs.
OLD_DRIVERS = "ata_piix\nsd_mod\next4\n"

#: Packages of the machine whose initramfs is dracut's.
_DRACUT = ("linux-image-cloud-amd64", "dracut", "busybox", "e2fsprogs", "mount", "udev", "cpio")

#: The old machine's network card, and its MAC.
CARD, OLD_MAC = "eno1", "3c:ec:ef:00:00:21"

INTERFACES = f"auto lo\niface lo inet loopback\n\nauto {CARD}\niface {CARD} inet dhcp\n"

#: Size of the disks.
SIZE = 512 * MiB

#: Where the EFI partition begins, and its size.
ESP_OFFSET, ESP_SIZE = 1 * MiB, 40 * MiB


def _ide_tree() -> Path:
    """Return the demo's tree with an initramfs for IDE only."""
    cache = cache_directory()
    base = base_tree(cache)
    tree = cache / f"{base.name}-ide-{hashlib.sha256(OLD_DRIVERS.encode()).hexdigest()[:8]}"
    if not tree.exists():
        unfinished = tree.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run(["cp", "-a", str(base), str(unfinished)], check=True)
        (unfinished / "etc/initramfs-tools/modules").write_text(OLD_DRIVERS)
        subprocess.run(["chroot", str(unfinished), "update-initramfs", "-u"], check=True, capture_output=True)
        with suppress(OSError):  # another run was quicker
            unfinished.rename(tree)
    return tree


def ide_disk(path: Path, marker: str, files: Mapping[str, str] | None = None) -> UUID:
    """Make the old machine's disk; returns the id of its file system.

    Args:
        path: Where.
        marker: What it prints when it boots.
        files: More files of its root file system.
    """
    uuid = uuid4()
    guest_disk.build(path, marker=marker, size_bytes=SIZE, uuid=uuid, tree=_ide_tree())
    config = guest_disk.read_file(path, "/boot/grub/grub.cfg").replace(f"root=UUID={uuid}", "root=/dev/sda1")
    put(
        path,
        {
            "/boot/grub/grub.cfg": config,
            "/etc/fstab": "/dev/sda1 / ext4 errors=remount-ro 0 1\n",
            "/etc/network/interfaces": INTERFACES,
            **(files or {}),
        },
    )
    return uuid


def _dracut_tree() -> Path:
    """Return a Debian whose initramfs is dracut's, without drivers for virtio; made once, in minutes."""
    tree = cache_directory() / f"guest-dracut-{hashlib.sha256(repr(_DRACUT).encode()).hexdigest()[:8]}"
    if not tree.exists():
        unfinished = tree.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--mode=root", "--format=directory", "--variant=essential", "--aptopt=Apt::Install-Recommends false"]
        run_tool(["mmdebstrap", *options, f"--include={','.join(_DRACUT)}", SUITE, str(unfinished), mirror()])
        (kernel,) = (path.name for path in (unfinished / "lib/modules").iterdir())
        dracut = ["dracut", "--force", "--no-hostonly", "--kver", kernel, f"/boot/initrd.img-{kernel}"]
        drivers = "virtio_blk virtio_pci virtio_scsi virtio_net"
        run_tool(["chroot", str(unfinished), *dracut, "--omit-drivers", drivers])
        shutil.rmtree(unfinished / "dev")
        (unfinished / "dev").mkdir()
        (unfinished / "boot/grub").mkdir()
        unfinished.rename(tree)
    return tree


def dracut_disk(path: Path) -> None:
    """Make a disk of a machine with dracut; it has no boot loader that would find its kernel."""
    guest_disk.build(path, marker="dracut", size_bytes=1024 * MiB, tree=_dracut_tree())


def put(disk: Path, files: Mapping[str, str], offset: int = guest_disk.PARTITION_OFFSET) -> None:
    """Write files into a disk's ext4, with debugfs: nothing is mounted. Folders are made."""
    with tempfile.TemporaryDirectory(prefix="guest-") as scratch:
        commands = []
        for number, (name, content) in enumerate(files.items()):
            (Path(scratch) / str(number)).write_text(content)
            parts = name.split("/")[1:-1]
            commands += [f"mkdir /{'/'.join(parts[: depth + 1])}" for depth in range(len(parts))]
            commands += [f"rm {name}", f"write {scratch}/{number} {name}"]
        run_tool(["debugfs", "-w", "-f", "-", f"{disk}?offset={offset}"], text="\n".join(commands) + "\n")


def debugfs(disk: Path, command: str, offset: int = guest_disk.PARTITION_OFFSET) -> str:
    """Run a command of debugfs on a disk's ext4, writing if need be, and return what it says."""
    return run_tool(["debugfs", "-w", "-R", command, f"{disk}?offset={offset}"]).stdout


_UEFI_CFG = """\
serial --unit=0 --speed=115200
terminal_output serial
search --no-floppy --fs-uuid --set=root {uuid}
linux /vmlinuz root=UUID={uuid} ro console=ttyS0,115200 quiet fastboot panic=5 init=/sbin/bootpoint-guest
initrd /initrd.img
boot
"""

_UEFI_MODULES = "part_gpt ext2 search search_fs_uuid linux serial configfile normal minicmd"


def uefi_disk(path: Path, marker: str, loader: str = "EFI/debian/grubx64.efi") -> UUID:
    """Make a disk that boots by UEFI from a loader at a path of its own; returns the id of its root file system."""
    uuid = uuid4()
    root = ESP_OFFSET + ESP_SIZE
    with tempfile.TemporaryDirectory(prefix="guest-", dir=path.parent) as name:
        scratch = Path(name)
        disk, esp = scratch / "disk", scratch / "esp"
        (scratch / "grub.cfg").write_text(_UEFI_CFG.format(uuid=uuid))
        run_tool(
            ["grub-mkstandalone", "-O", "x86_64-efi", "-o", str(scratch / "loader"), f"--modules={_UEFI_MODULES}",
             f"--install-modules={_UEFI_MODULES}", "--locales=", "--themes=", "--fonts=",
             f"boot/grub/grub.cfg={scratch}/grub.cfg"]
        )  # fmt: skip
        with disk.open("wb") as file:
            file.truncate(SIZE)
        with esp.open("wb") as file:
            file.truncate(ESP_SIZE)
        run_tool(["mkfs.vfat", "-n", "ESP", str(esp)])
        parts = loader.split("/")[:-1]
        run_tool(["mmd", "-i", str(esp), *(f"::/{'/'.join(parts[: n + 1])}" for n in range(len(parts)))])
        run_tool(["mcopy", "-i", str(esp), str(scratch / "loader"), f"::/{loader}"])
        blocks = f"{(SIZE - root - MiB) // 1024}k"
        tree = base_tree(cache_directory())
        extended = f"offset={root},nodiscard"
        run_tool(["mke2fs", "-q", "-t", "ext4", "-U", str(uuid), "-E", extended, "-d", str(tree), str(disk), blocks])
        run_tool(["dd", f"if={esp}", f"of={disk}", "bs=1M", f"seek={ESP_OFFSET // MiB}", "conv=notrunc,sparse"])
        put(
            disk,
            {
                "/etc/fstab": f"UUID={uuid} / ext4 errors=remount-ro 0 1\n",
                "/etc/hostname": "bootpoint-guest\n",
                guest_disk.MARKER_FILE: f"{marker}\n",
            },
            root,
        )
        table = f"label: gpt\nstart={ESP_OFFSET // 512}, size={ESP_SIZE // 512}, type=U\nstart={root // 512}, type=L\n"
        run_tool(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(disk)], text=table)
        disk.replace(path)
    return uuid


@contextmanager
def mounted(disk: Path, offset: int = guest_disk.PARTITION_OFFSET) -> Iterator[Path]:
    """Mount a raw disk's ext4, to put there what tools refuse: links, devices, odd names."""
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        run_tool(["mount", "-o", f"loop,offset={offset}", str(disk), name])
        try:
            yield Path(name)
        finally:
            run_tool(["umount", name])
