"""Parts of the demo that need no VM: its directory, a given disk, what a guest says, and whose libvirt is used."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_ops.demo import disk, guest, place, service

MARKED = "\x1b[2J\r\nGRUB loading\r\n\r\nBOOTPOINT-GUEST marker=a1b2 root=/dev/vda1 nic=lo\r\n"


def seen(path: Path, content: str, marker: str | None) -> guest.Seen:
    path.write_bytes(content.encode())
    return guest.wait(path, marker, began=0.0, timeout=0.0)


def test_guest_is_known_by_its_marker_alone(tmp_path: Path) -> None:
    log = tmp_path / "serial"
    assert seen(log, MARKED, "a1b2").text == "BOOTPOINT-GUEST marker=a1b2 root=/dev/vda1 nic=lo"
    for other in ("a1b", "a1b2c"):
        assert (seen(log, MARKED, other).booted, seen(log, MARKED, other).text[:15]) == (False, "BOOTPOINT-GUEST")


def test_guest_of_unknown_make_is_up_when_it_asks_for_a_login(tmp_path: Path) -> None:
    log = tmp_path / "serial"
    up = seen(log, "Debian GNU/Linux 12 erp ttyS0\r\n\r\nerp login: ", None)
    assert (up.booted, up.text) == (True, "erp login:")
    stuck = seen(log, "Begin: Waiting for root file system ...\r\n(initramfs) ", None)
    assert (stuck.booted, stuck.text) == (False, "(initramfs)")
    assert guest.wait(tmp_path / "none", None, began=0.0, timeout=0.0).text == "nothing on its serial port"


def test_directory_is_taken_once_and_only_if_a_demo_made_it(storage_directory: Path) -> None:
    mine = storage_directory / "demo"
    with place.claimed(mine), pytest.raises(BootpointError) as busy, place.claimed(mine):
        pass
    assert busy.value.code is Code.BUSY
    (mine / "more").touch()
    with place.claimed(mine):  # it was a demo's before
        pass
    theirs = storage_directory / "theirs"
    theirs.mkdir()
    (theirs / "letter").touch()
    with pytest.raises(BootpointError, match="not a demo's"), place.claimed(theirs):
        pass


def test_directory_that_guests_cannot_enter_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(BootpointError, match="guests run as a user who can't enter"), place.claimed(closed / "demo"):
        pass


@pytest.mark.parametrize(
    ("table", "firmware"),
    [
        ("label: dos\n,,83,*\n", "bios"),
        ("label: gpt\n,8M,U\n,,L\n", "uefi"),
        ("label: gpt\n,1M,21686148-6449-6E6F-744E-656564454649\n,8M,U\n,,L\n", "bios"),
        (None, "bios"),
    ],
)
def test_given_disk_is_copied_and_its_firmware_known(tmp_path: Path, table: str | None, firmware: str) -> None:
    given, copy = tmp_path / "given", tmp_path / "copy"
    with given.open("wb") as file:
        file.truncate(32 << 20)
    if table is not None:
        subprocess.run(["/usr/sbin/sfdisk", "-q", str(given)], input=table, text=True, check=True)
    source = disk.copy_of(given, copy)
    assert (source.firmware, source.own) == (firmware, False)
    assert copy.read_bytes() == given.read_bytes()
    assert copy.stat().st_blocks * 512 < 1 << 20


def test_given_qcow2_becomes_raw(tmp_path: Path) -> None:
    raw, given, copy = tmp_path / "raw", tmp_path / "given", tmp_path / "copy"
    raw.write_bytes(bytes(1 << 20) + b"content".ljust(1 << 20, b"."))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(given)], check=True)
    disk.copy_of(given, copy)
    assert copy.read_bytes() == raw.read_bytes()


def test_daemons_that_run_are_used_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "socket"
    monkeypatch.setattr(service, "SOCKETS", {"libvirtd": (str(tmp_path / "dead"), str(path))})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with service.daemons(tmp_path / "log", None) as started:
            assert started == ()
    # The socket's file is still there, and nobody behind it.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(service, "SOCKETS", {"no-such-daemon": (str(path),)})
    with pytest.raises(BootpointError, match="no-such-daemon is missing"), service.daemons(tmp_path / "log", None):
        pass
