"""A machine that knows no hardware of Hyper-V's: converted above a point, its disk read by others, and booted."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.hyperv.target import HyperVTarget
from tests.contract.driver_hyperv import HyperVHooks, hyperv
from tests.hyperv.readers import by_dissect
from tests.long.test_esxi_conversion_long import _bench, _replicated
from tests.service import guest
from tests.service.boot import BOOT, greeting, running, wait_for_text

pytestmark = pytest.mark.long


def _flatten(hooks: HyperVHooks, name: str, size: int, raw: Path) -> None:
    """Write what the only disk of a VM shows, as an independent reader reads it, into a file."""
    path = hooks.host.locate(hooks.host.machine(name).hard_drives[0].path)
    with raw.open("wb") as file:
        for offset in range(0, size, MiB):
            file.write(by_dissect(path, offset, min(MiB, size - offset)))


@pytest.mark.timeout(4 * BOOT)
def test_a_machine_that_knows_ide_alone_gets_the_drivers_of_hyper_v_and_boots(tmp_path: Path) -> None:
    disk, raw, log = tmp_path / "disk.raw", tmp_path / "converted.raw", tmp_path / "serial.log"
    guest.ide_disk(disk, "hyperv")
    size = disk.stat().st_size
    with hyperv(tmp_path) as driver:
        assert isinstance(driver.hooks, HyperVHooks)
        bench = _bench(driver, disk)
        with closing(bench.target):
            point = _replicated(driver, bench, disk)
            profile = bench.target.examine(bench.replica, point.point_id)
            assert profile.route == "light", profile
            assert any("hv_storvsc" in action for action in profile.actions)
            vm = bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True))
            _flatten(driver.hooks, vm.name, size, raw)
            bench.target.stop(bench.replica, "t1")
            assert bench.read(point.point_id, size=size) == disk.read_bytes()
            # The conversion has written its addresses: the host has nothing to tell it.
            bench.target.start(bench.replica, StartRequest(paused=True))
            assert isinstance(bench.target, HyperVTarget)
            assert bench.target.tell_addresses(bench.replica, 0) == ()
            bench.target.start(bench.replica, StartRequest(paused=True, conversion="none"))
            assert len(bench.target.tell_addresses(bench.replica, 0)) == len(bench.replica.nics) == 1
            bench.target.remove(bench.replica)
    # QEMU has no such disks. That it boots from IDE, too, shows that its file systems and its loader are whole.
    with running(raw, log, bus="ide"):
        assert wait_for_text(log, greeting("hyperv"), "Kernel panic", "ALERT!") == greeting("hyperv")
