"""Deleted replicas whose worker dies at every step: on a KVM host, and with the database beside a fake one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.job import read_json
from bootpoint_common.store.request import ask_worker, wait
from bootpoint_common.units import GRAIN, MiB
from bootpoint_ops import deletion
from bootpoint_ops import job as editing
from bootpoint_worker.targets.fake import STEPS as FAKE_STEPS
from bootpoint_worker.targets.kvm import KvmTarget
from tests.integration.conftest import installation
from tests.integration.kvm.conftest import Bench, bench, ssh
from tests.integration.kvm.test_trash import AT, chain, strike, target, trash_of, whole
from tests.integration.test_trash import Site, crash_and_go_on, site
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.process import wait_for
from tests.service.standby import POOL, Protected, add_kvm_host, assert_identical

__all__ = ["bench", "installation", "site", "ssh", "target"]

#: Every step that a crash could separate from the one before.
STEPS = {
    "discard": ("discard:machine", "discard:mark", "discard:move", "discard:done"),
    "restore": ("restore:move", "restore:define"),
    "purge": ("purge:place", "purge:files"),
}


@pytest.mark.long
def test_a_worker_that_dies_at_any_step_leaves_what_the_next_one_finishes(bench: Bench, target: KvmTarget) -> None:
    points = chain(bench, target)
    calls: dict[str, Callable[[], None]] = {
        "discard": lambda: target.discard(bench.replica, AT),
        "restore": lambda: target.restore(bench.replica),
        "purge": lambda: target.purge(bench.replica),
    }
    for step in STEPS["discard"]:
        strike(bench, step, calls["discard"])
        calls["discard"]()
        assert not bench.directory.exists()
        assert bench.replica.vm_name not in bench.host.virsh("list", "--all", "--name")
        calls["restore"]()
        whole(bench, target, points)
    for step in STEPS["restore"]:
        calls["discard"]()
        strike(bench, step, calls["restore"])
        calls["restore"]()
        whole(bench, target, points)
        assert not trash_of(bench).exists()
    calls["discard"]()
    for step in STEPS["purge"]:
        strike(bench, step, calls["purge"])
    calls["purge"]()
    assert list(Path(bench.replica.storage).iterdir()) == []


@pytest.mark.long
def test_over_ssh_it_is_the_same(ssh: Bench) -> None:
    connected = ssh.connect()
    points = chain(ssh, connected)
    connected.discard(ssh.replica, AT)
    connected.restore(ssh.replica)
    whole(ssh, connected, points)
    connected.discard(ssh.replica, AT)
    connected.purge(ssh.replica)
    assert list(Path(ssh.replica.storage).iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("verb", ["discard", "purge"])
def test_the_rows_follow_whatever_step_the_power_goes_at(site: Site, rng: Random, verb: str) -> None:
    for step in FAKE_STEPS[verb]:
        crash_and_go_on(site, verb, step, rng)
        site.apply_again()
        assert site.fleet.row("SELECT 1 FROM trash") is None


@pytest.mark.long
def test_the_newest_of_several_deletions_comes_back(site: Site) -> None:
    ids = []
    for content in (b"old", b"new"):
        with site.disk.open("r+b") as file:
            file.write(content)
        site.run()
        ids.append(site.replica)
        site.delete()
        site.rests(ids[-1])
        site.apply_again()
    item = site.rescan(adopt=True)
    assert item["replica"] == str(ids[-1])
    wait_for(lambda: len(site.fleet.points(site.job)) == 1, "the point to be adopted", 30.0)
    assert site.contents()[0].startswith(b"new")
    assert site.state(ids[0]) == "resting"


@pytest.mark.long
def test_a_replica_of_a_kvm_host_comes_back_point_by_point(
    database: str, libvirt_host: LibvirtHost, storage_directory: Path, tmp_path: Path, rng: Random
) -> None:
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu", "qemu-img", "qemu-nbd")
    with fleet(database, tmp_path) as made:
        made.add_worker("w1", pools=(POOL,))
        host_id = add_kvm_host(made, libvirt_host)
        disk = tmp_path / "system.raw"
        disk.write_bytes(rng.randbytes(4 * MiB))
        protected = Protected(made, "erp", {"system": disk}, host_id, storage_directory, tmp_path / "copies")
        try:
            for _ in range(3):
                with disk.open("r+b") as file:
                    file.seek(rng.randrange(60) * GRAIN)
                    file.write(rng.randbytes(GRAIN))
                protected.protect()
            spec = made.row("SELECT spec FROM job WHERE id = %s", protected.job)
            place = protected.directory()
            assert spec is not None
            wait_for(lambda: _deleted(made), "the replica to be in nobody's hands")
            made.wait_until(lambda: made.row("SELECT 1 AS n FROM trash WHERE state = 'resting'"))
            assert not place.exists()
            assert len(list(storage_directory.glob(".bootpoint-trash/*/manifest.json"))) == 1

            with made.database.transaction() as connection:
                applied = editing.apply(connection, read_json(spec["spec"]), actor="me")
                arguments = {"host": "kvm1", "adopt": True}
                asked = ask_worker(connection, POOL, "host_rescan", arguments, requested_by="me", seconds=60.0)
            protected.job = applied.number or 0
            wait(made.database, asked, seconds=60.0, nobody=BootpointError(Code.NO_WORKER, "nobody"))
            wait_for(lambda: len(made.points(protected.job)) == 3, "the points to be adopted", 60.0)
            copies = list(protected.copies.values())
            for (_, slot, layer), copy in zip(protected.committed(), copies, strict=True):
                assert_identical(layer, copy[slot], tmp_path / "converted.raw")
        finally:
            protected.remove()


def _deleted(made: Fleet) -> bool:
    try:
        with made.database.transaction() as connection:
            deletion.delete(connection, "erp", replicas=True, actor="me")
    except BootpointError as problem:
        if problem.code is not Code.BUSY:
            raise
        return False
    return True
