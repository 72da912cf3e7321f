"""The demo's disk boots, and says which content it has; `tests/long` boots it on all that it claims to boot on."""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError
from bootpoint_common.units import MiB
from bootpoint_ops import guest_disk
from tests.service.component import need

#: Seconds that a boot may take on a loaded machine; a quiet one needs 10.
BOOT_TIMEOUT = 150.0


def boot(disk: Path, *options: str) -> tuple[str, float]:
    """Boot by TCG until the guest powers off, and return what came over the serial port, and the seconds it took."""
    began = time.monotonic()
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512", "-nographic", "-no-reboot"]
    done = subprocess.run(
        [*command, "-nic", "none", "-monitor", "none", "-serial", "stdio", *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=BOOT_TIMEOUT, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, time.monotonic() - began


def drive(disk: Path, bus: str = "virtio") -> list[str]:
    if bus == "scsi":
        hanging = ["-drive", f"file={disk},format=raw,if=none,id=d", "-device", "scsi-hd,drive=d"]
        return ["-device", "virtio-scsi", *hanging]
    return ["-drive", f"file={disk},format=raw,if={bus}"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("root", "mmdebstrap", "grub", "qemu")
    path = tmp_path_factory.mktemp("guest") / "disk.raw"
    guest_disk.base_tree(guest_disk.cache_directory())
    began = time.monotonic()
    guest_disk.build(path, marker="first")
    assert time.monotonic() - began < 30  # 4 on a quiet machine
    return path


@pytest.mark.timeout(400)  # the first use on a machine fetches Debian's packages
def test_disk_is_sparse_and_of_the_size_asked_for(disk: Path) -> None:
    assert disk.stat().st_size == guest_disk.DEFAULT_SIZE
    assert disk.stat().st_blocks * 512 < 400 * MiB


def boots(disk: Path, bus: str, machine: str, root: str) -> None:
    """Boot the disk on a bus, and see that it prints its marker, powers off, and leaves its file system whole."""
    marker = secrets.token_hex(8)
    guest_disk.set_marker(disk, marker)
    serial, seconds = boot(disk, "-M", machine, *drive(disk, bus))
    assert re.search(rf"^{guest_disk.GREETING} marker={marker} root={root} nic=lo\r?$", serial, re.MULTILINE), serial
    assert seconds < 90
    assert guest_disk.read_file(disk, guest_disk.BOOT_LOG).splitlines()[-1] == marker
    check = subprocess.run(["e2fsck", "-fn", f"{disk}?offset={1 << 20}"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout


def test_boots_prints_its_marker_and_powers_off(disk: Path) -> None:
    boots(disk, "virtio", "q35", "/dev/vda1")


def test_marker_is_replaced_and_nothing_else(disk: Path) -> None:
    hostname = guest_disk.read_file(disk, "/etc/hostname")
    guest_disk.set_marker(disk, "a" * 200)
    guest_disk.set_marker(disk, "second")
    assert guest_disk.read_marker(disk) == "second"
    assert guest_disk.read_file(disk, "/etc/hostname") == hostname


def test_disks_differ_by_the_uuid_that_their_boot_loader_looks_for(disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.raw"
    guest_disk.build(other, marker="other", size_bytes=guest_disk.SMALLEST)
    assert other.stat().st_size == guest_disk.SMALLEST
    assert guest_disk.read_file(disk, "/boot/grub/grub.cfg") != guest_disk.read_file(other, "/boot/grub/grub.cfg")


def test_refuses_what_it_cannot_make(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 1 MiB"):
        guest_disk.build(tmp_path / "d", marker="m", size_bytes=100 * MiB)
    with pytest.raises(ValueError, match="printable"):
        guest_disk.build(tmp_path / "d", marker="two words")
    assert not (tmp_path / "d").exists()


def test_disk_without_a_file_system_has_no_marker(tmp_path: Path) -> None:
    need("root")
    empty = tmp_path / "empty"
    with empty.open("wb") as file:
        file.truncate(4 * MiB)
    with pytest.raises(BootpointError, match="host_unsupported"):
        guest_disk.read_marker(empty)


def test_cache_is_named_by_the_environment() -> None:
    assert guest_disk.cache_directory({"BOOTPOINT_CACHE": "/somewhere"}) == Path("/somewhere")
    assert guest_disk.cache_directory({}).name == ".cache"
