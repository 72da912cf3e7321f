"""Retention on a real host: the points that are left equal their sources, verify, and are built upon."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from bootpoint_common.store import verification
from bootpoint_common.store.point import Point
from bootpoint_common.units import GRAIN, MiB
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.standby import POOL, Protected, add_kvm_host

SIZE = 24 * MiB


def _change(disk: Path, rng: Random, grains: int) -> None:
    with disk.open("r+b" if disk.exists() else "w+b") as stream:
        stream.truncate(SIZE)
        for _ in range(grains):
            stream.seek(rng.randrange(SIZE // GRAIN) * GRAIN)
            stream.write(rng.choice([bytes(GRAIN), rng.randbytes(GRAIN)]))


def _left(made: Fleet, protected: Protected, count: int) -> list[Point]:
    made.wait_until(
        lambda: made.row(
            "SELECT 1 FROM replica WHERE consolidating IS NULL AND %s = %s", len(made.points(protected.job)), count
        )
    )
    return made.points(protected.job)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_is_left_equals_its_source_and_verifies(
    database: str, tmp_path: Path, libvirt_host: LibvirtHost, storage_directory: Path, rng: Random
) -> None:
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu-img", "qemu-nbd")
    with fleet(database, tmp_path) as made:
        made.add_worker("w1", pools=(POOL,))
        host_id = add_kvm_host(made, libvirt_host)
        disks = {"system": tmp_path / "system.raw", "data": tmp_path / "data.raw"}
        for disk in disks.values():
            _change(disk, rng, 60)
        protected = Protected(made, "erp", disks, host_id, storage_directory, tmp_path / "copies", points=3)
        try:
            for _ in range(6):
                _change(disks["system"], rng, 12)
                _change(disks["data"], rng, 2)
                protected.protect()
            points = _left(made, protected, 3)
            assert protected.check() == 6
            for point in points:
                with made.database.transaction() as connection:
                    verification.ask(connection, point.id, requested_by="test", budgeted=False)
                query = "SELECT 1 FROM boot_point WHERE id = %s AND verified_at IS NOT NULL AND damaged_at IS NULL"
                made.wait_until(lambda query=query, point=point: made.row(query, point.id))  # type: ignore[misc]
            assert made.row("SELECT count(*) AS n FROM boot_point WHERE reason = 'base_lost'") == {"n": 0}
        finally:
            protected.remove()
