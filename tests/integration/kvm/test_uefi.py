"""A standby that boots by UEFI: what libvirt keeps for it besides its disks, and that none of it is left behind.

Such a VM has, beside its disks, a file of firmware variables (NVRAM), which libvirt makes at the first start and keeps
in a directory of its own. It holds what the guest told its firmware: which disk boots, for one.
"""

from __future__ import annotations

import struct
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.kvm import KvmTarget, creation
from tests.integration.kvm.conftest import Bench
from tests.service.component import need
from tests.service.process import wait_for

#: What the firmware says on the first serial port when it can't or won't boot what it found.
REFUSAL = b"BdsDxe: failed"

#: What a boot loader of ours says there.
LOADER = b"a loader that nobody signed"

#: Where libvirt keeps the variables of its VMs, as it sees its directories.
NVRAM = "var/lib/libvirt/qemu/nvram"

#: x86-64: writes what follows it to the first serial port, whenever that is ready for a byte, and waits for ever.
PROGRAM = bytes.fromhex(
    "488d351b000000"  # lea rsi, [rip + 27]
    f"b9{len(LOADER):02x}000000"  # mov ecx, length
    "66bafd03 ec a820 74fb"  # next: mov dx, 3FDh; ready: in al, dx; test al, 20h; jz ready
    "ac 66baf803 ee"  # lodsb; mov dx, 3F8h; out dx, al
    "ffc9 75ed"  # dec ecx; jnz next
    "f4 ebfd"  # wait: hlt; jmp wait
)


def loader() -> bytes:
    """Return a UEFI boot loader: PE32+ as in Microsoft's "PE Format", with one section and nothing that is signed."""
    code = PROGRAM + LOADER
    coff = struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 0x200, 0, 0, 0x1000, 0x1000)
    optional += struct.pack("<QIIHHHHHHIIIIHH", 0, 0x1000, 0x200, 0, 0, 0, 0, 0, 0, 0, 0x2000, 0x200, 0, 10, 0)
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    section = struct.pack("<8sIIIIIIHHI", b".text", len(code), 0x1000, 0x200, 0x200, 0, 0, 0, 0, 0x60000020)
    head = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + section
    return head.ljust(0x200, b"\0") + code.ljust(0x200, b"\0")


def boot_disk(directory: Path) -> bytes:
    """Return a disk that boots by UEFI."""
    place = directory / "disk/EFI/BOOT"
    place.mkdir(parents=True)
    (place / "BOOTX64.EFI").write_bytes(loader())
    made = directory / "disk.raw"
    convert = ["qemu-img", "convert", "-f", "vvfat", "-O", "raw", f"fat:floppy:{directory}/disk", str(made)]
    subprocess.run(convert, check=True)
    return made.read_bytes()


@dataclass(frozen=True, slots=True)
class Firmware:
    """What a VM that runs has of firmware.

    Attributes:
        loader: The firmware's code, which all VMs share and none writes to.
        variables: The VM's own file of variables.
    """

    loader: Path
    variables: Path


def firmware_of(bench: Bench, name: str) -> Firmware:
    """Ask libvirt what a VM that runs has booted with."""
    system = ET.fromstring(bench.host.virsh("dumpxml", name)).find("os")
    assert system is not None
    found = Firmware(Path(system.findtext("loader", "")), variables(bench) / Path(system.findtext("nvram", "")).name)
    assert found.loader.exists()
    assert found.variables.stat().st_size > 0
    return found


def variables(bench: Bench) -> Path:
    """Return libvirt's directory of variables as it is seen from outside."""
    return Path(f"/proc/{bench.host.first_pid}/root") / NVRAM


def kept(bench: Bench) -> list[str]:
    """Return whose variables libvirt keeps: the VMs of this replica."""
    found = variables(bench).glob(f"{bench.replica.vm_name}*_VARS.fd")
    return sorted(file.name.removesuffix("_VARS.fd") for file in found)


@pytest.fixture
def uefi(bench: Bench) -> Bench:
    """A replica whose standby boots by UEFI."""
    need("ovmf")
    bench.replica = replace(bench.replica, firmware="uefi", memory_bytes=256 * MiB)
    return bench


@pytest.fixture
def target(uefi: Bench, tmp_path: Path) -> KvmTarget:
    """The host, with one point on it, which can boot."""
    made = uefi.connect()
    made.create(uefi.replica)
    uefi.point(made, None, boot_disk(tmp_path))
    return made


def test_the_standby_keeps_its_variables_until_it_is_removed(uefi: Bench, target: KvmTarget) -> None:
    name = uefi.replica.vm_name
    defined = ET.fromstring(uefi.host.virsh("dumpxml", name)).find("os")
    assert defined is not None
    assert defined.get("firmware") == "efi"
    assert kept(uefi) == []
    assert target.start(uefi.replica, StartRequest()).state == "running"
    assert firmware_of(uefi, name).variables.name == f"{name}_VARS.fd"
    target.stop(uefi.replica, None)
    assert kept(uefi) == [name]
    target.remove(uefi.replica)
    assert kept(uefi) == []
    assert name not in uefi.host.virsh("list", "--all", "--name").split()
    assert not uefi.directory.exists()


def test_the_next_point_leaves_the_standbys_variables_as_they_are(uefi: Bench, target: KvmTarget) -> None:
    target.start(uefi.replica, StartRequest())
    before = firmware_of(uefi, uefi.replica.vm_name)
    target.stop(uefi.replica, None)
    with before.variables.open("r+b") as stream:
        stream.seek(-16, 2)
        stream.write(b"told by a guest!")
    journal = target.inspect(uefi.replica)
    assert journal is not None
    uefi.point(target, journal.points[-1], b"1" * GRAIN)
    target.start(uefi.replica, StartRequest())
    assert firmware_of(uefi, uefi.replica.vm_name) == before
    assert before.variables.read_bytes().endswith(b"told by a guest!")


def test_what_boots_unsigned_on_the_source_boots_on_the_standby(uefi: Bench, target: KvmTarget) -> None:
    """Most sources never had Secure Boot switched on: a firmware that insists on it would start none of them."""
    log = uefi.directory.parent / "serial.log"
    vm = target.start(uefi.replica, StartRequest(test_id="t1", serial_log=str(log)))
    assert uefi.host.virsh("domstate", vm.name).strip() == "running"
    wait_for(lambda: any(text in log.read_bytes() for text in (LOADER, REFUSAL)), "the firmware to decide")
    assert LOADER in log.read_bytes(), log.read_text(errors="replace")
    assert kept(uefi) == [vm.name]
    target.stop(uefi.replica, "t1")
    assert kept(uefi) == []
    assert vm.name not in uefi.host.virsh("list", "--all", "--name").split()


def test_two_tests_and_the_standby_share_no_variables(uefi: Bench, target: KvmTarget) -> None:
    name = uefi.replica.vm_name
    for test_id in (None, "t1", "t2"):
        target.start(uefi.replica, StartRequest(test_id=test_id))
    found = [firmware_of(uefi, each) for each in (name, f"{name}-test-t1", f"{name}-test-t2")]
    assert len({firmware.variables.stat().st_ino for firmware in found}) == 3
    assert len({firmware.loader for firmware in found}) == 1
    target.stop(uefi.replica, "t1")
    assert kept(uefi) == [name, f"{name}-test-t2"]
    assert uefi.host.virsh("domstate", f"{name}-test-t2").strip() == "running"
    # What is left of a test goes with the replica.
    target.stop(uefi.replica, None)
    target.remove(uefi.replica)
    assert kept(uefi) == []
    assert not [each for each in uefi.host.virsh("list", "--all", "--name").split() if each.startswith(name)]


def test_a_host_without_the_firmware_is_refused_before_anything_is_made(
    uefi: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "has_uefi", lambda _host: False)
    with pytest.raises(BootpointError) as caught:
        uefi.connect().create(uefi.replica)
    assert (caught.value.code, caught.value.key, caught.value.value) == (Code.HOST_UNSUPPORTED, "vm.firmware", "uefi")
    assert "ovmf" in caught.value.message
    assert not uefi.directory.exists()
