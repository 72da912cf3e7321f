"""The disks of the Linux guest (see `linux_guest`): Debian's tree, the checkout, and the initramfs that starts it."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import json
import lzma
import py_compile
import re
import shutil
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from importlib.metadata import distribution, requires
from pathlib import Path

from bootpoint_common.units import MiB
from bootpoint_ops.guest_tree import SUITE, cache_directory, mirror, run_tool

#: Packages of the guest: what a source may be made of, and what the agent and its tests run.
_PACKAGES = (
    "linux-image-cloud-amd64", "initramfs-tools", "busybox-static", "udev", "kmod", "mount", "procps", "fdisk", "gdisk",
    "lvm2", "thin-provisioning-tools", "dmsetup", "mdadm", "cryptsetup-bin",
    "e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "exfatprogs", "ntfs-3g", "partclone",
    "python3", "tzdata", "libbpf1", "bpftool", "fio",
)  # fmt: skip

#: What a machine without users does not miss.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/lib/udev/hwdb.d/*")

#: Drivers that the kernel needs before it sees the tree; ext4 is built in.
_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_scsi", "sd_mod")

#: The first program: loads drivers, mounts the tree, and becomes the guest's own.
_INIT = """\
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
for module in /modules/*; do busybox insmod $module; done
until [ -b /dev/vda ]; do busybox usleep 20000; done
busybox mount -t ext4 /dev/vda /root || busybox echo "no tree on vda"
busybox mount -t tmpfs -o mode=755 run /root/run
busybox cp /guest /root/run/guest
exec busybox switch_root /root /bin/sh /run/guest
"""

#: What the guest does: a machine's usual mounts and udev, then one script after the other.
_GUEST = """\
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=/checkout/common:/checkout/producer:/checkout:/packages
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /checkout /packages /run/lock
for disk in /sys/block/vd*; do
  case $(cat $disk/serial) in
    checkout) mount -o ro /dev/${disk##*/} /checkout ;;
    packages) mount -o ro /dev/${disk##*/} /packages ;;
    modules) mount -o ro /dev/${disk##*/} /lib/modules ;;
  esac
done
mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf; mount -t tracefs tracefs /sys/kernel/tracing
ln -s /proc/self/fd /dev/fd
echo bootpoint-guest >/proc/sys/kernel/hostname
modprobe -a dm_mod dm_snapshot dm_thin_pool loop
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add; udevadm settle
for port in /sys/class/virtio-ports/*; do
  case $(cat $port/name) in
    control) exec 3<>/dev/${port##*/} ;;
    output) exec 4>/dev/${port##*/} ;;
  esac
done
echo ready >&3
while read -r length seconds <&3; do
  head -c "$length" <&3 >/run/script
  (cd /tmp; exec timeout -k 5 "$seconds" python3 -u /run/script </dev/null >&4 2>&4 3>&- 4>&-)
  echo "exit $?" >&3
done
"""


def kept(name: str, recipe: object, make: Callable[[Path], None]) -> Path:
    """Return a disk of the cache, made now (minutes) if it isn't there.

    Args:
        name: What it is, such as ``guest-linux``.
        recipe: What it is made of; another recipe is another disk.
        make: Makes it; it is there when it is complete.
    """
    cache = cache_directory()
    disk = cache / f"{name}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}.ext4"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not disk.exists():
            make(disk)
    return disk


def debian(disk: Path, packages: Collection[str], excluded: Collection[str]) -> tuple[Path, Path]:
    """Make a tree of Debian's packages with an empty ``/dev``.

    Args:
        disk: The disk that it is to become.
        packages: Its packages beside the essential ones.
        excluded: Patterns of files that are left out.

    Returns:
        Where it lies, and what it has to be called once it is complete.
    """
    unfinished, tree = disk.with_suffix(".unfinished"), disk.with_suffix("")
    for path in (unfinished, tree):
        shutil.rmtree(path, ignore_errors=True)
    options = ["--mode=root", "--format=directory", "--variant=essential", "--aptopt=Apt::Install-Recommends false"]
    options += ["--aptopt=Acquire::Retries 3", *(f"--dpkgopt=path-exclude={pattern}" for pattern in excluded)]
    run_tool(["mmdebstrap", *options, f"--include={','.join(packages)}", SUITE, str(unfinished), mirror()])
    shutil.rmtree(unfinished / "dev")
    for name in ("dev", "checkout", "packages"):
        (unfinished / name).mkdir()
    return unfinished, tree


def linux_tree() -> Path:
    """Return the disk of Debian's packages, made now (minutes) if it isn't in the cache; its tree lies beside it."""
    return kept("guest-linux", (SUITE, _PACKAGES, _EXCLUDED), _make_tree)


def _make_tree(disk: Path) -> None:
    unfinished, tree = debian(disk, _PACKAGES, _EXCLUDED)
    for initrd in (unfinished / "boot").glob("initrd*"):
        initrd.unlink()
    unfinished.rename(tree)
    make_disk(tree, disk, 128 * MiB)


def _size(tree: Path) -> int:
    return sum(path.lstat().st_size + 2048 for path in tree.rglob("*"))


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a guest starts with.

    Attributes:
        image: The kernel.
        root: Directory with ``lib/modules`` of that kernel alone.
        disk: Disk with what ``lib/modules`` holds; None for the kernel of the guest's own tree.
    """

    image: Path
    root: Path
    disk: Path | None = None


def own_kernel(tree: Path) -> Kernel:
    """Return the kernel of a guest's tree."""
    (image,) = tree.glob("boot/vmlinuz-*")
    return Kernel(image, tree)


def kernel_of(suite: str) -> Kernel:
    """Return the kernel of another release of Debian, made now (seconds) if it isn't in the cache.

    Args:
        suite: Its name, such as ``bullseye``.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / f"guest-kernel-{suite}"
    with (cache / "guest-linux.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            _make_kernel(tree, suite)
    return replace(own_kernel(tree), disk=tree.with_suffix(".ext4"))


def _make_kernel(tree: Path, suite: str) -> None:
    unfinished = tree.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ["--mode=root", "--format=directory", "--variant=extract", "--aptopt=Apt::Install-Recommends false"]
    options += ["--aptopt=Acquire::Retries 3", "--include=linux-image-cloud-amd64"]
    run_tool(["mmdebstrap", *options, suite, str(unfinished), mirror().replace(f" {SUITE} ", f" {suite} ")])
    if not (unfinished / "lib").exists():  # a release that has nothing in it; otherwise base-files would make the link
        (unfinished / "lib").symlink_to("usr/lib")
    (modules,) = unfinished.glob("lib/modules/*")
    run_tool(["depmod", "--basedir", str(unfinished), modules.name])
    make_disk(modules.parent, tree.with_suffix(".ext4"), 8 * MiB)
    unfinished.rename(tree)


def make_checkout(disk: Path) -> None:
    """Make the disk of the checkout: its packages as they are now, compiled.

    Args:
        disk: Where.
    """
    root = Path(__file__).resolve().parents[2]
    tree = disk.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "mutants", "*.sh")
    for name in ("common", "producer", "tests"):
        shutil.copytree(root / name, tree / name, ignore=ignored)
    _compile(tree, "/checkout")
    make_disk(tree, disk, 8 * MiB)
    shutil.rmtree(tree)


def make_disk(tree: Path, disk: Path, room: int) -> None:
    """Make an ext4 disk of a tree; it is there when it is complete."""
    unfinished = disk.with_suffix(".image")
    with unfinished.open("wb") as image:
        image.truncate(_size(tree) * 13 // 10 + room)
    run_tool(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(tree), str(unfinished)])
    unfinished.rename(disk)


def _compile(tree: Path, place: str) -> None:
    # A guest without a way to keep bytecode would compile everything at each import: tens of seconds.
    compileall.compile_dir(
        tree, quiet=1, stripdir=str(tree), prependdir=place,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip


def packages_disk() -> Path:
    """Return the disk of the Python packages that bootpoint needs: those of this interpreter, compiled; cached."""
    wanted, closed = {"bootpoint"}, dict[str, str]()
    while wanted:
        name = wanted.pop()
        closed[name] = distribution(name).version
        plain = (line for line in requires(name) or () if "extra ==" not in line and "python_version <" not in line)
        wanted |= {re.split(r"[^\w.-]", line)[0].lower() for line in plain} - closed.keys()
    recipe = hashlib.sha256(json.dumps([sys.version, closed], sort_keys=True).encode()).hexdigest()[:12]
    disk = cache_directory() / f"guest-python-{recipe}.ext4"
    disk.parent.mkdir(parents=True, exist_ok=True)
    with (disk.parent / "guest-linux.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not disk.exists():
            _make_packages(disk, closed.keys() - {"bootpoint"})
    return disk


def _make_packages(disk: Path, names: Collection[str]) -> None:
    tree = disk.with_suffix(".unfinished")
    shutil.rmtree(tree, ignore_errors=True)
    for name in names:
        for file in distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = tree / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), target)
    _compile(tree, "/packages")
    make_disk(tree, disk, 8 * MiB)
    shutil.rmtree(tree)


def make_initramfs(
    path: Path,
    tree: Path,
    kernel: Kernel,
    *,
    init: str = _INIT,
    guest: str = _GUEST,
    drivers: Collection[str] = _DRIVERS,
) -> None:
    """Write the initramfs: busybox, the drivers of a virtual machine's disks, and the two programs above.

    Args:
        path: Where.
        tree: Debian's tree, from which busybox is taken.
        kernel: Whose drivers.
        init: The first program.
        guest: What it may start.
        drivers: Loaded by the first program.
    """
    (modules,) = kernel.root.glob("lib/modules/*")
    order = dict[str, None]()
    for name in drivers:
        command = ["modprobe", "--dirname", str(kernel.root), "--set-version", modules.name, "--show-depends", name]
        lines = run_tool(command).stdout.splitlines()
        order.update((line.split()[1], None) for line in lines if line.startswith("insmod"))
    entries = [(name, 0o040755, b"") for name in ("bin", "dev", "proc", "root", "modules")]
    entries += [("init", 0o100755, init.encode()), ("guest", 0o100644, guest.encode())]
    entries += [("bin/busybox", 0o100755, (tree / "bin/busybox").read_bytes())]
    for number, file in enumerate(order):
        content = Path(file).read_bytes()
        entries.append(
            (f"modules/{number:02}.ko", 0o100644, lzma.decompress(content) if file.endswith("xz") else content)
        )
    path.write_bytes(b"".join(_cpio(*entry) for entry in [*entries, ("TRAILER!!!", 0, b"")]))


def _cpio(name: str, mode: int, content: bytes) -> bytes:
    """Return an entry of a cpio archive in the form "newc" (Linux, Documentation/driver-api/early-userspace)."""
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)
