"""Conversions that take minutes: boots of every kind, virt-v2v-in-place, and kills at each step."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from bootpoint_common.errors import Code, FatalError
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.kvm.conversion import v2v
from tests.service import guest, lvm_guest
from tests.service.boot import BOOT, greeting, running, wait_for_text
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.physical import Make, Physical, make
from tests.service.sshd import SshServer

__all__ = ["make"]

#: Kills for each step of a conversion.
KILLS = 8

STEPS = ("convert:layers", "convert:look", "convert:write", "convert:loader", "convert:done")

#: What firmware says that finds nothing to boot from.
NOTHING = ("UEFI Interactive Shell", "No bootable option", "failed to load Boot", "Shell>")

pytestmark = pytest.mark.long


def on(host: LibvirtHost, text: str) -> None:
    """Run lines on the host, as root who has logged in there."""
    enter = ["nsenter", "--target", str(host.first_pid), "--mount", "--pid", "--", "sh"]
    done = subprocess.run(enter, input=text, capture_output=True, text=True, timeout=BOOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(4 * BOOT)
def test_the_runbook_alone_boots_a_machine_that_knows_ide_alone(make: Make, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "by-hand")
    physical = make(disk)
    physical.target.examine(physical.replica, physical.points[-1].point_id)
    text = (physical.directory / "RUNBOOK.txt").read_text()
    block = re.search(r"^# BEGIN .*?^# END \S+\n", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    # The serial port to a file instead of a terminal that somebody would have to watch.
    lines = block[0].replace('<serial type="pty">', f'<serial type="file"><source path="{physical.log}"/>')
    on(physical.host, lines)
    wait_for_text(physical.log, greeting("by-hand"))
    assert "root=/dev/sda1" in physical.log.read_text(errors="replace")
    physical.host.wait_until_off(physical.replica.vm_name)


@pytest.mark.timeout(4 * BOOT)
def test_a_machine_whose_loader_only_its_firmware_knew_boots_once_converted(make: Make, tmp_path: Path) -> None:
    need("mtools", "ovmf")
    disk = tmp_path / "disk.raw"
    guest.uefi_disk(disk, "efi")
    firmware = ["-M", "q35", "-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"]
    variables = tmp_path / "vars.fd"
    variables.write_bytes(Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes())
    firmware += ["-drive", f"if=pflash,format=raw,file={variables}"]
    with running(disk, tmp_path / "before.log", firmware):
        assert wait_for_text(tmp_path / "before.log", greeting("efi"), *NOTHING) in NOTHING
    physical = make(disk, firmware="uefi")
    vm = physical.target.start(physical.replica, StartRequest(test_id="t1", serial_log=str(physical.log)))
    wait_for_text(physical.log, greeting("efi"))
    physical.host.wait_until_off(vm.name)


@pytest.mark.timeout(6 * BOOT)
def test_virt_v2v_makes_a_machine_boot_on_virtio(make: Make, tmp_path: Path) -> None:
    need("virt-v2v")
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "v2v")
    # virt-v2v insists on the tool; the disk's configuration of GRUB was written by hand.
    guest.put(disk, {"/usr/sbin/grub-mkconfig": "#!/bin/sh\nexit 0\n"})
    guest.debugfs(disk, "set_inode_field /usr/sbin/grub-mkconfig mode 0100755")
    config = guest.debugfs(disk, "cat /boot/grub/grub.cfg")
    uuid = re.findall(r"--fs-uuid --set=root (\S+)", config)[0]
    guest.put(disk, {"/boot/grub/grub.cfg": config.replace("root=/dev/sda1", f"root=UUID={uuid}")})
    physical = make(disk)
    before = physical.digests()
    vm = physical.target.start(
        physical.replica, StartRequest(test_id="t1", serial_log=str(physical.log), conversion="v2v")
    )
    wait_for_text(physical.log, greeting("v2v"))
    assert "root=/dev/vda1" in physical.log.read_text(errors="replace")
    physical.host.wait_until_off(vm.name)
    assert physical.leftovers() == []
    assert physical.digests() == before


@pytest.mark.timeout(8 * BOOT)
def test_a_machine_with_its_root_on_lvm_boots_on_virtio(make: Make, tmp_path: Path) -> None:
    need("virt-v2v", "lvm")
    disk = tmp_path / "disk.raw"
    lvm_guest.lvm_disk(disk, "lvm")
    with running(disk, tmp_path / "before.log"):
        wait_for_text(tmp_path / "before.log", f"ALERT!  {lvm_guest.ROOT} does not exist")
    physical = make(disk)
    before = physical.digests()
    profile = physical.target.examine(physical.replica, physical.points[-1].point_id)
    assert profile.route == "v2v"
    reason = "no Linux was found on a plain partition: partition 2 of disk0 is a physical volume of LVM"
    assert f"the light conversion can't be done because {reason}" in [problem.text for problem in profile.problems]
    assert reason in (physical.directory / "RUNBOOK.txt").read_text()
    vm = physical.target.start(physical.replica, StartRequest(test_id="t1", serial_log=str(physical.log)))
    wait_for_text(physical.log, f"{greeting('lvm')}root={lvm_guest.ROOT} ")
    physical.host.wait_until_off(vm.name)
    assert physical.leftovers() == []
    assert physical.digests() == before


def test_a_conversion_by_virt_v2v_that_takes_too_long_says_so(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("virt-v2v")
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "slow")
    physical = make(disk)
    monkeypatch.setattr(v2v, "V2V_SECONDS", 2)
    with pytest.raises(FatalError, match="virt-v2v-in-place was not done after 2 s") as failure:
        physical.target.start(physical.replica, StartRequest(test_id="t1", conversion="v2v"))
    assert failure.value.code is Code.CONVERSION_FAILED
    assert physical.leftovers() == []


def test_a_machine_is_converted_over_ssh(make: Make, sshd_server: SshServer, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "far")
    physical = make(disk, ssh=sshd_server)
    before = physical.digests()
    physical.target.start(physical.replica, StartRequest(test_id="t1", paused=True, conversion="light"))
    assert "10-bootpoint-0.link" in guest.debugfs(_scratch(physical), "ls /etc/systemd/network")
    assert physical.leftovers() == []
    assert physical.digests() == before


@pytest.mark.timeout(1200)
def test_dracut_makes_an_initramfs_with_virtio(make: Make, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    guest.dracut_disk(disk)
    physical = make(disk)
    profile = physical.target.examine(physical.replica, physical.points[-1].point_id)
    assert profile.route == "light"
    assert any("dracut" in action for action in profile.actions)
    before = physical.digests()
    physical.target.start(physical.replica, StartRequest(test_id="t1", paused=True))
    (name,) = re.findall(r"initrd\.img-[^/]+", guest.debugfs(_scratch(physical), "ls -p /boot"))
    guest.debugfs(_scratch(physical), f"dump /boot/{name} {tmp_path}/initrd")
    listing = subprocess.run(["lsinitramfs", tmp_path / "initrd"], capture_output=True, text=True, check=True).stdout
    assert {"virtio_pci", "virtio_blk"} <= set(re.findall(r"/([a-z0-9_]+)\.ko", listing))
    assert physical.leftovers() == []
    assert physical.digests() == before


def _scratch(physical: Physical) -> Path:
    (layer,) = physical.directory.glob("*.scratch-test-t1-*.qcow2")
    raw = physical.directory / "scratch.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", layer, raw], check=True)
    return raw


#: A worker that starts a test and kills itself, with all that it runs on the host or without, at a step.
_WORKER = """
import os, signal, sys
import msgspec
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.kvm import KvmTarget
from bootpoint_worker.targets.replica import Replica
def step(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
replica = msgspec.json.decode(sys.argv[1].encode(), type=Replica)
access = HostAccess(name="kvm1", kind="kvm", address="local", port=22, user="root",
    settings={"virt_type": "qemu", "libvirt_socket": sys.argv[3]})
KvmTarget(access=access, step=step).start(replica, StartRequest(test_id="t1", paused=True))
"""


def _kill(physical: Physical, step: str, rng: random.Random) -> str:
    """Let a worker die at a step, or within it with what it runs on the host; returns how it went."""
    import msgspec

    # Half of them die at the step itself, half a moment after it, in the midst of what the host does.
    at = step if rng.random() < 0.5 else "never"
    words = [msgspec.json.encode(physical.replica).decode(), at, str(physical.host.socket)]
    # What it started may outlive it, and would keep a pipe open.
    with tempfile.TemporaryFile() as said:
        worker = subprocess.Popen([sys.executable, "-c", _WORKER, *words], stderr=said)
        if at == "never":
            try:
                worker.wait(timeout=rng.uniform(0.3, 3.0))
            except subprocess.TimeoutExpired:
                worker.kill()
                if rng.random() < 0.5:
                    _kill_daemons(physical)
        code = worker.wait(timeout=BOOT)
        said.seek(0)
        assert code in (0, -signal.SIGKILL), said.read().decode()
    return "killed" if code else "done"


def _kill_daemons(physical: Physical) -> None:
    """Kill what a conversion runs on the host."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"qemu-storage-daemon" in line and str(physical.directory.name).encode() in line:
            os.kill(int(entry.name), signal.SIGKILL)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["bios", "uefi"])
def test_a_conversion_that_is_killed_anywhere_costs_no_point(
    make: Make, tmp_path: Path, rng: random.Random, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "killed") if kind == "bios" else guest.uefi_disk(disk, "killed")
    physical = make(disk, firmware=kind)
    physical.target.examine(physical.replica, physical.points[-1].point_id)
    before = physical.digests()
    seed = os.environ.get("BOOTPOINT_SEED") or "0"
    table: Counter[tuple[str, str]] = Counter()
    for step in STEPS if kind == "bios" else ("convert:loader",):
        if step == "convert:loader" and kind == "bios":
            continue
        # Some have ended before they are hit.
        while table[step, "killed"] < KILLS:
            result = _kill(physical, step, rng)
            assert physical.digests() == before
            vm = physical.target.start(physical.replica, StartRequest(test_id="t1", paused=True))
            assert vm.name.endswith("-test-t1")
            assert physical.leftovers() == []
            physical.target.stop(physical.replica, "t1")
            assert physical.digests() == before
            table[step, result] += 1
    with capsys.disabled():
        for (step, result), count in sorted(table.items()):
            sys.stdout.write(f"\n{kind:5} {step:16} {result:8} {count:3}  seed {seed}  points lost 0")
        sys.stdout.write("\n")
