"""The standby on the host itself: drift, branches, the runbook, and work without a database."""

from __future__ import annotations

import re
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.journal import of_vm
from tests.integration.kvm.conftest import Bench


def _scratch_write(bench: Bench, data: str) -> str:
    """Write into the standby's first disk as a guest would; return the file."""
    listed = bench.host.virsh("domblklist", bench.replica.vm_name).splitlines()
    path = next(line.split()[-1] for line in listed if ".scratch-" in line)
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P {data} 0 65536", path]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_what_somebody_wrote_outside_is_drift_and_is_kept(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    _scratch_write(bench, "0x77")
    journal = target.inspect(bench.replica)
    assert journal is not None
    assert journal.drift is not None
    assert bench.replica.vm_name in journal.drift
    second = bench.point(target, first, b"1" * GRAIN)
    branches = list(bench.directory.glob("*.branch-*"))
    assert len(branches) == 1
    assert branches[0].name in (bench.directory / "RUNBOOK.txt").read_text()
    read = subprocess.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x77 0 65536", branches[0]], check=True)
    assert read.returncode == 0
    assert bench.start_of(target, first, GRAIN) == [b"0" * GRAIN] * 2
    assert bench.start_of(target, second, GRAIN) == [b"1" * GRAIN] * 2


@pytest.mark.parametrize("how", ["written", "started"])
def test_what_somebody_starts_in_the_midst_of_a_commit_is_kept(bench: Bench, how: str) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    sealed = bench.filled(target, first, b"1" * GRAIN)
    files = sorted(bench.directory.glob("*.scratch-*"))

    def begin(name: str) -> None:
        if name == "remake:define":
            bench.step = lambda _name: None
            if how == "started":
                bench.host.virsh("start", bench.replica.vm_name)
            else:
                _scratch_write(bench, "0x77")

    bench.step = begin
    target.commit(bench.replica, sealed)
    if how == "started":
        assert [file.exists() for file in files] == [True, True]
        assert bench.host.virsh("domstate", bench.replica.vm_name).strip() == "running"
    else:
        assert len(list(bench.directory.glob("*.branch-*"))) == 1


def test_a_start_by_virsh_is_drift_and_goes_on_beneath_the_next_point(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    bench.host.virsh("start", bench.replica.vm_name)
    journal = target.inspect(bench.replica)
    assert journal is not None
    assert (journal.standby, "did not start it" in (journal.drift or "")) == ("running", True)
    second = bench.point(target, first, b"1" * GRAIN)
    assert bench.start_of(target, second, GRAIN) == [b"1" * GRAIN] * 2
    assert bench.host.virsh("domstate", bench.replica.vm_name).strip() == "running"
    with pytest.raises(BootpointError) as caught:
        target.remove(bench.replica)
    assert caught.value.code == Code.STANDBY_RUNNING


@pytest.mark.parametrize("which", [0, 1])
def test_the_pasted_runbook_starts_the_point(bench: Bench, which: int) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    points = [first, bench.point(target, first, b"1" * GRAIN)]
    target.close()
    _paste(bench, points[which].name)
    assert bench.host.virsh("domstate", bench.replica.vm_name).strip() == "running"
    files = [line.split()[-1] for line in bench.host.virsh("domblklist", bench.replica.vm_name).splitlines() if line]
    info = subprocess.run(["qemu-img", "info", "-U", files[0]], capture_output=True, text=True, check=True).stdout
    assert points[which].disks[0].identity in info
    journal = target.inspect(bench.replica)
    assert journal is not None
    assert journal.drift


@pytest.mark.parametrize("by", ["bootpoint", "runbook"])
def test_a_memory_that_was_saved_is_not_put_into_another_point(bench: Bench, by: str) -> None:
    """As the host's libvirt-guests saves it at a shutdown: a start would go on there, with the disks of then."""
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    second = bench.point(target, first, b"1" * GRAIN)
    _paste(bench, first.name)
    bench.host.virsh("managedsave", bench.replica.vm_name)
    if by == "runbook":
        _paste(bench, second.name)
    else:
        target.start(bench.replica, StartRequest(point_id=second.point_id, conversion="none"))
    assert bench.host.virsh("domstate", bench.replica.vm_name).strip() == "running"
    files = [line.split()[-1] for line in bench.host.virsh("domblklist", bench.replica.vm_name).splitlines() if line]
    assert all(second.name in file for file in files if ".scratch-" in file)


def _paste(bench: Bench, name: str) -> None:
    """Paste a block of the runbook into a shell of the host."""
    text = (bench.directory / "RUNBOOK.txt").read_text()
    block = re.search(rf"^# BEGIN {name}\n(.*?)^# END {name}$", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    done = subprocess.run(
        ["sh", "-eu"], input=block[1], text=True, capture_output=True, env=bench.host.environment, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_reverted_standby_wrote_is_kept_and_the_runbook_says_where_it_stands(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    second = bench.point(target, first, b"1" * GRAIN)
    target.revert(bench.replica, first.point_id)
    runbook = bench.directory / "RUNBOOK.txt"
    assert f"was reverted to {first.name}" in runbook.read_text()
    assert first.disks[0].identity in _backing_of(_scratch_write(bench, "0x55"))
    bench.point(target, second, b"2" * GRAIN)
    assert f"was reverted to {first.name}" in runbook.read_text()
    assert first.disks[0].identity in _backing_of(_scratch_write(bench, "0x56"))
    target.revert(bench.replica, None)
    assert "was reverted" not in runbook.read_text()
    (branch,) = bench.directory.glob("*.branch-*")
    assert branch.name in runbook.read_text()
    assert "Pattern verification failed" not in _read_pattern(branch, "0x56")
    assert bench.start_of(target, first, GRAIN) == [b"0" * GRAIN] * 2
    assert bench.start_of(target, second, GRAIN) == [b"1" * GRAIN] * 2


def _backing_of(path: str) -> str:
    return subprocess.run(["qemu-img", "info", path], capture_output=True, text=True, check=True).stdout


def _read_pattern(path: Path, data: str) -> str:
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {data} 0 65536", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_journal_alone_is_enough_to_find_and_start_a_replica(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    point = bench.point(target, None, b"0" * GRAIN)
    target.close()
    with closing(bench.connect()) as direct:
        found = of_vm(direct.find_replicas(), bench.replica.vm_name)
        assert found is not None
        assert found.journal.points == (point,)
        assert of_vm(direct.find_replicas(), str(found.journal.vm_uuid).upper()) == found
        vm = direct.start(found.replica, StartRequest())
        assert bench.host.virsh("domstate", vm.name).strip() == "running"
        assert of_vm(direct.find_replicas(), "no-such-vm") is None


def test_a_test_vm_is_cut_off_and_the_standby_is_not_started_by_the_host(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    bench.point(target, None, b"0" * GRAIN)
    assert "disable" in bench.host.virsh("dominfo", bench.replica.vm_name).split("Autostart:")[1].split()[0]
    log = bench.directory.parent / "serial.log"
    vm = target.start(bench.replica, StartRequest(test_id="t1", serial_log=str(log)))
    xml = bench.host.virsh("dumpxml", vm.name)
    assert "type='network'" not in xml
    assert str(log) in xml
    assert vm.uuid != target.inspect(bench.replica).vm_uuid  # type: ignore[union-attr]
    journal = target.inspect(bench.replica)
    assert journal is not None
    assert (journal.standby, journal.drift) == ("test", None)
    target.stop(bench.replica, "t1")
    assert vm.name not in bench.host.virsh("list", "--all", "--name").split()


def test_a_test_that_said_much_leaves_nothing_of_it(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    bench.point(target, None, b"0" * GRAIN)
    target.start(bench.replica, StartRequest(test_id="t1", paused=True, conversion="none"))
    # As virtlogd names what it puts aside at each 2 MiB.
    for number in range(3):
        (bench.directory / f"test-t1.serial.log.{number}").write_text("much")
    (bench.directory / "test-t10.serial.log").write_text("somebody else's")
    target.stop(bench.replica, "t1")
    assert [path.name for path in bench.directory.glob("test-*")] == ["test-t10.serial.log"]


def test_a_thick_disk_is_allocated_in_full(bench: Bench) -> None:
    disks = tuple(
        type(disk)(disk.slot, disk.size_bytes, disk.disk_name, disk.bus, "thick") for disk in bench.replica.disks
    )
    bench.replica = type(bench.replica)(
        **{name: getattr(bench.replica, name) for name in bench.replica.__slots__} | {"disks": disks}
    )
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    assert all(disk.stored_bytes >= disk.size_bytes for disk in first.disks)
    second = bench.point(target, first, b"1" * GRAIN)
    assert all(disk.stored_bytes < disk.size_bytes for disk in second.disks)


def test_a_disk_that_left_the_job_stays_in_the_points_that_have_it(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"a" * 4096)
    both, bench.replica = bench.replica, replace(bench.replica, disks=bench.replica.disks[:1])
    target.create(bench.replica)
    second = bench.point(target, first, b"b" * 4096)
    runbook = (bench.directory / "RUNBOOK.txt").read_text()
    assert all(f"{disk.disk_name}.scratch-runbook-{first.name}.qcow2" in runbook for disk in both.disks)
    target.start(bench.replica, StartRequest(point_id=first.point_id, test_id="t1", paused=True, conversion="none"))
    assert len(list(bench.directory.glob("*.scratch-test-t1-*"))) == 2
    target.stop(bench.replica, "t1")
    third = bench.point(target, second, b"c" * 4096)
    target.consolidate(bench.replica, first.point_id)
    assert bench.start_of(target, third, 1) == [b"c"]
    assert not list(bench.directory.glob(f"{both.disks[1].disk_name}.*"))
    target.revert(bench.replica, second.point_id)
    target.remove(bench.replica)
    assert not bench.directory.exists()
