"""Boot checks with real VMs: one that boots, and the cheapest of those that don't."""

from __future__ import annotations

from pathlib import Path

from bootpoint_worker.targets.kvm.picture import SIGNATURE
from tests.service.bootable import bootable
from tests.service.broken_guest import zeroed_mbr
from tests.service.component import need
from tests.service.libvirt import LibvirtHost


def test_a_point_that_boots_and_one_without_a_boot_sector(
    database: str, tmp_path: Path, libvirt_host: LibvirtHost, storage_directory: Path
) -> None:
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-img", "qemu-nbd")
    with bootable(database, tmp_path, libvirt_host, storage_directory) as machine:
        good, bad = machine.point(lambda _disk: None), machine.point(zeroed_mbr)
        before = machine.machines()
        asked = [machine.begin(good), machine.begin(bad)]
        boots, fails = (machine.end_of(uid) for uid in asked)
        assert boots["boot"]["verdict"] == "boots", boots
        assert fails["boot"]["verdict"] == "does_not_boot", fails
        assert "No bootable device" in fails["boot"]["reason"]
        row = machine.fleet.row("SELECT png FROM boot_picture WHERE point_id = %s", bad)
        assert row is not None
        assert bytes(row["png"]).startswith(SIGNATURE)
        # Nothing is left of either, and no point has changed.
        assert machine.machines() == before
        assert not list(machine.protected.directory().glob("test-*"))
        assert machine.fleet.rows("SELECT 1 FROM reference") == []
        assert machine.protected.check() == 2
