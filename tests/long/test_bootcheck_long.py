"""Boot checks of machines that fail each in its own way, of a slow one, and of an old point while a new one is made."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from bootpoint_ops import guest_disk
from tests.service import broken_guest, guest
from tests.service.bootable import bootable
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.process import wait_for

#: What is done to the machine's disk -> verdict, and what its reason has to name: it depends on when it was looked at.
CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "nothing": (lambda _disk: None, "boots", "BOOTPOINT-GUEST"),
    "zeroed MBR": (broken_guest.zeroed_mbr, "does_not_boot", "No bootable device"),
    "zeroed boot code": (broken_guest.zeroed_boot_code, "does_not_boot", "nothing moved"),
    "removed initrd": (broken_guest.removed_initrd, "does_not_boot", "Unable to mount root"),
    "wrong root UUID": (broken_guest.wrong_root, "does_not_boot", "initramfs|root was not found"),
    "kernel panic": (partial(broken_guest.panic, again=0), "does_not_boot", "Attempted to kill init"),
    "kernel panic that resets": (partial(broken_guest.panic, again=5), "does_not_boot", "panic"),
    "endless reboot": (broken_guest.endless_reboot, "does_not_boot", r"reset \d times"),
    "login on its screen": (broken_guest.login_on_the_screen, "boots", "screen-guest login"),
    "guest agent": (broken_guest.guest_agent, "boots", "guest agent"),
    "60 s until its login": (broken_guest.slow, "boots", "login"),
}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_machine_is_judged_by_what_it_does(
    database: str, tmp_path: Path, libvirt_host: LibvirtHost, storage_directory: Path
) -> None:
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-img", "qemu-nbd")
    with bootable(database, tmp_path, libvirt_host, storage_directory) as machine:
        points = {name: machine.point(change) for name, (change, _, _) in CASES.items()}
        asked = {name: machine.begin(point_id) for name, point_id in points.items()}
        found = {name: machine.end_of(uid)["boot"] for name, uid in asked.items()}
        for name, boot in found.items():
            sys.stderr.write(f"{name:26} {boot['verdict']:14} {boot['duration_seconds']:6.1f} s  {boot['reason']}\n")
        assert {name: boot["verdict"] for name, boot in found.items()} == {
            name: verdict for name, (_, verdict, _) in CASES.items()
        }
        for name, (_, _, said) in CASES.items():
            assert re.search(said, found[name]["reason"]), name
        assert found["60 s until its login"]["duration_seconds"] >= broken_guest.SLOW_SECONDS
        # Any number of boots has changed no point.
        assert machine.protected.check() == len(CASES)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_older_point_boots_while_an_increment_is_applied(
    database: str, tmp_path: Path, libvirt_host: LibvirtHost, storage_directory: Path
) -> None:
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-img", "qemu-nbd")
    with bootable(database, tmp_path, libvirt_host, storage_directory) as machine:
        older = machine.point(lambda disk: guest_disk.set_marker(disk, "generation-1"))
        machine.point(lambda disk: guest_disk.set_marker(disk, "generation-2"))
        guest_disk.set_marker(machine.disk, "generation-3")
        # Something to be applied meanwhile.
        guest.put(machine.disk, {"/var/ballast": "".join(f"{number:08}" * (MiB // 16) for number in range(48))})
        test = machine.begin(older, "test")
        wait_for(lambda: machine.item(test)["state"] == "running", "the test")
        (serial,) = machine.protected.directory().glob("test-*.serial.log")
        assert b"BOOTPOINT-GUEST" not in serial.read_bytes()
        machine.fleet.wait(machine.protected.begin())
        committed = machine.fleet.points(machine.protected.job)
        assert len(committed) == 3
        wait_for(lambda: b"BOOTPOINT-GUEST" in serial.read_bytes(), "the older point's guest", 300.0)
        assert b"marker=generation-1 " in serial.read_bytes()
        machine.stop(test)
        assert machine.protected.check() == 3
        # The same disk, checked by its newest point.
        boot = machine.end_of(machine.begin(committed[-1].id))["boot"]
        assert boot["verdict"] == "boots"
