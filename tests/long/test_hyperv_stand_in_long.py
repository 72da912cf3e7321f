"""What the stand-in of a Hyper-V host does rarely, or slowly: faults, releases, a cluster."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from smbprotocol.exceptions import AccessDenied, SharingViolation, SMBException, SMBResponseException
from smbprotocol.header import NtStatus
from smbprotocol.open import ShareAccess
from winrm.exceptions import WSManFaultError

from bootpoint_common.units import MiB
from bootpoint_ops import guest_disk
from tests.hyperv.client import MAKE, PATHS, ScriptError, run
from tests.hyperv.cluster import Cluster
from tests.hyperv.front import VhdxError
from tests.hyperv.host import Host
from tests.service import process, qmp
from tests.service.boot import greeting, wait_for_text
from tests.service.component import need
from tests.service.process import wait_for
from tests.service.smb_client import connected, enter, entered, opened

pytestmark = pytest.mark.long

#: Makes a VM that starts from IDE.
NEW = "New-VM -Name web -Path 'D:\\standby' -MemoryStartupBytes 256MB -NoVHD"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    need("root", "samba")
    with Host(tmp_path / "hv1") as made:
        yield made


def test_a_running_vm_has_its_files(host: Host) -> None:
    """They can't be opened by clients, nor by tools of the host; and it doesn't start while somebody has one."""
    run(host, MAKE)
    run(host, "Start-VM -Name web")
    with entered(host.samba) as tree, pytest.raises(SharingViolation):
        opened(tree, "standby\\web\\disk.vhdx", ShareAccess.FILE_SHARE_READ)
    with pytest.raises(ScriptError, match="used by another process"):
        run(host, "Test-VHD -Path 'D:\\standby\\web\\disk.vhdx'")
    with pytest.raises(ScriptError, match="current state"):
        run(host, "Remove-VM -Name web -Force")
    run(host, "Stop-VM -Name web -TurnOff -Force")
    hold = host.holds.take(host.locate("D:\\standby\\web\\disk.vhdx"))
    with pytest.raises(ScriptError, match="used by another process"):
        run(host, "Start-VM -Name web")
    host.holds.release(hold)
    run(host, "Start-VM -Name web")


def test_restoring(host: Host) -> None:
    """What was written since is gone with its file."""
    run(host, MAKE)
    machine = host.machine("web")
    run(host, "Checkpoint-VM -Name web -SnapshotName V1; Set-VM -Name web -Notes changed")
    leaf = run(host, PATHS)["leaf"]
    host.guest_write(machine, 0, 0, b"x" * 4096)
    run(host, "Restore-VMSnapshot -VMName web -Name V1 -Confirm:$false")
    assert run(host, PATHS)["leaf"] != leaf
    assert not host.locate(leaf).exists()
    assert host.guest_read(machine, 0, 0, 4096) == bytes(4096)
    assert machine.notes == ""


def test_a_merge_is_cancelled_by_a_start_and_by_a_power_cut(host: Host) -> None:
    """It begins anew afterwards, and the VM shows the same all the time."""
    run(host, MAKE)
    machine = host.machine("web")
    run(host, "Checkpoint-VM -Name web -SnapshotName V1")
    for number in range(4):
        host.guest_write(machine, 0, 2 * number * MiB, bytes([number + 1]) * 4096)
    host.trouble.merge_piece_seconds = 0.1
    run(host, "Remove-VMSnapshot -VMName web -Name V1 -Confirm:$false; Start-VM -Name web")
    leaf = run(host, PATHS)["leaf"]
    assert leaf.endswith(".avhdx")
    run(host, "Stop-VM -Name web -TurnOff -Force")
    host.cut()
    host.start()
    host.trouble.merge_piece_seconds = 0.0
    wait_for(lambda: run(host, PATHS)["leaf"].endswith("disk.vhdx"), "the merge to end")
    assert [host.guest_read(machine, 0, 2 * number * MiB, 1) for number in range(4)] == [b"\1", b"\2", b"\3", b"\4"]


def test_a_vm_that_stands_on_anothers_checkpoint_merges_nothing(host: Host) -> None:
    """Its chain is the other's: both keep their files when it is turned off, and after a start of the host."""
    run(host, MAKE)
    run(host, "foreach ($number in 1, 2) { Checkpoint-VM -Name web -SnapshotName V$number }")
    told = run(host, PATHS)
    run(
        host,
        f"""
$vm = New-VM -Name test -Path 'D:\\standby' -MemoryStartupBytes 512MB -Generation 2 -NoVHD
New-VHD -Path 'D:\\standby\\test\\disk.vhdx' -ParentPath '{told["points"][1]}' -Differencing | Out-Null
Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -Path 'D:\\standby\\test\\disk.vhdx'
Start-VM -Name test
Stop-VM -Name test -TurnOff -Force
""",
    )
    assert run(host, '@{ of = "$((Get-VM -Name test).OperationalStatus)" } | ConvertTo-Json') == {"of": "Ok"}
    host.stop()
    host.start()
    assert run(host, PATHS) == told
    for path in ("D:\\standby\\test\\disk.vhdx", told["leaf"], *told["points"]):
        host.check_chain(host.locate(path))


def test_a_torn_file_is_refused(host: Host) -> None:
    run(host, MAKE)
    path = host.locate("D:\\standby\\web\\disk.vhdx")
    with path.open("r+b") as file:
        file.seek(64 * 1024)
        file.write(b"torn")
    with pytest.raises(VhdxError):
        host.check_chain(path)
    quietly = "-ErrorAction SilentlyContinue | ConvertTo-Json"
    assert run(host, f"Test-VHD -Path 'D:\\standby\\web\\disk.vhdx' {quietly}") is False
    with pytest.raises(ScriptError, match="0xC03A0008"):
        run(host, "Checkpoint-VM -Name web -SnapshotName V1")


def test_2008_r2_has_neither_the_module_nor_json(tmp_path: Path) -> None:
    need("root", "samba")
    with Host(tmp_path / "hv1", "2008r2") as host:
        for command in ("Get-VM", "Get-CimInstance -ClassName Win32_OperatingSystem", "ConvertTo-Json -InputObject 1"):
            with pytest.raises(ScriptError, match="is not recognized"):
                run(host, command)


def test_what_a_client_has_open_can_be_taken_from_it(host: Host) -> None:
    """It is listed by its path there, and the client's session ends."""
    path = host.locate("D:\\leaf.avhdx")
    path.write_bytes(bytes(MiB))
    with entered(host.samba) as tree:
        file = opened(tree, path.name, 0)
        told = run(host, "Get-SmbOpenFile | Select-Object -Property Path | ConvertTo-Json")
        assert told == {"Path": "D:\\leaf.avhdx"}
        run(host, "Get-SmbOpenFile | ForEach-Object { Close-SmbOpenFile -FileId $_.FileId -Force }")
        with pytest.raises(SMBException):
            file.write(b"late", 0)
    assert run(host, "@(Get-SmbOpenFile).Count | ConvertTo-Json") == 0


def test_drives_of_both_generations(host: Host) -> None:
    """A place takes one drive; the first generation starts from IDE and has a DVD drive, the second has neither."""
    script = """
$one = New-VM -Name one -Path 'D:\\standby' -NoVHD
$two = New-VM -Name two -Path 'D:\\standby' -NoVHD -Generation 2
New-VHD -Path 'D:\\standby\\one\\disk.vhdx' -SizeBytes 64MB -Fixed | Out-Null
@{
    dvds = @(Get-VMDvdDrive -VMName one).Count, @(Get-VMDvdDrive -VMName two).Count
    path = $one.Path
    kind = "$((Get-VHD -Path 'D:\\standby\\one\\disk.vhdx').VhdType)"
} | ConvertTo-Json
"""
    assert run(host, script) == {"dvds": [1, 0], "path": "D:\\standby\\one", "kind": "Fixed"}
    add = "Add-VMHardDiskDrive -Path 'D:\\standby\\one\\disk.vhdx' -ControllerNumber 0 -ControllerLocation 0"
    run(host, f"{add} -VMName one -ControllerType IDE")
    with pytest.raises(ScriptError, match="already in use"):
        run(host, f"{add} -VMName one -ControllerType IDE")
    with pytest.raises(ScriptError, match="no location"):
        run(host, f"{add} -VMName two -ControllerType IDE")
    with pytest.raises(ScriptError, match="generation 1"):
        run(host, "Set-VMFirmware -VMName one -EnableSecureBoot Off")
    run(host, "Set-VMFirmware -VMName two -EnableSecureBoot On -SecureBootTemplate MicrosoftUEFICertificateAuthority")
    assert host.machine("two")._settings.firmware.secure_boot_template == "MicrosoftUEFICertificateAuthority"


@pytest.mark.parametrize(
    ("guise", "command", "there"),
    [
        ("2012", "New-VM -Name web -Generation 2 -NoVHD", False),
        ("2012r2", "New-VM -Name web -Generation 2 -NoVHD", True),
        ("2012r2", "New-VM -Name web -NoVHD; Set-VM -Name web -CheckpointType Standard", False),
        ("2016", "New-VM -Name web -NoVHD; Set-VM -Name web -CheckpointType Standard", True),
        ("2016", "New-VM -Name web -NoVHD; Set-VM -Name web -AutomaticCheckpointsEnabled $false", False),
        ("hyperv2019", "New-VM -Name web -NoVHD; Set-VM -Name web -AutomaticCheckpointsEnabled $false", True),
    ],
)
def test_what_each_release_has(tmp_path: Path, guise: str, command: str, there: bool) -> None:
    need("root", "samba")
    with Host(tmp_path / "hv1", guise) as host:
        if there:
            run(host, f"$null = @({command})" if ";" not in command else command.replace("New-VM", "$null = New-VM"))
        else:
            with pytest.raises(ScriptError, match="parameter"):
                run(host, command.replace("New-VM", "$null = New-VM"))


def test_a_host_without_the_role(tmp_path: Path) -> None:
    need("root", "samba")
    with Host(tmp_path / "hv1", hyperv=False) as host:
        with pytest.raises(ScriptError, match="not recognized"):
            run(host, "Get-VM")
        told = run(host, "Get-CimInstance -ClassName Win32_OperatingSystem | Select-Object Version | ConvertTo-Json")
        assert told == {"Version": "10.0.20348"}
        with pytest.raises(ScriptError, match="Cannot find any service"):
            run(host, "Get-Service -Name vmms")


def test_a_process_that_is_killed_in_the_midst(host: Host) -> None:
    """What it had done stays, and the rest isn't done."""
    host.trouble.killed_shells, host.trouble.killed_at = 1, "Add-VMHardDiskDrive"
    with pytest.raises(ScriptError, match="-1073741510"):
        run(host, MAKE)
    assert host.machine("web").hard_drives == []
    assert host.locate("D:\\standby\\web\\disk.vhdx").exists()


def test_a_policy_that_forbids_scripts(host: Host) -> None:
    host.trouble.forced_policy = "AllSigned"
    with pytest.raises(ScriptError, match="running scripts is disabled"):
        run(host, "Get-VM")


def test_a_cluster(tmp_path: Path) -> None:
    """Both nodes see the shared volume, a role has an owner, and another node gets it with the VM."""
    need("root", "samba")
    cluster = Cluster(tmp_path / "csv")
    make = MAKE.replace("D:\\standby", "C:\\ClusterStorage\\Volume1")
    owner = "(Get-ClusterGroup -VMId {}).OwnerNode.Name | ConvertTo-Json"
    with (
        Host(tmp_path / "hv1", name="HV1", cluster=cluster) as first,
        Host(tmp_path / "hv2", name="HV2", address="127.0.0.2", cluster=cluster) as second,
    ):
        run(first, make)
        machine = first.machine("web")
        with pytest.raises(ScriptError, match="no cluster groups"):
            run(first, owner.format(machine.id))
        run(first, f"$null = Add-ClusterVirtualMachineRole -VMId {machine.id}")
        assert run(second, owner.format(machine.id)) == "HV1"
        cluster.move(machine, second)
        assert run(first, owner.format(machine.id)) == "HV2"
        assert run(first, "@(Get-VM).Count | ConvertTo-Json") == 0
        run(second, "Checkpoint-VM -Name web -SnapshotName V1")
        told = run(first, "(Get-ClusterSharedVolume).SharedVolumeInfo.FriendlyVolumeName | ConvertTo-Json")
        assert told == "C:\\ClusterStorage\\Volume1"
        run(first, f"Remove-ClusterGroup -VMId {machine.id} -RemoveResources -Force")
        assert not machine.is_clustered
        first.trouble.second_hop = False
        with pytest.raises(ScriptError, match="administrative privileges"):
            run(first, "Get-Cluster")


def test_a_merge_that_finds_no_space_is_done_later(host: Host) -> None:
    """Its files stay, and are merged when something of the VM changes."""
    run(host, MAKE)
    run(host, "Checkpoint-VM -Name web -SnapshotName V1")
    host.guest_write(host.machine("web"), 0, 0, b"x" * 4096)
    host.trouble.merges_full = 1
    run(host, "Remove-VMSnapshot -VMName web -Name V1 -Confirm:$false")
    wait_for(lambda: run(host, PATHS)["status"] == "Ok", "the merge to give up")
    assert run(host, PATHS)["leaf"].endswith(".avhdx")
    run(host, "Start-VM -Name web; Stop-VM -Name web -TurnOff -Force")
    wait_for(lambda: run(host, PATHS)["leaf"].endswith("disk.vhdx"), "the merge")
    assert host.guest_read(host.machine("web"), 0, 0, 4096) == b"x" * 4096


def test_there_are_50_checkpoints(host: Host) -> None:
    run(host, MAKE)
    run(host, "foreach ($number in 1 .. 50) { Checkpoint-VM -Name web -SnapshotName V$number }")
    with pytest.raises(ScriptError, match="maximum number"):
        run(host, "Checkpoint-VM -Name web -SnapshotName V51")
    host.check_chain(host.locate(run(host, PATHS)["leaf"]))


def test_a_removed_vm_leaves_its_disks(host: Host) -> None:
    """What describes it goes, what its checkpoints had is merged, and files of disks stay."""
    run(host, MAKE)
    run(host, "Checkpoint-VM -Name web -SnapshotName V1")
    host.guest_write(host.machine("web"), 0, 0, b"x" * 4096)
    run(host, "Remove-VM -Name web -Force")
    folder = host.locate("D:\\standby\\web")
    assert [each for each in folder.rglob("*") if each.suffix.lower() == ".vmcx"] == []
    assert (folder / "disk.vhdx").exists()


def test_a_drive_that_is_full(tmp_path: Path) -> None:
    """Clients that write to it are told so."""
    need("root", "samba")
    with Host(tmp_path / "hv1", limited={"D": 8 * MiB}) as host, entered(host.samba) as tree:
        file = opened(tree, "leaf.avhdx", 0)
        for number in range(7):
            file.write(bytes(MiB), number * MiB)
        with pytest.raises(SMBResponseException) as caught:
            file.write(bytes(2 * MiB), 7 * MiB)
        assert caught.value.status == NtStatus.STATUS_DISK_FULL
        file.close()
        with pytest.raises(ScriptError, match="0x80070070"):
            run(host, "New-VHD -Path 'D:\\disk.vhdx' -SizeBytes 64MB -Dynamic")
        assert [each.name for each in host.roots["D"].iterdir()] == ["leaf.avhdx"]


def test_a_screen(host: Host) -> None:
    """A running VM shows a picture of the size that was asked for, in two bytes a point."""
    run(host, MAKE)
    script = """
$service = Get-CimInstance -Namespace 'root\\virtualization\\v2' -ClassName Msvm_VirtualSystemManagementService
$settings = Get-CimInstance -Namespace 'root\\virtualization\\v2' -ClassName Msvm_VirtualSystemSettingData
$wanted = @{ TargetSystem = $settings; WidthPixels = 80; HeightPixels = 60 }
$told = Invoke-CimMethod -InputObject $service -MethodName GetVirtualSystemThumbnailImage -Arguments $wanted
@{ status = $told.ReturnValue; bytes = @($told.ImageData | Where-Object { $null -ne $_ }).Count } | ConvertTo-Json
"""
    assert run(host, script) == {"status": 32775, "bytes": 0}
    run(host, "Start-VM -Name web")
    assert run(host, script) == {"status": 0, "bytes": 2 * 80 * 60}


def test_vms_that_start_with_the_host(host: Host) -> None:
    """One that ran runs again, unless it is told not to; one that finds no memory doesn't start."""
    run(host, MAKE)
    run(host, "Start-VM -Name web")
    host.cut()
    host.start()
    assert host.machine("web").state.name == "Running"
    run(host, "Set-VM -Name web -AutomaticStartAction Nothing")
    host.cut()
    host.start()
    assert host.machine("web").state.name == "Off"
    host.memory = 256 * MiB
    with pytest.raises(ScriptError, match="Not enough memory"):
        run(host, "Start-VM -Name web")


def test_checkpoints_that_are_disabled(host: Host) -> None:
    run(host, MAKE)
    run(host, "Set-VM -Name web -CheckpointType Disabled")
    with pytest.raises(ScriptError, match="disabled"):
        run(host, "Checkpoint-VM -Name web -SnapshotName V1")


def test_an_administrator_whom_uac_filters(host: Host) -> None:
    """Neither commands nor shares are his."""
    host.filter()
    with pytest.raises(WSManFaultError):
        run(host, "Get-VM")
    with connected(host.samba) as connection, pytest.raises(AccessDenied):
        enter(host.samba, connection)


def test_a_certificate_is_renewed(tmp_path: Path) -> None:
    """New connections are shown the new one, which may have expired."""
    need("root", "samba")
    with Host(tmp_path / "hv1", tls=True) as host:
        before = shown(host)
        assert before == host.winrm.fingerprint
        host.winrm.renew_certificate(days=-1)
        assert shown(host) == host.winrm.fingerprint != before
        assert run(host, "@(Get-VM).Count | ConvertTo-Json") == 0


def test_a_vm_that_boots(tmp_path: Path) -> None:
    """A guest runs from a checkpoint's new file, shows something, and the VM is off when QEMU is gone."""
    need("root", "samba", "qemu", "qemu-img", "mmdebstrap", "grub")
    raw = tmp_path / "raw"
    guest_disk.build(raw, marker="on-hyper-v", size_bytes=guest_disk.SMALLEST)
    with Host(tmp_path / "hv1", runs_guests=True) as host:
        disk = host.locate("D:\\disk.vhdx")
        process.run(["qemu-img", "convert", "-O", "vhdx", str(raw), str(disk)])
        run(host, f"$null = {NEW}; Add-VMHardDiskDrive -VMName web -Path 'D:\\disk.vhdx'")
        run(host, "Checkpoint-VM -Name web -SnapshotName V1")
        machine = host.machine("web")
        run(host, "Start-VM -Name web")
        guest = machine._guest
        assert guest is not None
        wait_for_text(guest.serial, greeting("on-hyper-v"))
        picture = host.screen(machine, 160, 120)
        assert len(picture) == 2 * 160 * 120
        assert len(set(picture)) > 1
        qmp.command(guest.control, "quit")
        wait_for(lambda: guest.ended, "QEMU to end")
        assert run(host, '"$((Get-VM -Name web).State)" | ConvertTo-Json') == "Off"


def shown(host: Host) -> str:
    """Return the SHA-256 of the certificate that a client is shown."""
    pem = ssl.get_server_certificate((host.address, host.winrm.port))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
