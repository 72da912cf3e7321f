"""A machine kept on an ESXi or a Hyper-V host: every boot point, read from the host's files, is booted by QEMU.

It shows the marker that the source had at its instant. Retention consolidates the oldest point meanwhile, and a revert
is undone by the next run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bootpoint_ops import guest_disk
from tests.service.boot import greeting, running, wait_for_text
from tests.service.component import need
from tests.service.esxi_site import esxi_site
from tests.service.hyperv_site import hyperv_site
from tests.service.process import wait_for
from tests.service.site import PATIENCE, Site

#: Runs: the first copies the disk, the others bring increments.
RUNS = 4

#: Points that the job keeps: the run after the third has the oldest consolidated.
POINTS = 3


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("opened", [pytest.param(esxi_site, id="esxi"), pytest.param(hyperv_site, id="hyperv")])
def test_every_boot_point_boots_and_shows_its_instant(
    database: str, tmp_path: Path, opened: Callable[..., AbstractContextManager[Site]]
) -> None:
    need("root", "qemu")
    disk, found = tmp_path / "system.raw", tmp_path / "found.raw"
    guest_disk.build(disk, marker="generation-0", size_bytes=guest_disk.SMALLEST)
    with opened(database, tmp_path, disk, points=POINTS) as site:
        for number in range(RUNS):
            guest_disk.set_marker(disk, f"generation-{number}")
            site.protect()
        # The oldest point goes when the newest is there.
        site.fleet.wait_until(
            lambda: site.fleet.row("SELECT 1 FROM boot_point WHERE consolidated_at IS NOT NULL"), PATIENCE
        )
        assert site.check() == POINTS
        points = site.fleet.points(site.job)
        for number, point in enumerate(points, start=RUNS - POINTS):
            site.flatten(point, found)
            log, wanted = tmp_path / f"serial-{number}.log", greeting(f"generation-{number}")
            with running(found, log):
                assert wait_for_text(log, wanted, "Kernel panic") == wanted

        with site.session() as (target, replica):
            target.revert(replica, points[0].id)
        site.read_standby(found)
        assert guest_disk.read_marker(found) == "generation-1"
        guest_disk.set_marker(disk, "generation-4")
        site.protect()
        # What the standby stands on stays: the next one goes.
        wait_for(lambda: len(site.fleet.points(site.job)) == POINTS, "the consolidation of the next point", PATIENCE)
        assert site.check() == POINTS
        assert site.fleet.points(site.job)[0].id == points[0].id
