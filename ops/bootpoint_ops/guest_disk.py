"""A small bootable Debian disk for the demo and the system tests, made from Debian's packages without loop or mount.

The disk is that of a machine with a BIOS, and boots on IDE, virtio and virtio-scsi::

    byte 0        MBR: boot code (GRUB's boot.img), one partition
    byte 512      GRUB's core.img, in the gap before the first partition, with all modules that it needs
    byte 1 MiB    ext4: Debian with the cloud kernel, an initramfs of a few drivers, and an init that takes a second

Its init prints one line with a *marker* on the first serial port, leaves a trace of the boot on the disk, and powers
off. Whoever reads the marker on the serial port knows which content has booted.

What takes long (Debian's packages) is done once and kept as a tree in the cache; a disk from it takes a few seconds.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID, uuid4

from bootpoint_common.errors import Code, error
from bootpoint_common.units import MiB
from bootpoint_ops.guest_tree import BOOT_LOG, MARKER_FILE, base_tree, cache_directory, run_tool
from bootpoint_worker.verdict import GREETING

__all__ = [
    "BOOT_LOG",
    "DEFAULT_SIZE",
    "GREETING",
    "GRUB",
    "MARKER_FILE",
    "SMALLEST",
    "base_tree",
    "build",
    "cache_directory",
    "install_boot_loader",
    "read_file",
    "read_marker",
    "set_marker",
]

#: Where the file system starts: the usual alignment, and room for GRUB's core image before it.
PARTITION_OFFSET = 1 * MiB

#: The smallest disk that holds the system with room for a demo's changes.
SMALLEST = 512 * MiB

#: Size of a disk when nobody says otherwise.
DEFAULT_SIZE = 1024 * MiB

#: GRUB for a BIOS: its boot code, and its modules.
GRUB = Path("/usr/lib/grub/i386-pc")
_GRUB_MODULES = (
    "biosdisk", "part_msdos", "ext2", "normal", "minicmd", "search", "search_fs_uuid", "linux", "serial", "configfile",
)  # fmt: skip

#: The console is the first serial port, where the marker goes; ``fastboot`` leaves a dirty file system to its journal.
_GRUB_CFG = """\
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
search --no-floppy --fs-uuid --set=root {uuid}
linux /vmlinuz root=UUID={uuid} ro console=ttyS0,115200 quiet fastboot panic=5 init=/sbin/bootpoint-guest
initrd /initrd.img
boot
"""

_MARKER = re.compile(r"[\x21-\x7e]{1,200}")


def build(
    path: Path,
    *,
    marker: str,
    size_bytes: int = DEFAULT_SIZE,
    uuid: UUID | None = None,
    cache: Path | None = None,
    tree: Path | None = None,
) -> None:
    """Make a bootable disk as a sparse raw file; root only. The first call on a machine makes the tree (a minute).

    Args:
        path: The file; replaced when it exists, and there only when it is complete.
        marker: What the guest will print: 1 to 200 printable characters of ASCII, no spaces.
        size_bytes: Size of the disk, a multiple of 1 MiB, at least `SMALLEST`.
        uuid: Of the file system, by which boot loader and kernel find it; by default a new one.
        cache: Where the tree is kept; by default `cache_directory`.
        tree: Another tree than that of `base_tree`.

    Raises:
        ValueError: An argument is outside of what is said above.
        BootpointError: ``host_unsupported`` when a program is missing or fails.
    """
    _check_marker(marker)
    if size_bytes < SMALLEST or size_bytes % MiB:
        raise ValueError(f"size_bytes is a multiple of 1 MiB and at least {SMALLEST}, not {size_bytes}")
    uuid = uuid or uuid4()
    tree = tree or base_tree(cache_directory() if cache is None else cache)
    with tempfile.TemporaryDirectory(prefix=".guest-disk-", dir=path.parent) as scratch:
        disk = Path(scratch) / "disk"
        with disk.open("wb") as file:
            file.truncate(size_bytes)
        blocks = f"{(size_bytes - PARTITION_OFFSET) // 1024}k"
        extended = f"offset={PARTITION_OFFSET},nodiscard"
        run_tool(["mke2fs", "-q", "-t", "ext4", "-U", str(uuid), "-E", extended, "-d", str(tree), str(disk), blocks])
        _put(
            disk,
            {
                "/boot/grub/grub.cfg": _GRUB_CFG.format(uuid=uuid),
                "/etc/fstab": f"UUID={uuid} / ext4 errors=remount-ro 0 1\n",
                "/etc/hostname": "bootpoint-guest\n",
                MARKER_FILE: f"{marker}\n",
            },
        )
        table = f"label: dos\nlabel-id: 0x{uuid.bytes[:4].hex()}\nstart={PARTITION_OFFSET // 512}, type=83, bootable\n"
        run_tool(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", str(disk)], text=table)
        install_boot_loader(disk, Path(scratch) / "core.img")
        disk.replace(path)


def set_marker(disk: Path, marker: str) -> None:
    """Write another marker into a disk that `build` made and nobody uses; the rest of it stays.

    Raises:
        ValueError: The marker is not what `build` takes.
        BootpointError: ``host_unsupported`` when the disk can't be written.
    """
    _check_marker(marker)
    _put(disk, {MARKER_FILE: f"{marker}\n"})


def read_marker(disk: Path) -> str:
    """Return the marker of a raw disk, read from its file system.

    Raises:
        BootpointError: ``host_unsupported`` when there is none.
    """
    return read_file(disk, MARKER_FILE).strip()


def read_file(disk: Path, name: str) -> str:
    """Return a text file of the root file system of a raw disk.

    Args:
        disk: A disk as `build` makes it.
        name: Absolute path on that file system.

    Raises:
        BootpointError: ``host_unsupported`` when there is none.
    """
    done = run_tool(["debugfs", "-R", f"cat {name}", _file_system(disk)])
    # debugfs tells of a missing file on stderr only; its first line there is its version.
    complaints = done.stderr.strip().splitlines()[1:]
    if complaints:
        raise error(Code.HOST_UNSUPPORTED, f"{disk} has no {name}: {complaints[0]}", value=str(disk))
    return done.stdout


def install_boot_loader(disk: Path, core: Path, prefix: str = "(hd0,msdos1)/boot/grub") -> None:
    """Put GRUB where a BIOS finds it: 440 bytes of boot code, and the core image from sector 1, where that looks.

    Args:
        disk: A disk with an MBR, and nothing before `PARTITION_OFFSET`.
        core: Where the core image is made.
        prefix: Where GRUB finds its configuration.

    Raises:
        BootpointError: ``host_unsupported`` when GRUB is missing or doesn't fit.
    """
    run_tool(["grub-mkimage", "-O", "i386-pc", "-d", str(GRUB), "-p", prefix, "-o", str(core), *_GRUB_MODULES])
    image = core.read_bytes()
    if len(image) > PARTITION_OFFSET - 512:
        raise error(Code.HOST_UNSUPPORTED, f"GRUB's core image of {len(image)} bytes does not fit before the partition")
    with disk.open("r+b") as file:
        file.write((GRUB / "boot.img").read_bytes()[:440])
        file.seek(512)
        file.write(image)


def _put(disk: Path, files: Mapping[str, str]) -> None:
    """Write files into the disk's root file system, replacing those that exist."""
    with tempfile.TemporaryDirectory(prefix="guest-disk-") as scratch:
        commands = []
        for number, (name, content) in enumerate(files.items()):
            (Path(scratch) / str(number)).write_text(content)
            commands += [f"rm {name}", f"write {scratch}/{number} {name}"]
        run_tool(["debugfs", "-w", "-f", "-", _file_system(disk)], text="\n".join(commands) + "\n")
    for name, content in files.items():  # debugfs ends with 0 whatever happened
        if read_file(disk, name) != content:
            raise error(Code.HOST_UNSUPPORTED, f"{name} could not be written into {disk}", value=str(disk))


def _file_system(disk: Path) -> str:
    return f"{disk}?offset={PARTITION_OFFSET}"


def _check_marker(marker: str) -> None:
    if not _MARKER.fullmatch(marker):
        raise ValueError(f"a marker is 1 to 200 printable characters of ASCII without spaces, not {marker!r}")
