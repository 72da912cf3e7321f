"""What goes wrong with an ESXi host, and what others do to a standby: the point ends, and the next run succeeds."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bootpoint_common.errors import BootpointError, Code, Fenced
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.esxi import fence
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING
from bootpoint_worker.targets.esxi.target import EsxiTarget
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.snapshots import place
from tests.contract.driver_esxi import EsxiHooks, esxi
from tests.contract.test_target import Bench, _at, _bench, _code, _pattern, _write_through
from tests.esxi.client import Client
from tests.esxi.client import connect as log_in
from tests.esxi.server import Esxi
from tests.service.vddk import LIBRARY, library

#: What the first point of each test shows.
BASE = (0, _pattern(1, 2 * GRAIN))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A replica with one disk on a host."""
    with esxi(tmp_path) as driver:
        yield from _bench(driver, 1)


@pytest.fixture
def host(bench: Bench) -> Esxi:
    """The host."""
    assert isinstance(bench.driver.hooks, EsxiHooks)
    return bench.driver.hooks.host


@pytest.fixture
def somebody(host: Esxi) -> Iterator[Client]:
    """Somebody with a session of the host's own."""
    with log_in(host) as client:
        yield client


def _vm(somebody: Client, bench: Bench) -> Any:
    (vm,) = (each for each in somebody.datacenter.vmFolder.childEntity if each.name == bench.replica.vm_name)
    return vm


def _goes_on(bench: Bench, head: JournalPoint, layer: Layer) -> None:
    """Assert that the open point is aborted without a trace, and that the next one succeeds."""
    bench.target.abort(bench.replica, layer.point_id, [layer])
    assert [point.point_id for point in bench.journal().points][-1] == head.point_id
    second = bench.point(head, (GRAIN, b"2" * GRAIN))
    assert bench.read(head.point_id) == _at(None, BASE)
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN))
    assert bench.journal().drift is None


def test_a_server_killed_in_mid_write_costs_only_the_point(bench: Bench) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    writer = bench.target.open_writer(bench.replica, layer, 1)
    _write_through(writer, 0, b"torn" * 128)
    for pid in fence.servers():
        os.kill(pid, signal.SIGKILL)
    assert _code(lambda: _write_through(writer, GRAIN, b"late" * 128)) is Code.TARGET_WRITE_ERROR
    writer.close()
    _goes_on(bench, head, layer)


def test_a_host_that_goes_in_mid_write_is_gone_on_with_when_it_is_back(bench: Bench, host: Esxi) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    writer = bench.target.open_writer(bench.replica, layer, 1)
    _write_through(writer, 0, b"torn" * 128)
    host.cut()
    with pytest.raises(BootpointError) as caught:
        _write_through(writer, GRAIN, b"late" * 128)
    assert caught.value.code in (Code.HOST_UNREACHABLE, Code.TARGET_WRITE_ERROR)
    writer.close()
    assert _code(bench.journal) is Code.HOST_UNREACHABLE
    host.start()
    _goes_on(bench, head, layer)


def test_a_session_that_the_host_ends_costs_nothing(bench: Bench, host: Esxi) -> None:
    layer = bench.open()["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer:
        writer.write(*BASE)
        host.world.sessions.expire()
        writer.flush()
    point = bench.commit({"system": layer})
    host.world.sessions.expire()
    assert bench.read(point.point_id) == _at(None, BASE)


def test_a_standby_that_somebody_starts_ends_the_run_and_is_let_run(bench: Bench, somebody: Client) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (0, b"half" * 128))
    somebody.result(_vm(somebody, bench).PowerOnVM_Task())
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 2)) is Code.STANDBY_RUNNING
    assert _code(lambda: bench.commit({"system": layer})) is Code.STANDBY_RUNNING
    bench.target.abort(bench.replica, layer.point_id, [layer])
    assert bench.journal().drift
    assert _code(lambda: bench.open(head)) is Code.STANDBY_RUNNING
    somebody.result(_vm(somebody, bench).PowerOffVM_Task())
    _goes_on(bench, head, layer)


def test_a_snapshot_that_somebody_makes_ends_the_point(bench: Bench, somebody: Client) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (0, b"half" * 128))
    somebody.snapshot(_vm(somebody, bench), "mine")
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 2)) is Code.LAYER_LOST
    assert _code(lambda: bench.commit({"system": layer})) is Code.LAYER_LOST
    _goes_on(bench, head, layer)


def test_a_snapshot_that_somebody_removes_is_missed_by_name(bench: Bench, somebody: Client) -> None:
    head = bench.point(None, BASE)
    somebody.result(_vm(somebody, bench).RemoveAllSnapshots_Task())
    assert bench.journal().drift
    with pytest.raises(BootpointError) as caught:
        bench.open(head)
    assert caught.value.code is Code.LAYER_LOST
    assert head.name in caught.value.message


def test_a_standby_that_somebody_renames_is_still_known(bench: Bench, somebody: Client) -> None:
    head = bench.point(None, BASE)
    somebody.result(_vm(somebody, bench).Rename_Task(f"{bench.replica.vm_name} (old)"))
    second = bench.point(head, (GRAIN, b"2" * GRAIN))
    assert [point.point_id for point in bench.journal().points] == [head.point_id, second.point_id]


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


@pytest.mark.timeout(900)
def test_thirty_points_leave_room_for_one_more(bench: Bench) -> None:
    points: list[JournalPoint] = []
    for number in range(bench.target.point_limit + 1):
        points.append(bench.point(points[-1] if points else None, (number * 4096, b"%03d." % number * 1024)))
    layer = bench.open(points[-1])["system"]
    bench.target.abort(bench.replica, layer.point_id, [layer])
    bench.target.consolidate(bench.replica, points[0].point_id)
    content = _at(None, *((number * 4096, b"%03d." % number * 1024) for number in range(len(points))))
    assert bench.read(points[-1].point_id) == content
    assert len(bench.journal().points) == bench.target.point_limit


def test_what_a_standby_wrote_is_kept_beside_the_points(bench: Bench, somebody: Client) -> None:
    first = bench.point(None, BASE)
    second = bench.point(first, (GRAIN, b"2" * GRAIN))
    bench.target.start(bench.replica, StartRequest())
    bench.target.stop(bench.replica, None)
    third = bench.point(second, (GRAIN, b"3" * GRAIN))
    (root,) = _vm(somebody, bench).snapshot.rootSnapshotList
    names = [child.name for child in root.childSnapshotList[0].childSnapshotList]
    assert third.name in names
    assert [name for name in names if name.startswith("kept-")]
    # The point that it stands on stays until somebody has decided.
    assert _code(lambda: bench.target.consolidate(bench.replica, second.point_id)) is Code.POINT_IN_USE
    bench.target.consolidate(bench.replica, first.point_id)


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


def test_a_writer_of_another_session_is_ended_by_the_next_claim(bench: Bench) -> None:
    layer = bench.open()["system"]
    late = bench.target.open_writer(bench.replica, layer, 1)
    with closing(bench.driver.connect()) as other, closing(other.open_writer(bench.replica, layer, 2)) as writer:
        _write_through(writer, 0, b"b" * GRAIN)
        with pytest.raises(Fenced):
            _write_through(late, 0, b"late" * 128)
    late.close()
    assert bench.read(bench.commit({"system": layer}).point_id) == _at(None, (0, b"b" * GRAIN))


def test_of_two_who_open_a_point_the_late_one_does_the_other_no_harm(bench: Bench) -> None:
    assert isinstance(bench.target, EsxiTarget)
    head = bench.point(None, BASE)
    layers: dict[str, Layer] = {}

    def be_overtaken(step: str) -> None:
        if step == "open:grow" and not layers:
            layers.update(bench.open(head))
            bench.write(layers["system"], (GRAIN, b"2" * GRAIN))

    with closing(EsxiTarget(access=bench.target.host.access, step=be_overtaken)) as late:
        assert _code(lambda: late.open(bench.replica, bench.opened(head))) is Code.POINT_OPEN
    bench.write(layers["system"], (2 * GRAIN, b"3" * GRAIN), writer=2)
    second = bench.commit(layers)
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN), (2 * GRAIN, b"3" * GRAIN))


def test_of_two_who_change_the_same_journal_one_comes_late(bench: Bench) -> None:
    assert isinstance(bench.target, EsxiTarget)
    host = bench.target.host
    one, two = place.must_read(host, bench.replica), place.must_read(host, bench.replica)
    one = place.change(one, msgspec.structs.replace(one.manifest, epoch=7))
    with pytest.raises(place.Changed):
        place.change(two, msgspec.structs.replace(two.manifest, epoch=8))
    # The number is free again when it is old.
    for epoch in (9, 10, 11):
        one = place.change(one, msgspec.structs.replace(one.manifest, epoch=epoch))
    with pytest.raises(place.Changed):
        place.change(two, msgspec.structs.replace(two.manifest, epoch=8))
    assert bench.journal().epoch == 11
    left = one.store.list(one.vm.folder, "bootpoint-journal-*")
    assert left == [f"{place.PREFIX}{number:08d}.json" for number in (one.number - 1, one.number)]
