"""What the stand-in of ESXi does rarely, or slowly: limits, faults, moves, old guises, and machines that run."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from bootpoint_common.units import MiB
from tests.esxi.client import Change, Client, Device, connect, leaves, machine_spec
from tests.esxi.server import Esxi
from tests.esxi.tree import MOST_LEVELS
from tests.service import guest
from tests.service.boot import greeting, wait_for_text
from tests.service.component import need
from tests.service.process import run, wait_for
from tests.service.vddk import serving, vddk


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    need("pyvmomi", "qemu-img")
    with Esxi(tmp_path / "host") as host, connect(host) as made:
        yield made


@pytest.mark.long
def test_there_are_32_levels_and_merging_one_makes_room_for_another(client: Client) -> None:
    machine = client.create()
    first = client.snapshot(machine, "V1")
    for number in range(2, MOST_LEVELS + 1):
        client.snapshot(machine, f"V{number}")
    with pytest.raises(vim.fault.TooManySnapshotLevels):
        client.snapshot(machine, "V33")
    client.result(first.RemoveSnapshot_Task(removeChildren=False))
    client.snapshot(machine, "V33")
    client.result(machine.RemoveAllSnapshots_Task())
    assert machine.snapshot is None
    assert leaves(machine) == ["[datastore1] standby/standby.vmdk"]


@pytest.mark.long
def test_a_branch_is_removed_with_the_files_that_only_it_needed(client: Client) -> None:
    machine = client.create()
    first, second = (client.snapshot(machine, name) for name in ("V1", "V2"))
    client.result(first.RevertToSnapshot_Task())
    third = client.snapshot(machine, "V3")
    # Two files stand on the first one's: nothing can be merged into it.
    client.result(first.RemoveSnapshot_Task(removeChildren=False))
    assert not machine.runtime.consolidationNeeded
    assert [each.snapshot for each in machine.snapshot.rootSnapshotList] == [second, third]

    client.result(second.RemoveSnapshot_Task(removeChildren=True))
    folder = client.host.world.datastores[0].directory / "standby"
    assert not (folder / "standby-000001.vmdk").exists()
    # Now just one does.
    assert machine.runtime.consolidationNeeded
    client.result(machine.ConsolidateVMDisks_Task())
    assert leaves(third) == ["[datastore1] standby/standby.vmdk"]


@pytest.mark.long
def test_two_tasks_on_one_machine_do_not_run_at_once(client: Client) -> None:
    machine = client.create()
    client.host.world.trouble.slow_seconds = 1.0
    task = machine.CreateSnapshot_Task("V1", None, False, False)
    wait_for(lambda: task.info.state == "running", "the first task")
    with pytest.raises(vim.fault.TaskInProgress) as raised:
        client.snapshot(machine, "V2")
    assert raised.value.task == task
    assert client.result(task).config.name == "standby"


@pytest.mark.long
def test_faults_lost_calls_and_lost_answers_come_as_often_as_wanted(client: Client) -> None:
    machine, trouble = client.create(), client.host.world.trouble
    trouble.fail("PowerOnVM_Task", lambda: vim.fault.InsufficientMemoryResourcesFault(unreserved=0, requested=1))
    with pytest.raises(vim.fault.InsufficientMemoryResourcesFault):
        client.result(machine.PowerOnVM_Task())
    trouble.deaf["CreateSnapshot_Task"] = 1
    with pytest.raises(OSError):  # noqa: PT011 - any way in which a connection can end
        client.snapshot(machine, "V1")
    assert machine.snapshot is None
    trouble.dumb["CreateSnapshot_Task"] = 1
    with pytest.raises(OSError):  # noqa: PT011 - likewise
        client.snapshot(machine, "V1")
    wait_for(lambda: machine.snapshot is not None, "the snapshot")


@pytest.mark.long
def test_a_machine_that_was_moved_asks_until_it_is_answered(client: Client) -> None:
    machine = client.create()
    point = client.snapshot(machine, "V1")
    assert leaves(point) == ["[datastore1] standby/standby.vmdk"]
    machine.UnregisterVM()
    files, center = client.service.content.fileManager, client.datacenter
    client.result(
        files.MoveDatastoreFile_Task("[datastore1] standby", center, "[datastore1] trash", center, force=False)
    )
    register = center.vmFolder.RegisterVM_Task("[datastore1] trash/standby.vmx", "old", False, client.pool)
    machine = client.result(register)

    (root,) = machine.snapshot.rootSnapshotList
    assert (machine.name, root.name, leaves(root.snapshot)) == ("old", "V1", ["[datastore1] trash/standby.vmdk"])
    task = machine.PowerOnVM_Task()
    question = wait_for(lambda: machine.runtime.question, "the question")
    assert "moved or copied" in question.text
    machine.AnswerVM(question.id, "0")
    client.result(task)
    assert machine.runtime.powerState == "poweredOn"


@pytest.mark.long
def test_a_linked_copy_stands_on_a_snapshot_and_goes_without_it(client: Client) -> None:
    machine = client.create()
    point = client.snapshot(machine, "V1")
    spec = machine_spec("copy")
    backing = spec.deviceChange[-1].device.backing
    backing.fileName = "[datastore1] copy/copy.vmdk"
    backing.parent = Device.VirtualDisk.FlatVer2BackingInfo(fileName=leaves(point)[0], diskMode="persistent")
    copy = client.result(client.datacenter.vmFolder.CreateVM_Task(spec, client.pool))
    assert copy.config.hardware.device[-1].backing.parent.fileName == leaves(point)[0]

    client.result(copy.PowerOnVM_Task())
    # What it stands on can't be merged into while it runs.
    with pytest.raises(vim.fault.FileLocked):
        client.result(point.RemoveSnapshot_Task(removeChildren=False))
    client.result(copy.PowerOffVM_Task())
    client.result(copy.Destroy_Task())
    assert leaves(machine) == ["[datastore1] standby/standby-000001.vmdk"]
    client.result(machine.ConsolidateVMDisks_Task())
    assert leaves(machine) == ["[datastore1] standby/standby.vmdk"]


@pytest.mark.long
@pytest.mark.parametrize("guise", ["5.0", "5.5", "6.0"])
def test_an_old_host_is_reached_only_by_who_takes_old_tls(tmp_path: Path, guise: str) -> None:
    with Esxi(tmp_path, guise) as host:
        with pytest.raises(ssl.SSLError), connect(host):
            pass
        with connect(host, old_tls=True) as client:
            assert client.service.content.about.version.startswith(guise)
            assert leaves(client.create()) == ["[datastore1] standby/standby.vmdk"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("firmware", ["bios", "efi"])
def test_a_snapshot_boots_and_its_screen_is_seen(tmp_path: Path, firmware: str) -> None:
    need("pyvmomi", "vddk", "qemu", "qemu-img", "qemu-nbd", "nbdcopy", "ovmf", "mtools")
    disk, serial = tmp_path / "disk.raw", tmp_path / "host/datastore1/standby/serial.log"
    if firmware == "efi":
        guest.uefi_disk(disk, "marker-of-an-esxi-point", "EFI/BOOT/BOOTX64.EFI")
    else:
        guest.ide_disk(disk, "marker-of-an-esxi-point")
    with Esxi(tmp_path / "host", runs_guests=True) as host, connect(host) as client:
        machine = client.result(client.datacenter.vmFolder.CreateVM_Task(_old_machine(disk, firmware), client.pool))
        parameters = {
            "server": "127.0.0.1", "port": str(host.port), "user": "root", "thumbprint": host.thumbprint,
            "password": host.world.sessions.users[0].password, "vm": f"moref={machine._moId}",
        }  # fmt: skip
        with serving(vddk(), tmp_path, **parameters, file=leaves(machine)[0]):
            run(["nbdcopy", "--flush", str(disk), f"nbd+unix:///?socket={tmp_path / 'disk.sock'}"])
        wait_for(lambda: not host.world.leases.current, "the disk to be closed")
        point = client.snapshot(machine, "V1")

        client.result(machine.PowerOnVM_Task())
        wait_for_text(serial, greeting("marker-of-an-esxi-point"))
        picture = client.result(machine.CreateScreenshot_Task())
        assert host.world.locate(picture).read_bytes().startswith(b"\x89PNG")
        wait_for(lambda: machine.runtime.powerState == "poweredOff", "the guest to shut down")
        # What it has written is above the snapshot, and goes by a revert.
        (leaf,) = leaves(machine)
        client.result(point.RevertToSnapshot_Task())
        assert leaves(machine) != [leaf]


def _old_machine(disk: Path, firmware: str) -> Any:
    spec = machine_spec("standby", size_bytes=disk.stat().st_size, memoryMB=512, firmware=firmware)
    controller, _, drive = spec.deviceChange
    drive.device.controllerKey = 200
    spec.deviceChange.remove(controller)
    backing = Device.VirtualSerialPort.FileBackingInfo(fileName="[datastore1] standby/serial.log")
    spec.deviceChange.append(Change(operation="add", device=Device.VirtualSerialPort(key=-50, backing=backing)))
    assert disk.stat().st_size % MiB == 0
    return spec
