"""Commands about the host itself: its services, volumes, CIM classes, and the files that clients have open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tests.hyperv.cmdlets import Windows
from tests.hyperv.command import command, many, text
from tests.hyperv.machine import State
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.failure import failure
from tests.hyperv.pwsh.value import PSObject, Table
from tests.hyperv.wmi import VIRTUALIZATION

if TYPE_CHECKING:
    from tests.hyperv.host import Host


#: Version of the Hyper-V module of the older releases; those since Windows Server 2016 have 2.0.0.0 ("What's new in
#: Hyper-V on Windows Server", "Windows PowerShell modules updated").
_MODULES = {Windows.SERVER_2012: "1.0", Windows.SERVER_2012_R2: "1.1"}


@command("Get-Module")
def get_module(host: Host, call: Call) -> object:
    """Return the Hyper-V module, which a command of it has loaded (about_Modules, "Module auto-loading")."""
    names = [str(each).lower() for each in many(call.get("Name", "Hyper-V"))]
    if not host.hyperv or host.guise.commands is None or "hyper-v" not in names:
        return None
    return PSObject.of(Name="Hyper-V", Version=_MODULES.get(host.guise.commands, "2.0.0.0"))


@command("Get-Service")
def get_service(host: Host, call: Call) -> object:
    """Return services: those that tests ask for."""
    there = {"winrm": "Running", "lanmanserver": "Running"}
    if host.hyperv:
        there["vmms"] = host.trouble.vmms
    if host.cluster is not None:
        there["clussvc"] = "Running"
    found = []
    for name in (str(each) for each in many(call.get("Name", list(there)))):
        if name.lower() in there:
            found.append(PSObject.of(Name=name, Status=there[name.lower()], StartType="Automatic"))
            continue
        kind = "Microsoft.PowerShell.Commands.ServiceCommandException"
        identity = "NoServiceFoundForGivenName,Microsoft.PowerShell.Commands.GetServiceCommand"
        message = f"Cannot find any service with service name '{name}'."
        call.error(failure(kind, message, identity, "ObjectNotFound", target=name))
    return found


@command("Get-Volume")
def get_volume(host: Host, call: Call) -> object:
    """List volumes; one without a letter, for what starts the host, too."""
    letters = [str(each).upper() for each in many(call.get("DriveLetter", None))]
    found = [
        PSObject.of(
            DriveLetter=letter,
            DriveType="Fixed",
            FileSystem="NTFS",
            FileSystemLabel="",
            HealthStatus="Healthy",
            Size=size,
            SizeRemaining=host.free_bytes(f"{letter}:\\"),
        )
        for letter, size in host.volumes.items()
        if not letters or letter in letters
    ]
    if letters:
        return found
    system = PSObject.of(
        DriveLetter=None,
        DriveType="Fixed",
        FileSystem="NTFS",
        FileSystemLabel="System Reserved",
        HealthStatus="Healthy",
        Size=523_239_424,
        SizeRemaining=489_000_960,
    )
    return [*found, system]


# --- CIM


@command("Get-CimInstance")
def get_cim_instance(host: Host, call: Call) -> object:
    """Return instances of the classes that a host is asked for."""
    name = text(call, "ClassName").lower()
    space = text(call, "Namespace", "root\\cimv2").lower().replace("/", "\\")
    classes: dict[tuple[str, str], Callable[[Host], object]] = {
        ("root\\cimv2", "win32_operatingsystem"): _operating_system,
        ("root\\cimv2", "win32_computersystem"): _computer_system,
    }
    if host.hyperv:
        classes |= {
            (VIRTUALIZATION, "msvm_virtualsystemmanagementservice"): _management_service,
            (VIRTUALIZATION, "msvm_virtualsystemsettingdata"): _setting_data,
        }
    if (space, name) not in classes:
        kind = "Microsoft.Management.Infrastructure.CimException"
        identity = "HRESULT 0x80041010,Microsoft.Management.Infrastructure.CimCmdlets.GetCimInstanceCommand"
        raise failure(kind, "Invalid class ", identity, "MetadataError", target=text(call, "ClassName"))
    return classes[space, name](host)


def _operating_system(host: Host) -> object:
    used = sum(each.memory_startup for each in host.vmms.machines if each.state is State.Running)
    return PSObject.of(
        Caption=host.guise.caption,
        Version=host.guise.version,
        BuildNumber=host.guise.version.rpartition(".")[2],
        CSName=host.name,
        TotalVisibleMemorySize=host.memory // 1024,
        FreePhysicalMemory=max(0, host.memory - used) // 1024,
    )


def _computer_system(host: Host) -> object:
    return PSObject.of(
        Name=host.name,
        DNSHostName=host.name,
        Domain="cluster.test" if host.cluster is not None else "WORKGROUP",
        PartOfDomain=host.cluster is not None,
        NumberOfLogicalProcessors=host.processors,
        TotalPhysicalMemory=host.memory,
    )


def _management_service(_: Host) -> object:
    return PSObject.of(CreationClassName="Msvm_VirtualSystemManagementService", Name="vmms")


def _setting_data(host: Host) -> object:
    found = []
    for machine in host.vmms.machines:
        identity = str(machine.id).upper()
        found.append(_settings(identity, identity, "Microsoft:Hyper-V:System:Realized", machine.name))
        for each in machine._snapshots:
            kind = "Microsoft:Hyper-V:Snapshot:Realized"
            found.append(_settings(str(each.id).upper(), identity, kind, each.name))
    return found


def _settings(identity: str, machine: str, kind: str, name: str) -> PSObject:
    return PSObject.of(
        InstanceID=f"Microsoft:{identity}",
        VirtualSystemIdentifier=machine,
        VirtualSystemType=kind,
        ElementName=name,
    )


@command("Invoke-CimMethod")
def invoke_cim_method(host: Host, call: Call) -> object:
    """Carry out GetVirtualSystemThumbnailImage: a picture as RGB565, of a VM that runs (its page in Microsoft's
    Hyper-V WMI provider reference).
    """
    method = text(call, "MethodName")
    given = cast(Table, call["Arguments"])
    if method.lower() != "getvirtualsystemthumbnailimage":
        kind = "Microsoft.Management.Infrastructure.CimException"
        raise failure(kind, f"Invalid method: {method}", "HRESULT 0x8004102E", "InvalidArgument")
    target = cast(Table, given["TargetSystem"])
    machine = host.vmms.find(str(target["VirtualSystemIdentifier"]).lower())
    if machine is None or machine.state is not State.Running:
        # 32775: "Invalid state for this operation".
        return PSObject.of(ReturnValue=32775, ImageData=None)
    width, height = int(str(given["WidthPixels"])), int(str(given["HeightPixels"]))
    return PSObject.of(ReturnValue=0, ImageData=list(host.screen(machine, width, height)))


# --- files of clients


@command("Get-SmbOpenFile")
def get_smb_open_file(host: Host, call: Call) -> object:
    """List the files that clients have open over SMB; those that the host has open itself aren't among them."""
    wanted = [int(str(each)) for each in many(call.get("FileId", None))]
    user = host.username
    return [
        PSObject.of(FileId=each.file_id, SessionId=each.session, Path=host.name_of(each.path), ClientUserName=user)
        for each in host.samba.open_files()
        if not wanted or each.file_id in wanted
    ]


@command("Close-SmbOpenFile")
def close_smb_open_file(host: Host, call: Call) -> object:
    """End a client's hold on files. Samba can't close one file only: the client's session ends."""
    for file_id in (int(str(each)) for each in many(call.get("FileId", None))):
        found = [each for each in host.samba.open_files() if each.file_id == file_id]
        if not found:
            kind = "Microsoft.Management.Infrastructure.CimException"
            identity = "CmdletizationQuery_NotFound_FileId,Close-SmbOpenFile"
            message = f"No MSFT_SMBOpenFile objects found with property 'FileId' equal to '{file_id}'."
            call.error(failure(kind, message, identity))
        for each in found:
            host.samba.end_session(each.session)
    return None
