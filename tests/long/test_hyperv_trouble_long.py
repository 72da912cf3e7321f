"""What goes wrong with a Hyper-V host, and what others do to a standby: the point ends, and the next run succeeds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code, Fenced, RetryableError
from bootpoint_common.identity import new_id
from bootpoint_common.units import GRAIN, KiB, MiB
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.hyperv import hypervisor
from bootpoint_worker.targets.hyperv.target import HyperVTarget
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.replica import ReplicaDisk
from bootpoint_worker.targets.snapshots import consolidation, place
from bootpoint_worker.vhdx.file import LocalFile
from bootpoint_worker.vhdx.image import identify
from bootpoint_worker.vhdx.metadata import Kind
from tests.contract.driver_hyperv import NETWORK, HyperVHooks, hyperv
from tests.contract.drivers import Driver
from tests.contract.test_target import SIZE, Bench, _at, _code, _pattern
from tests.hyperv import checkpoint
from tests.hyperv.host import Host
from tests.hyperv.machine import Machine, State, Switch
from tests.long.trouble import *  # noqa: F403 - its tests run here
from tests.long.trouble import BASE, goes_on


@dataclass(frozen=True, slots=True)
class InTheManager:
    """`Somebody` who has the standby in Hyper-V Manager."""

    host: Host
    machine: Machine

    def start(self) -> None:
        self.host.vmms.power_on(self.machine)

    def stop(self) -> None:
        self.host.vmms.power_off(self.machine)

    def rename(self, name: str) -> None:
        self.machine.name = name

    def snapshot(self, name: str) -> None:
        checkpoint.make(self.host, self.machine, name)

    def snapshots(self) -> list[str]:
        return [each.name for each in self.machine._snapshots]

    def remove_snapshots(self) -> None:
        for each in list(self.machine._snapshots):
            checkpoint.remove(self.host, each)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    """The host's driver."""
    with hyperv(tmp_path) as made:
        yield made


@pytest.fixture
def host(driver: Driver) -> Host:
    """The host."""
    assert isinstance(driver.hooks, HyperVHooks)
    return driver.hooks.host


@pytest.fixture
def machine(bench: Bench, host: Host) -> Machine:
    """The standby, as the host has it."""
    return host.machine(bench.replica.vm_name)


@pytest.fixture
def somebody(host: Host, machine: Machine) -> InTheManager:
    """Somebody who sits at the host."""
    return InTheManager(host, machine)


def test_a_standby_that_somebody_starts_in_the_last_moment_is_not_turned_off(
    bench: Bench, host: Host, machine: Machine
) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (0, b"half" * 128))

    def start(step: str) -> None:
        if step == "stand:revert":
            host.vmms.power_on(machine)

    assert isinstance(bench.driver.hooks, HyperVHooks)
    with closing(HyperVTarget(access=bench.driver.hooks.access, step=start)) as target:
        assert _code(lambda: target.abort(bench.replica, layer.point_id, [layer])) is Code.STANDBY_RUNNING
    assert machine.state is State.Running
    host.vmms.power_off(machine)
    goes_on(bench, head, layer)


def test_a_standby_that_somebody_has_saved_is_stopped(bench: Bench, machine: Machine) -> None:
    head = bench.point(None, BASE)
    machine.state = State.Saved
    assert _code(lambda: bench.open(head)) is Code.STANDBY_RUNNING
    bench.target.stop(bench.replica, None)
    assert machine.state is State.Off
    second = bench.point(head, (GRAIN, b"2" * GRAIN))
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN))


def test_what_is_asked_of_one_vm_has_nothing_to_do_with_others(bench: Bench, host: Host) -> None:
    assert isinstance(bench.target, HyperVTarget)
    vm = place.must_read(bench.target.host, bench.replica).vm
    host.trouble.deleting = True
    assert bench.target.host.state(vm).drives
    bench.target.host.power_on(vm)
    bench.target.host.power_off(vm)
    assert _code(lambda: bench.target.inspect(bench.replica)) is Code.BUSY
    host.trouble.deleting = False


def test_a_merge_that_takes_longer_than_a_call_is_waited_for_by_the_next(
    bench: Bench, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.point(None, BASE)
    second = bench.point(first, (GRAIN, b"2" * GRAIN))
    third = bench.point(second, (2 * GRAIN, b"3" * GRAIN))
    host.trouble.merges_held = True
    monkeypatch.setattr(consolidation, "MERGE_SECONDS", 1.0)
    monkeypatch.setattr(hypervisor, "MERGE_TICK", 0.1)
    assert _code(lambda: bench.target.consolidate(bench.replica, first.point_id)) is Code.BUSY
    assert bench.journal().consolidating == first.point_id
    assert _code(lambda: bench.open(third)) is Code.BUSY
    # A start would cancel the merge, which then begins anew.
    assert _code(lambda: bench.target.start(bench.replica, StartRequest())) is Code.BUSY
    monkeypatch.setattr(consolidation, "MERGE_SECONDS", 60.0)
    threading.Timer(1.0, setattr, (host.trouble, "merges_held", False)).start()
    bench.target.consolidate(bench.replica, first.point_id)
    assert bench.journal().consolidating is None
    assert bench.read(second.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN))
    assert bench.read(third.point_id) == _at(None, BASE, (GRAIN, b"2" * GRAIN), (2 * GRAIN, b"3" * GRAIN))


@pytest.mark.parametrize("number", [0, 1])
def test_a_file_that_somebody_deleted_is_named_before_anything_is_merged(bench: Bench, host: Host, number: int) -> None:
    points = [bench.point(None, BASE)]
    for byte in (b"2", b"3"):
        points.append(bench.point(points[-1], (GRAIN, byte * GRAIN)))
    file = points[number].disks[0].identity
    host.locate(file).unlink()
    with pytest.raises(BootpointError) as caught:
        bench.target.consolidate(bench.replica, points[0].point_id)
    assert caught.value.code is Code.LAYER_LOST
    assert file in caught.value.message
    assert bench.journal().consolidating is None


def test_a_merge_that_a_host_gave_up_is_not_taken_for_done(
    bench: Bench, host: Host, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [bench.point(None, BASE)]
    for byte in (b"2", b"3"):
        points.append(bench.point(points[-1], (GRAIN, byte * GRAIN)))
    host.trouble.merges_full = 1
    monkeypatch.setattr(consolidation, "MERGE_SECONDS", 1.0)
    monkeypatch.setattr(hypervisor, "MERGE_TICK", 0.1)
    for _ in range(2):
        with pytest.raises(BootpointError) as caught:
            bench.target.consolidate(bench.replica, points[0].point_id)
        assert caught.value.code is Code.BUSY
        assert points[0].disks[0].identity in caught.value.message
    # Somebody deletes a file meanwhile: the merge will never end, and is waited for no longer.
    file = machine._snapshots[-1]._settings.drives[0].path
    host.locate(file).unlink()
    monkeypatch.setattr(consolidation, "MERGE_SECONDS", 60.0)
    with pytest.raises(BootpointError) as caught:
        bench.target.consolidate(bench.replica, points[0].point_id)
    assert caught.value.code is Code.LAYER_LOST
    assert file in caught.value.message
    # The way out that the error names.
    assert "--delete-replica" in (caught.value.hint or "")
    bench.target.discard(bench.replica, datetime.now(UTC))
    assert bench.target.inspect(bench.replica) is None


def test_a_torn_leaf_is_thrown_away_and_never_gone_on_with(bench: Bench, host: Host) -> None:
    head = bench.point(None, BASE)
    layer = bench.open(head)["system"]
    bench.write(layer, (0, b"half" * 128))
    with host.locate(layer.identity).open("r+b") as file:
        for header in (64 * KiB, 128 * KiB):  # [MS-VHDX] 2.2: both headers
            file.seek(header + 8)
            file.write(b"torn")
    assert _code(lambda: bench.target.open_writer(bench.replica, layer, 2)) is Code.TORN_LEAF
    assert _code(lambda: bench.commit({"system": layer})) is Code.TARGET_CHECK_FAILED
    goes_on(bench, head, layer)


@pytest.mark.parametrize("committed", [False, True])
def test_a_worker_that_froze_before_it_held_its_layer_never_gets_it(bench: Bench, committed: bool) -> None:
    layer = bench.open()["system"]
    points: list[JournalPoint] = []

    def freeze(step: str) -> None:
        if step == "writer:serve":
            bench.write(layer, BASE, writer=2)
            points.extend([bench.commit({"system": layer})] if committed else [])

    assert isinstance(bench.driver.hooks, HyperVHooks)
    with closing(HyperVTarget(access=bench.driver.hooks.access, step=freeze)) as late, pytest.raises(Fenced):
        late.open_writer(bench.replica, layer, 1)
    point = points[0] if committed else bench.commit({"system": layer})
    assert bench.read(point.point_id) == _at(None, BASE)


@pytest.mark.parametrize(
    "command", ["New-VM", "Remove-VMDvdDrive", "Set-VM", "New-VHD", "Add-VMHardDiskDrive", "Add-VMNetworkAdapter"]
)
def test_a_shell_that_is_killed_in_mid_creation_costs_a_retry(bench: Bench, host: Host, command: str) -> None:
    disks = tuple(replace(disk, disk_name="again") for disk in bench.replica.disks)
    replica = replace(bench.replica, replica_id=new_id(), vm_name="again", disks=disks)
    host.trouble.killed_shells, host.trouble.killed_at = 1, command
    with pytest.raises(BootpointError) as caught:
        bench.target.create(replica)
    assert caught.value.retryable
    bench.target.create(replica)
    other = Bench(bench.driver, bench.target, replica)
    point = other.point(None, BASE)
    assert other.read(point.point_id) == _at(None, BASE)
    machines = [each for each in host.vmms.machines if each.name == "again"]
    assert [(each.path, each.automatic_start_action) for each in machines] == [("D:\\bootpoint\\again", "Nothing")]
    assert (str(replica.replica_id) in machines[0].notes, machines[0]._settings.dvds) == (True, [])
    bench.target.remove(replica)
    assert not host.locate("D:\\bootpoint\\again").exists()


def test_a_shell_that_is_killed_while_a_test_is_made_leaves_nothing(bench: Bench, host: Host) -> None:
    bench.point(None, BASE)
    before = list(host.vmms.machines)
    for command in ("New-VM", "Set-VM", "New-VHD"):
        host.trouble.killed_shells, host.trouble.killed_at = 1, command
        with pytest.raises(BootpointError) as caught:
            bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True))
        assert caught.value.retryable
    bench.target.start(bench.replica, StartRequest(test_id="t1", paused=True))
    bench.target.stop(bench.replica, "t1")
    assert host.vmms.machines == before


def test_a_leaf_that_a_backup_reads_is_not_taken_for_damaged(bench: Bench, host: Host) -> None:
    layer = bench.open()["system"]
    bench.write(layer, BASE)
    wanted = bench.commit_point({"system": layer})
    hold = host.holds.take(host.locate(layer.identity))
    with pytest.raises(BootpointError) as caught:
        bench.target.commit(bench.replica, wanted)
    assert (caught.value.code, layer.identity in caught.value.message) == (Code.BUSY, True)
    host.holds.release(hold)
    point = bench.target.commit(bench.replica, wanted)
    assert bench.read(point.point_id) == _at(None, BASE)


def test_a_shell_that_is_killed_in_mid_commit_costs_a_retry(bench: Bench, host: Host) -> None:
    layer = bench.open()["system"]
    bench.write(layer, BASE)
    wanted = bench.commit_point({"system": layer})
    host.trouble.killed_shells, host.trouble.killed_at = 1, "Checkpoint-VM"
    with pytest.raises(BootpointError) as caught:
        bench.target.commit(bench.replica, wanted)
    assert caught.value.retryable
    point = bench.target.commit(bench.replica, wanted)
    assert bench.journal().points == (point,)
    assert bench.read(point.point_id) == _at(None, BASE)


def test_an_order_that_is_still_carried_out_when_it_is_repeated_makes_one_checkpoint(
    bench: Bench, host: Host, machine: Machine
) -> None:
    layer = bench.open()["system"]
    bench.write(layer, BASE)
    wanted = bench.commit_point({"system": layer})

    def arrive_late(step: str) -> None:
        if step == "commit:snapshot":
            checkpoint.make(host, machine, wanted.name)

    assert isinstance(bench.driver.hooks, HyperVHooks)
    with closing(HyperVTarget(access=bench.driver.hooks.access, step=arrive_late)) as target:
        point = target.commit(bench.replica, wanted)
    assert [each.name for each in machine._snapshots] == [point.name]
    assert bench.journal().points == (point,)
    assert bench.read(point.point_id) == _at(None, BASE)


def test_a_module_of_vmwares_on_the_host_is_not_taken_for_hyper_vs(bench: Bench, host: Host) -> None:
    host.trouble.power_cli = True
    point = bench.point(None, BASE)
    assert bench.read(point.point_id) == _at(None, BASE)
    assert bench.replica.vm_name in [vm.name for vm in bench.target.inspect_host().vms]


def test_a_service_that_is_down_in_mid_commit_costs_a_retry_and_no_point(bench: Bench, host: Host) -> None:
    layer = bench.open()["system"]
    bench.write(layer, BASE)
    wanted = bench.commit_point({"system": layer})
    host.trouble.vmms = "Stopped"
    with pytest.raises(BootpointError) as caught:
        bench.target.commit(bench.replica, wanted)
    assert caught.value.code is Code.BUSY
    assert "vmms" in (caught.value.hint or "")
    host.trouble.vmms = "Running"
    point = bench.target.commit(bench.replica, wanted)
    assert bench.read(point.point_id) == _at(None, BASE)


def test_answers_that_get_lost_are_looked_up(bench: Bench, host: Host) -> None:
    layer = bench.open()["system"]
    bench.write(layer, BASE)
    wanted = bench.commit_point({"system": layer})
    host.trouble.lost_answers = 1
    with contextlib.suppress(RetryableError):
        bench.target.commit(bench.replica, wanted)
    point = bench.target.commit(bench.replica, wanted)
    assert bench.journal().points == (point,)
    assert bench.read(point.point_id) == _at(None, BASE)


def test_a_machine_with_uefi_is_of_the_second_generation_and_keeps_it(bench: Bench, host: Host) -> None:
    disks = tuple(ReplicaDisk(slot, 4 * MiB, f"uefi-{slot}") for slot in ("system", "data"))
    replica = replace(bench.replica, replica_id=new_id(), vm_name="uefi", firmware="uefi", disks=disks)
    bench.target.create(replica)
    other = Bench(bench.driver, bench.target, replica)
    first = other.point(None, (0, b"1" * GRAIN))
    vm = bench.target.start(replica, StartRequest(test_id="t1", paused=True))
    for name in (replica.vm_name, vm.name):
        machine = host.machine(name)
        places = [(each.controller_type.name, each.controller_location) for each in machine.hard_drives]
        assert (machine.generation, places) == (2, [("SCSI", 0), ("SCSI", 1)])
        assert machine._settings.firmware.secure_boot == "Off"
    # A test is on a switch that leads nowhere, and its standby on the job's.
    assert [card.switch_name for card in host.machine(vm.name).network_adapters] == ["bootpoint-test"]
    assert host.switches["bootpoint-test"] is Switch.Private
    assert [card.switch_name for card in host.machine("uefi").network_adapters] == [NETWORK]
    bench.target.stop(replica, "t1")
    second = other.point(first, (GRAIN, b"2" * GRAIN))
    assert other.read(second.point_id, "data", size=4 * MiB)[: 2 * GRAIN] == b"1" * GRAIN + b"2" * GRAIN
    bench.target.remove(replica)
    assert not host.locate("D:\\bootpoint\\uefi").exists()


def test_a_machine_with_uefi_starts_from_its_first_disk_whenever_that_was_made(bench: Bench, host: Host) -> None:
    disks = tuple(ReplicaDisk(slot, SIZE, f"uefi-{slot}") for slot in ("system", "data"))
    replica = replace(bench.replica, replica_id=new_id(), vm_name="uefi", firmware="uefi", disks=disks)
    bench.target.create(replica)
    other = Bench(bench.driver, bench.target, replica)

    def starts_from_its_first_disk() -> bool:
        settings = host.machine("uefi")._settings
        assert len(settings.firmware.boot_order) == 3
        return settings.firmware.boot_order[0] is min(settings.drives, key=lambda drive: drive.controller_location)

    assert starts_from_its_first_disk()
    layers = other.open()
    other.write(layers["system"], BASE)
    # The disks are made anew.
    bench.target.abort(replica, layers["system"].point_id, list(layers.values()))
    head = other.point(None, BASE)
    assert starts_from_its_first_disk()
    other.sizes["system"] = SIZE + 3 * MiB
    other.point(head, (GRAIN, b"2" * GRAIN))
    assert starts_from_its_first_disk()
    bench.target.remove(replica)


def test_names_of_which_windows_would_refuse_a_file_are_refused_before(bench: Bench) -> None:
    (disk,) = bench.replica.disks
    long = replace(
        bench.replica,
        replica_id=new_id(),
        vm_name="v" * 60,
        folder="f" * 87,
        disks=(replace(disk, disk_name="d" * 38),),
    )
    bench.target.create(long, dry_run=True)
    longer = replace(long, folder="f" * 88), replace(long, disks=(replace(disk, disk_name="d" * 39),))
    for refused in longer:
        with pytest.raises(BootpointError) as caught:
            bench.target.create(refused, dry_run=True)
        assert caught.value.code is Code.SPEC_INVALID
        assert "259" in caught.value.message


def test_a_disk_of_any_number_of_sectors_is_replicated(bench: Bench) -> None:
    sizes = {"system": MiB + 512, "data": 4 * MiB + 512}
    disks = tuple(ReplicaDisk(slot, size, f"odd-{slot}") for slot, size in sizes.items())
    replica = replace(bench.replica, replica_id=new_id(), vm_name="odd", disks=disks)
    bench.target.create(replica)
    other = Bench(bench.driver, bench.target, replica)
    contents = {slot: _pattern(number, size) for number, (slot, size) in enumerate(sizes.items())}
    layers = other.open()
    for slot, layer in layers.items():
        other.write(layer, (0, contents[slot]))
    head = other.commit(layers)
    for slot, content in contents.items():
        assert other.read(head.point_id, slot, size=sizes[slot]) == content
    # By less than the host's own rounding, and by more.
    for size in (4 * MiB + 1024, 4 * MiB + 8704):
        contents["data"] += _pattern(7, size - sizes["data"])
        other.sizes["data"] = sizes["data"] = size
        layers = other.open(head)
        other.write(layers["data"], (4 * MiB, contents["data"][4 * MiB :]))
        head = other.commit(layers)
        assert other.read(head.point_id, "data", size=size) == contents["data"]
    bench.target.remove(replica)


@pytest.mark.parametrize(("provisioning", "kind"), [("thin", Kind.DYNAMIC), ("thick", Kind.FIXED)])
def test_a_disk_that_has_grown_is_made_as_the_first_one_was(
    bench: Bench, host: Host, provisioning: str, kind: Kind
) -> None:
    disks = tuple(replace(disk, provisioning=provisioning, disk_name="grown") for disk in bench.replica.disks)
    replica = replace(bench.replica, replica_id=new_id(), vm_name="grown", disks=disks)
    bench.target.create(replica)
    other = Bench(bench.driver, bench.target, replica)
    first = other.point(None, BASE)
    other.sizes["system"] = SIZE + 3 * MiB
    grown = other.point(first, (GRAIN, b"2" * GRAIN))
    for point in (first, grown):
        with closing(LocalFile(host.locate(point.disks[0].identity))) as file:
            metadata = identify(file).metadata
        assert (metadata.kind, metadata.block_bytes) == (kind, 2 * MiB)
    bench.target.remove(replica)


def test_what_is_not_bootpoints_stays_where_a_replica_was(bench: Bench, host: Host, machine: Machine) -> None:
    bench.point(None, BASE)
    folder = host.locate(machine.path)
    (folder / "somebodys.vhdx").write_bytes(b"precious")
    bench.target.remove(bench.replica)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["somebodys.vhdx"]
