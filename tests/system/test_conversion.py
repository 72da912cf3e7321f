"""A machine whose initramfs knows IDE alone: it doesn't boot on virtio, and once converted it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootpoint_worker.targets.base import StartRequest
from tests.service import guest
from tests.service.boot import BOOT, greeting, running, wait_for_text
from tests.service.physical import Make, make

__all__ = ["make"]

#: What an initramfs says that looks for its root in vain, and what it ends with.
VAIN = ("Waiting for root file system", "(initramfs)")


@pytest.mark.timeout(3 * BOOT)
def test_a_machine_that_knows_ide_alone_boots_on_virtio_once_converted(make: Make, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "moved")
    config = guest.debugfs(disk, "cat /boot/grub/grub.cfg")
    guest.put(disk, {"/boot/grub/grub.cfg": config.replace(" quiet", "")})  # so that it says what it waits for
    with running(disk, tmp_path / "before.log"):
        assert wait_for_text(tmp_path / "before.log", greeting("moved"), *VAIN) in VAIN
    physical = make(disk)
    before = physical.digests()
    vm = physical.target.start(physical.replica, StartRequest(test_id="t1", serial_log=str(physical.log)))
    assert "bus='virtio'" in physical.host.virsh("dumpxml", vm.name)
    wait_for_text(physical.log, greeting("moved"))
    text = physical.log.read_text(errors="replace")
    assert "root=/dev/vda1" in text
    physical.host.wait_until_off(vm.name)
    assert physical.digests() == before
