"""Machines converted on a real KVM host: what changes in the scratch layer, what doesn't anywhere else."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_ops import guest_disk
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.kvm.conversion import end_all
from tests.service import guest, hostile
from tests.service.component import need
from tests.service.physical import Make, Physical, commands, make
from tests.service.process import wait_for

__all__ = ["make"]

PAUSED = StartRequest(test_id="t1", paused=True)

#: Device nodes of the host that a root of the same number could spoil.
NODES = (Path("/dev/null"), Path("/dev/zero"))


@dataclass(frozen=True, slots=True)
class Old:
    """A disk that boots on IDE only, made once."""

    path: Path
    uuid: str


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Old:
    need("root", "mmdebstrap", "grub")
    path = tmp_path_factory.mktemp("old") / "disk.raw"
    return Old(path, str(guest.ide_disk(path, "old")))


def scratch(physical: Physical, label: str = "test-t1-") -> Path:
    """Return the scratch layer of a VM as a raw disk."""
    (layer,) = physical.directory.glob(f"*.scratch-{label}*.qcow2")
    raw = physical.directory / "scratch.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", layer, raw], check=True)
    return raw


def drivers(raw: Path, work: Path) -> set[str]:
    """Return the drivers in the initramfs of a raw disk."""
    found = guest.debugfs(raw, "ls -p /boot")
    names = re.findall(r"initrd\.img-[^/]+", found)
    names = [name for name in names if not name.endswith(".dpkg-bak")]
    guest.debugfs(raw, f"dump /boot/{names[0]} {work}/initrd")
    listing = subprocess.run(["lsinitramfs", work / "initrd"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"/([a-z0-9_]+)\.ko", listing))


def examined(physical: Physical) -> Profile:
    return physical.target.examine(physical.replica, physical.points[-1].point_id)


@pytest.mark.timeout(300)  # the first use on a machine makes the disk's tree
def test_an_old_machine_gets_what_virtio_needs_and_the_point_stays(make: Make, old: Old, tmp_path: Path) -> None:
    physical = make(old.path)
    before = physical.digests()
    profile = examined(physical)
    assert (profile.system.family, profile.system.name) == ("linux", "Debian GNU/Linux")
    assert (profile.route, profile.bus, profile.firmware, profile.boot_disk) == ("light", "ide", "bios", "disk0")
    assert profile.problems == ()
    assert physical.leftovers() == []
    physical.target.start(physical.replica, PAUSED)
    raw = scratch(physical)
    assert {"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"} <= drivers(raw, tmp_path)
    assert guest.debugfs(raw, "cat /etc/fstab").count(f"UUID={old.uuid} / ext4") == 1
    assert f"root=UUID={old.uuid}" in guest.debugfs(raw, "cat /boot/grub/grub.cfg")
    journal = physical.target.inspect(physical.replica)
    assert journal is not None
    assert journal.profile == profile
    # The guest is told the MAC that the test has, not the standby's.
    xml = physical.host.virsh("dumpxml", f"{physical.replica.vm_name}-test-t1")
    (mac,) = re.findall(r"<mac address='([^']+)'", xml)
    assert mac != physical.replica.nics[0].mac
    assert f"MACAddress={mac}" in guest.debugfs(raw, "cat /etc/systemd/network/10-bootpoint-0.link")
    assert "bus='virtio'" in xml
    # Unconverted, the standby has hardware that the machine knows.
    assert "bus='ide'" in physical.host.virsh("dumpxml", physical.replica.vm_name)
    assert physical.leftovers() == []
    assert physical.digests() == before
    loops = subprocess.run(["losetup", "--list", "--noheadings"], capture_output=True, text=True, check=True)
    assert f"{physical.directory.name}/run/convert" not in loops.stdout  # others may convert beside us


def test_without_conversion_the_machine_starts_as_it_is(make: Make, old: Old) -> None:
    physical = make(old.path)
    physical.target.start(physical.replica, StartRequest(test_id="t1", paused=True, conversion="none"))
    (layer,) = physical.directory.glob("*.scratch-test-t1-*.qcow2")
    assert layer.stat().st_size < 1 << 20
    with pytest.raises(BootpointError) as caught:
        physical.target.start(physical.replica, StartRequest(test_id="t2", paused=True, conversion="magic"))
    assert caught.value.code is Code.SPEC_INVALID


@pytest.mark.timeout(300)
def test_a_hostile_machine_harms_nothing(make: Make, storage_directory: Path, tmp_path: Path) -> None:
    place = storage_directory / "canary"
    place.mkdir()
    canary = place / "file"
    canary.write_text("alive")
    token = f"hostile-{os.getpid()}"
    disk = tmp_path / "disk.raw"
    hostile.hostile_disk(disk, canary, token)
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    nodes = [(node.stat().st_mode, node.stat().st_uid) for node in NODES]
    physical = make(disk)
    before = physical.digests()
    physical.target.start(physical.replica, PAUSED)
    # It tried everything, could do nothing of it, and was converted.
    assert guest.debugfs(scratch(physical), f"cat {hostile.REPORT}").split() == ["tried"]
    assert canary.read_text() == "alive"
    assert sorted(path.name for path in place.iterdir()) == ["file"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    assert [(node.stat().st_mode, node.stat().st_uid) for node in NODES] == nodes
    assert [line for line in commands() if token in line] == []
    assert physical.leftovers() == []
    assert physical.digests() == before


@pytest.mark.parametrize("name", ["run"])
def test_a_link_in_place_of_a_system_directory_is_never_followed(
    make: Make, old: Old, storage_directory: Path, tmp_path: Path, name: str
) -> None:
    place = storage_directory / "canary"
    place.mkdir()
    disk = tmp_path / "disk.raw"
    subprocess.run(["cp", "--sparse=always", old.path, disk], check=True)
    with guest.mounted(disk) as root:
        (root / name).rename(root / f"{name}.old")
        (root / name).symlink_to(place)
    profile = examined(make(disk))
    assert profile.route != "light"
    assert any(f"/{name} of the guest is a link" in problem.text for problem in profile.problems)
    assert list(place.iterdir()) == []


def test_a_failing_tool_leaves_no_trace_and_another_way_is_open(make: Make, old: Old, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    subprocess.run(["cp", "--sparse=always", old.path, disk], check=True)
    guest.put(disk, {"/usr/sbin/update-initramfs": "#!/bin/sh\necho there is no room >&2\nexit 1\n"})
    guest.debugfs(disk, "set_inode_field /usr/sbin/update-initramfs mode 0100755")
    physical = make(disk)
    examined(physical)
    before, files = physical.digests(), sorted(path.name for path in physical.directory.iterdir())
    with pytest.raises(BootpointError) as caught:
        physical.target.start(physical.replica, PAUSED)
    assert caught.value.code is Code.CONVERSION_FAILED
    assert "there is no room" in caught.value.message
    assert "--conversion" in (caught.value.hint or "")
    assert sorted(path.name for path in physical.directory.iterdir()) == files
    assert physical.leftovers() == []
    assert physical.digests() == before
    vm = physical.target.start(physical.replica, StartRequest(test_id="t1", paused=True, conversion="none"))
    assert vm.name in physical.host.virsh("list", "--all", "--name").split()


@pytest.mark.timeout(300)
def test_a_file_with_spaces_in_its_name_is_put_aside(make: Make, old: Old, tmp_path: Path) -> None:
    """As NetworkManager names what it makes by itself."""
    disk, name = tmp_path / "disk.raw", "Wired connection 1.nmconnection"
    subprocess.run(["cp", "--sparse=always", old.path, disk], check=True)
    with guest.mounted(disk) as root:
        connections = root / "etc/NetworkManager/system-connections"
        connections.mkdir(parents=True)
        (connections / name).write_text(f"[connection]\ninterface-name={guest.CARD}\n")
    physical = make(disk, addressing="dhcp")
    physical.target.start(physical.replica, PAUSED)
    raw = scratch(physical)
    listing = guest.debugfs(raw, "ls -p /etc/NetworkManager/system-connections")
    assert re.findall(r"/(Wired[^/]*)/", listing) == [f"{name}.bootpoint-source"]
    assert {"virtio_blk", "virtio_net"} <= drivers(raw, tmp_path)


class Died(BaseException):
    """The worker died here."""


@pytest.mark.parametrize("died", ["convert:look", "convert:write", "convert:done"])
def test_the_end_of_a_test_whose_start_died_leaves_nothing_on_the_point(make: Make, old: Old, died: str) -> None:
    physical = make(old.path)
    examined(physical)

    def die(name: str) -> None:
        if name == died:
            raise Died

    physical.step = die
    with pytest.raises(Died):
        physical.target.start(physical.replica, PAUSED)
    physical.step = lambda _name: None
    assert physical.leftovers() != []
    physical.target.stop(physical.replica, "t1")
    assert physical.leftovers() == []


@pytest.mark.timeout(300)
def test_a_start_that_died_at_any_step_is_done_by_the_next(make: Make, old: Old) -> None:
    physical = make(old.path)
    examined(physical)
    before = physical.digests()
    seen: list[str] = []
    physical.step = seen.append
    physical.target.start(physical.replica, PAUSED)
    physical.target.stop(physical.replica, "t1")
    steps = [name for name in seen if name.startswith("convert:")]
    assert steps == ["convert:layers", "convert:look", "convert:write", "convert:done"]
    for wanted in steps:

        def step(name: str, wanted: str = wanted) -> None:
            if name == wanted:
                raise Died

        physical.step = step
        with pytest.raises(Died):
            physical.target.start(physical.replica, PAUSED)
        assert physical.digests() == before
    assert len(list(physical.directory.glob("*.convert-*"))) == 1  # each start ended what the one before had left
    physical.step = lambda _name: None
    assert physical.target.start(physical.replica, PAUSED).name.endswith("-test-t1")
    assert physical.leftovers() == []
    assert physical.digests() == before


@pytest.mark.timeout(300)
def test_a_machine_whose_loader_only_its_firmware_knew_gets_it_where_any_looks(make: Make, tmp_path: Path) -> None:
    need("mtools", "ovmf")
    disk = tmp_path / "disk.raw"
    guest.uefi_disk(disk, "uefi")
    physical = make(disk, firmware="uefi")
    profile = examined(physical)
    assert (profile.firmware, profile.loader, profile.route) == ("uefi", "EFI/debian/grubx64.efi", "light")
    assert "FS0:\\EFI\\debian\\grubx64.efi" in (physical.directory / "RUNBOOK.txt").read_text()
    before = physical.digests()
    physical.target.start(physical.replica, PAUSED)
    at = f"{scratch(physical)}@@{guest.ESP_OFFSET}"
    listing = subprocess.run(["mdir", "-/", "-b", "-i", at, "::/EFI"], capture_output=True, text=True, check=True)
    assert "::/EFI/BOOT/BOOTX64.EFI" in listing.stdout
    assert physical.leftovers() == []
    assert physical.digests() == before


def at_work(marker: str) -> bool:
    """Tell whether a program of the guest with this marker makes an initramfs."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"mkinitramfs" in (entry / "cmdline").read_bytes():
                inside = entry / "root" / guest_disk.MARKER_FILE.lstrip("/")
                if inside.read_text() == marker:
                    return True
    return False


def test_a_conversion_that_is_killed_while_it_writes_leaves_the_kernel_nothing_to_wait_for(
    make: Make, old: Old, tmp_path: Path
) -> None:
    """A daemon that were the last user of what it serves would wait for itself, and every sync on the host for it."""
    disk = tmp_path / "disk.raw"
    subprocess.run(["cp", "--sparse=always", old.path, disk], check=True)
    guest.put(disk, {guest_disk.MARKER_FILE: tmp_path.name})
    physical = make(disk)
    examined(physical)
    before = physical.digests()
    caught: list[BaseException] = []

    def start() -> None:
        try:
            physical.target.start(physical.replica, PAUSED)
        except BootpointError as problem:
            caught.append(problem)

    thread = threading.Thread(target=start)
    thread.start()
    wanted = f"{physical.directory}/run/convert-"
    wait_for(lambda: at_work(tmp_path.name), "the guest's own tool")
    other = physical.connect()
    end_all(other.host.place(physical.replica))
    other.close()
    thread.join()
    assert [getattr(problem, "code", None) for problem in caught] == [Code.BUSY]
    assert [line for line in commands() if wanted in line] == []
    assert physical.leftovers() == []
    subprocess.run(["sync"], check=True, timeout=60)
    assert physical.digests() == before
    assert physical.target.start(physical.replica, PAUSED).name.endswith("-test-t1")
