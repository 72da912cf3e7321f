"""What others do to a standby on an ESXi host, or to the host, while a point is written and between two of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pyVmomi import vim

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.esxi import fence
from bootpoint_worker.targets.esxi.target import EsxiTarget
from tests.contract.driver_esxi import EsxiHooks, esxi
from tests.contract.test_target import Bench, _at, _code, _pattern, _replica, _write_through
from tests.esxi.server import Esxi
from tests.esxi.world import ROOT
from tests.long.test_esxi_trouble_long import InTheClient, driver, host, somebody
from tests.long.trouble import BASE, bench, goes_on

__all__ = ["bench", "driver", "host", "somebody"]


def _move(somebody: InTheClient, bench: Bench) -> None:
    """Move the standby to another folder of the datastore, and register it there, as its host's own client can."""
    client, name = somebody.client, bench.replica.vm_name
    center, files = client.datacenter, client.service.content.fileManager
    somebody.vm.UnregisterVM()
    files.MakeDirectory("[datastore1] elsewhere", center, True)
    move = files.MoveDatastoreFile_Task(
        f"[datastore1] bootpoint/{name}", center, f"[datastore1] elsewhere/{name}", center
    )
    client.result(move)
    place = f"[datastore1] elsewhere/{name}/{name}.vmx"
    client.result(center.vmFolder.RegisterVM_Task(place, name, False, client.pool))


def test_a_standby_that_somebody_moves_is_gone_on_with_where_it_is(bench: Bench, somebody: InTheClient) -> None:
    first = bench.point(None, BASE)
    second = bench.point(first, (GRAIN, b"2" * GRAIN))
    _move(somebody, bench)
    journal = bench.journal()
    assert [point.point_id for point in journal.points] == [first.point_id, second.point_id]
    assert all(disk.identity.startswith("[datastore1] elsewhere/") for point in journal.points for disk in point.disks)
    assert journal.drift is None
    third = bench.point(second, (2 * GRAIN, b"3" * GRAIN))
    content = _at(None, BASE)
    assert bench.read(first.point_id) == content
    content = _at(content, (GRAIN, b"2" * GRAIN))
    assert bench.read(second.point_id) == content
    bench.target.consolidate(bench.replica, first.point_id)
    assert bench.read(second.point_id) == content
    assert bench.read(third.point_id) == _at(content, (2 * GRAIN, b"3" * GRAIN))
    # Nobody has to say that it was moved and not copied before it starts.
    for request in (StartRequest(point_id=second.point_id, test_id="t1"), StartRequest()):
        assert bench.target.start(bench.replica, request).state == "running"
        bench.target.stop(bench.replica, request.test_id)


def _renamed(somebody: InTheClient, bench: Bench) -> None:
    somebody.rename(f"{bench.replica.vm_name} (old)")


def test_a_standby_that_is_renamed_in_mid_write_is_still_written(bench: Bench, somebody: InTheClient) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (GRAIN, b"2" * GRAIN))
    _renamed(somebody, bench)
    bench.write(layer, (2 * GRAIN, b"3" * GRAIN), writer=2)
    second = bench.commit({"system": layer})
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN), (2 * GRAIN, b"3" * GRAIN))


def _reverted(somebody: InTheClient, bench: Bench) -> None:
    somebody.client.result(somebody.vm.RevertToCurrentSnapshot_Task())


def _snapshot_made(somebody: InTheClient, bench: Bench) -> None:
    somebody.snapshot("mine")


@pytest.mark.parametrize("act", [_move, _reverted, _snapshot_made])
def test_what_takes_the_leaf_away_in_mid_write_ends_the_point(
    bench: Bench, somebody: InTheClient, act: Callable[[InTheClient, Bench], None]
) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (0, b"half" * 128))
    act(somebody, bench)
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 2)) is Code.LAYER_LOST
    assert _code(lambda: bench.commit({"system": layer})) is Code.LAYER_LOST
    goes_on(bench, head, layer)


@pytest.mark.parametrize("number", [0, 1])
def test_a_snapshot_that_somebody_removes_in_mid_write_is_missed_where_it_is_needed(
    bench: Bench, somebody: InTheClient, number: int
) -> None:
    first = bench.point(None, (0, b"0" * GRAIN))
    head = bench.point(first, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (GRAIN, b"2" * GRAIN))
    [root] = somebody.vm.snapshot.rootSnapshotList
    gone = [root, root.childSnapshotList[0]][number]
    somebody.client.result(gone.snapshot.RemoveSnapshot_Task(removeChildren=False))
    if gone.name == first.name:
        # What the point stands on shows what it did.
        second = bench.commit({"system": layer})
        assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN))
        assert bench.read(head.point_id) == _at(None, BASE)
        with pytest.raises(BootpointError) as caught:
            bench.read(first.point_id)
        assert (caught.value.code, first.name in caught.value.message) == (Code.LAYER_LOST, True)
        return
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 2)) is Code.LAYER_LOST
    assert _code(lambda: bench.commit({"system": layer})) is Code.LAYER_LOST
    with pytest.raises(BootpointError) as caught:
        bench.target.abort(bench.replica, layer.point_id, [layer])
    assert caught.value.code is Code.LAYER_LOST
    assert head.name in caught.value.message
    assert bench.journal().open_point_id is None


def test_a_datastore_that_fills_up_in_mid_write_ends_the_point(bench: Bench, host: Esxi) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    store = host.world.datastores[0]
    capacity, store.capacity_bytes = store.capacity_bytes, store.capacity_bytes - store.free_bytes + MiB
    writer = bench.target.open_writer(bench.replica, layer, 1)
    assert _code(lambda: _write_through(writer, 0, _pattern(3, 4 * MiB))) is Code.HOST_FULL
    writer.close()
    store.capacity_bytes = capacity
    goes_on(bench, head, layer)


def test_a_certificate_that_is_renewed_in_mid_run_is_compared_for_the_disks_too(tmp_path: Path) -> None:
    with esxi(tmp_path) as driver, closing(driver.connect()) as target:
        bench = Bench(driver, target, _replica(driver, disks=1))
        target.create(bench.replica)
        layer = bench.open()["system"]
        assert isinstance(driver.hooks, EsxiHooks)
        host = driver.hooks.host

        def renew(step: str) -> None:
            # All has been asked but for the disk, to which the library makes a connection of its own.
            if step == "writer:serve":
                host.renew_certificate()

        late = EsxiTarget(access=driver.hooks.access, step=renew)
        with closing(late), pytest.raises(BootpointError) as caught:
            late.open_writer(bench.replica, layer, 1)
        assert (caught.value.code, "thumbprint" in caught.value.message) == (Code.HOST_KEY_CHANGED, True)
        assert host.world.leases.history == []


def test_the_password_is_on_no_command_line_and_in_no_environment_or_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The plugin hides what it was told; what it is told stands here, for everybody to see until it has.
    real, seen, directory = shutil.which("nbdkit"), tmp_path / "seen", tmp_path / "bin"
    directory.mkdir()
    wrapper = directory / "nbdkit"
    wrapper.write_text(f'#!/bin/sh\n{{ printf \'%s\\n\' "$@"; env; }} >> {seen}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    layer = bench.open()["system"]
    with closing(bench.target.open_writer(bench.replica, layer, 1)) as writer:
        _write_through(writer, 0, b"a" * GRAIN)
        assert f"user={ROOT.name}" in seen.read_text()
        assert ROOT.password not in seen.read_text()
        files = [path for path in fence.base().rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if ROOT.password.encode() in path.read_bytes()]


@pytest.mark.parametrize("where", ["managed", "free"])
def test_a_host_that_may_not_be_written_to_any_more_says_whose_word_counts(
    bench: Bench, host: Esxi, where: str
) -> None:
    head = bench.point(None, BASE)
    trouble = host.world.trouble
    if where == "managed":
        trouble.managed_by = "10.9.0.7"
    else:
        trouble.free_licence = True
    with pytest.raises(BootpointError) as caught:
        bench.open(head)
    expected = (Code.HOST_UNSUPPORTED, "vCenter") if where == "managed" else (Code.HOST_LICENCE, "free licence")
    assert (caught.value.code, expected[1] in (caught.value.hint or "")) == (expected[0], True)
    trouble.managed_by, trouble.free_licence = None, False
    layer = bench.open(head)["system"]
    goes_on(bench, head, layer)


def test_a_vm_of_the_standbys_name_that_somebody_made_meanwhile_is_left_alone(
    bench: Bench, somebody: InTheClient
) -> None:
    head = bench.point(None, BASE)
    _renamed(somebody, bench)
    somebody.client.create(bench.replica.vm_name)
    assert _code(lambda: bench.open(head)) is Code.VM_NAME_TAKEN
    with pytest.raises(vim.fault.DuplicateName):
        somebody.client.create(bench.replica.vm_name)
    strangers = [vm for vm in somebody.client.datacenter.vmFolder.childEntity if vm.name == bench.replica.vm_name]
    assert [vm.config.annotation for vm in strangers] in ([None], [""])
    somebody.client.result(strangers[0].Destroy_Task())
    layer = bench.open(head)["system"]
    goes_on(bench, head, layer)
