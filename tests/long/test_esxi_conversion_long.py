"""Machines that know no hardware of VMware's: converted above a point, and started on paravirtual SCSI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.esxi.target import EsxiTarget
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.replica import Addressing, ReplicaDisk
from tests.contract.driver_esxi import GUISES, esxi
from tests.contract.drivers import Driver
from tests.contract.test_target import Bench, _replica
from tests.service import guest
from tests.service.boot import BOOT, greeting
from tests.service.process import wait_for

pytestmark = pytest.mark.long


@pytest.fixture
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """A host that runs its machines: of the newest release, unless a test asks for another."""
    with esxi(tmp_path, getattr(request, "param", "8.0"), runs_guests=True) as made:
        yield made


def _replicated(driver: Driver, bench: Bench, disk: Path) -> JournalPoint:
    """Replicate a disk as the first point."""
    layer = bench.open()["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer, disk.open("rb") as source:
        for offset in range(0, disk.stat().st_size, MiB):
            data = source.read(MiB)
            if data.count(0) != len(data):
                writer.write(offset, data)
        writer.flush()
    return bench.commit({"system": layer})


def _bench(driver: Driver, disk: Path) -> Bench:
    target = driver.connect()
    replica = _replica(driver, disks=1)
    spec = ReplicaDisk("system", disk.stat().st_size, f"{replica.vm_name}-system")
    replica = replace(replica, memory_bytes=512 * MiB, disks=(spec,))
    target.create(replica)
    return Bench(driver, target, replica, {"system": spec.size_bytes})


@pytest.mark.timeout(6 * BOOT)
@pytest.mark.parametrize("driver", GUISES, indirect=True)
def test_a_machine_that_knows_ide_alone_boots_on_paravirtual_scsi(driver: Driver, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "esxi")
    bench = _bench(driver, disk)
    with closing(bench.target):
        point = _replicated(driver, bench, disk)
        profile = bench.target.examine(bench.replica, point.point_id)
        assert profile.route == "light", profile
        assert any("vmw_pvscsi" in action for action in profile.actions)
        bench.target.start(bench.replica, StartRequest(test_id="t1"))
        wait_for(
            lambda: greeting("esxi") in bench.target.look(bench.replica, "t1").serial, "the guest's greeting", BOOT
        )
        bench.target.stop(bench.replica, "t1")
        assert bench.read(point.point_id, size=disk.stat().st_size) == disk.read_bytes()
        # The standby itself likewise; its leaf goes with the next point.
        bench.target.start(bench.replica, StartRequest(paused=True))
        second = bench.commit(bench.open(point))
        assert bench.read(second.point_id, size=disk.stat().st_size) == disk.read_bytes()
        bench.target.remove(bench.replica)


@pytest.mark.timeout(2 * BOOT)
def test_unconverted_it_is_attached_as_its_source_knows_it(driver: Driver, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    guest.ide_disk(disk, "native")
    bench = _bench(driver, disk)
    with closing(bench.target):
        point = _replicated(driver, bench, disk)
        assert bench.target.examine(bench.replica, point.point_id).bus == "ide"
        bench.target.start(bench.replica, StartRequest(test_id="t1", conversion="none"))
        wait_for(
            lambda: greeting("native") in bench.target.look(bench.replica, "t1").serial, "the guest's greeting", BOOT
        )
        bench.target.stop(bench.replica, "t1")
        with pytest.raises(BootpointError) as caught:
            bench.target.start(bench.replica, StartRequest(conversion="v2v"))
        assert caught.value.code is Code.CONVERSION_FAILED
        nic = replace(bench.replica.nics[0], addressing=Addressing("static", addresses=("10.9.0.21/24",)))
        bench.replica = replace(bench.replica, nics=(nic,))
        bench.target.create(bench.replica)
        bench.target.start(bench.replica, StartRequest(conversion="none"))
        assert isinstance(bench.target, EsxiTarget)
        (told,) = bench.target.tell_addresses(bench.replica, 0)
        assert not told.told
        assert "was not told its addresses, for hosts of its kind can't tell a guest that runs;" in told.text
        assert told.text.endswith("set them by hand: 10.9.0.21/24")
        bench.target.stop(bench.replica, None)
        bench.target.remove(bench.replica)
