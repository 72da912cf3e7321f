"""What goes wrong with an ESXi host, and what others do to a standby: the point ends, and the next run succeeds."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.esxi import fence
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING
from bootpoint_worker.targets.esxi.target import EsxiTarget
from tests.contract.driver_esxi import EsxiHooks, esxi
from tests.contract.drivers import Driver
from tests.contract.test_target import Bench, _at, _code, _write_through
from tests.esxi.client import Client
from tests.esxi.client import connect as log_in
from tests.esxi.server import Esxi
from tests.long.trouble import *  # noqa: F403 - its tests run here
from tests.long.trouble import BASE, goes_on
from tests.service.vddk import LIBRARY, library


@dataclass(frozen=True, slots=True)
class InTheClient:
    """`Somebody` who has the standby in the vSphere client."""

    client: Client
    vm: Any

    def start(self) -> None:
        self.client.result(self.vm.PowerOnVM_Task())

    def stop(self) -> None:
        self.client.result(self.vm.PowerOffVM_Task())

    def rename(self, name: str) -> None:
        self.client.result(self.vm.Rename_Task(name))

    def snapshot(self, name: str) -> None:
        self.client.snapshot(self.vm, name)

    def snapshots(self) -> list[str]:
        left, names = list(self.vm.snapshot.rootSnapshotList), []
        while left:
            names.append(left[-1].name)
            left += left.pop().childSnapshotList
        return names

    def remove_snapshots(self) -> None:
        self.client.result(self.vm.RemoveAllSnapshots_Task())


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """The host's driver."""
    with esxi(tmp_path) as made:
        yield made


@pytest.fixture
def host(driver: Driver) -> Esxi:
    """The host."""
    assert isinstance(driver.hooks, EsxiHooks)
    return driver.hooks.host


@pytest.fixture
def somebody(host: Esxi, bench: Bench) -> Iterator[InTheClient]:
    """Somebody with a session of the host's own."""
    with log_in(host) as client:
        (vm,) = (each for each in client.datacenter.vmFolder.childEntity if each.name == bench.replica.vm_name)
        yield InTheClient(client, vm)


def test_a_server_killed_in_mid_write_costs_only_the_point(bench: Bench) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    writer = bench.target.open_writer(bench.replica, layer, 1)
    _write_through(writer, 0, b"torn" * 128)
    for pid in fence.servers():
        os.kill(pid, signal.SIGKILL)
    assert _code(lambda: _write_through(writer, GRAIN, b"late" * 128)) is Code.TARGET_WRITE_ERROR
    writer.close()
    goes_on(bench, head, layer)


def test_a_session_that_the_host_ends_costs_nothing(bench: Bench, host: Esxi) -> None:
    layer = bench.open()["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer:
        writer.write(*BASE)
        host.world.sessions.expire()
        writer.flush()
    point = bench.commit({"system": layer})
    host.world.sessions.expire()
    assert bench.read(point.point_id) == _at(None, BASE)


def test_a_merge_that_finds_its_files_in_use_is_done_by_the_next_call(bench: Bench, host: Esxi) -> None:
    first = bench.point(None, BASE)
    second = bench.point(first, (GRAIN, b"2" * GRAIN))
    third = bench.point(second, (2 * GRAIN, b"3" * GRAIN))
    host.world.trouble.merges_locked = 1
    assert _code(lambda: bench.target.consolidate(bench.replica, first.point_id)) is Code.BUSY
    assert bench.journal().consolidating == first.point_id
    assert _code(lambda: bench.open(third)) is Code.BUSY
    bench.target.consolidate(bench.replica, first.point_id)
    assert bench.journal().consolidating is None
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN))
    assert bench.read(third.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN), (2 * GRAIN, b"3" * GRAIN))


def test_a_merge_without_room_says_so_and_is_done_when_there_is_some(bench: Bench, host: Esxi) -> None:
    first = bench.point(None, BASE)
    second = bench.point(first, (GRAIN, b"2" * GRAIN))
    host.world.trouble.merges_full = 1
    assert _code(lambda: bench.target.consolidate(bench.replica, first.point_id)) is Code.HOST_FULL
    bench.target.consolidate(bench.replica, first.point_id)
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN))


@pytest.mark.parametrize("version", [None, 5])
def test_a_library_that_is_missing_or_too_old_is_named(bench: Bench, tmp_path: Path, version: int | None) -> None:
    layer = bench.open()["system"]
    if version is not None:
        (tmp_path / "vddk/lib64").mkdir(parents=True)
        shutil.copy(library() / LIBRARY, tmp_path / f"vddk/lib64/libvixDiskLib.so.{version}")
    assert isinstance(bench.driver.hooks, EsxiHooks)
    access = bench.driver.hooks.access
    elsewhere = replace(access, settings={**access.settings, LIBDIR_SETTING: str(tmp_path / "vddk")})
    with closing(EsxiTarget(access=elsewhere)) as target, pytest.raises(BootpointError) as caught:
        target.open_writer(bench.replica, layer, 1)
    assert caught.value.code is Code.HOST_UNSUPPORTED
    assert "docs/esxi.md" in (caught.value.hint or "")
