"""A host with a few commands that a test gives it: enough for sessions, without a model of Hyper-V behind it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.certificate import normalised
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.hyperv.session import HyperVSession
from tests.hyperv.pwsh.cmdlet import Call, Cmdlet, parameter
from tests.hyperv.pwsh.failure import failure
from tests.hyperv.pwsh.files import Drives
from tests.hyperv.pwsh.run import run
from tests.hyperv.pwsh.value import PSObject
from tests.hyperv.server import WinRm
from tests.hyperv.shell import Process
from tests.hyperv.trouble import Trouble
from tests.service.samba import SambaServer

#: The simplest operation, without arguments, and what it returns on a host that is in no cluster.
ASK, NOTHING = "cluster_vm", {"role": None, "node": None, "changed": False}


def command(answer: Callable[[Call], object], *parameters: str) -> Cmdlet:
    return Cmdlet(tuple(parameter(each) for each in parameters), answer)


def objects(*items: Mapping[str, object]) -> Cmdlet:
    return command(lambda _: [PSObject.of(**item) for item in items])


@dataclass
class Windows:
    """A host that runs what is put onto its drive C, with the commands that a test gives it."""

    samba: SambaServer
    directory: Path
    tls: bool = False
    commands: dict[str, Cmdlet] = field(default_factory=dict)
    trouble: Trouble = field(default_factory=Trouble)
    begun: int = 0
    #: What happens before a process does anything.
    first: Callable[[Process], None] = lambda _: None

    def __post_init__(self) -> None:
        self.winrm = WinRm(
            self.directory, self.execute, self.trouble, address=self.samba.address, name="HV1", tls=self.tls
        )
        self.winrm.set_password(self.samba.username, self.samba.password)
        self.winrm.start()
        services = {"vmms": "Running"}
        self.commands |= {
            "Get-Service": command(
                lambda call: PSObject.of(Status=services[str(call["Name"])]) if call["Name"] in services else None,
                "Name string 0",
            ),
            "Get-Module": command(lambda _: PSObject.of(Name="Hyper-V", Version="2.0.0.0"), "Name string 0"),
            "Import-Module": command(lambda _: None, "Name string 0"),
            "Get-VMHost": objects({"ComputerName": "HV1"}),
            "Get-VMSwitch": objects(
                {"Name": "lan", "SwitchType": "External"}, {"Name": "none", "SwitchType": "Private"}
            ),
            "Get-Volume": objects(
                {"DriveType": "Fixed", "DriveLetter": "D", "FileSystem": "NTFS", "Size": 2**40, "SizeRemaining": 2**39},
                {"DriveType": "CD-ROM", "DriveLetter": "E", "FileSystem": "UDF", "Size": 2**30, "SizeRemaining": 0},
            ),
        }
        self.services = services
        self.name_windows("Microsoft Windows Server 2019 Standard", "10.0.17763")

    def name_windows(self, caption: str, version: str) -> None:
        facts = {
            "Caption": caption, "Version": version, "Name": "hv1", "PartOfDomain": True,
            "NumberOfLogicalProcessors": 16, "TotalPhysicalMemory": 2**36,
        }  # fmt: skip
        self.commands["Get-CimInstance"] = command(lambda _: PSObject.of(**facts), "ClassName string 0")

    def execute(self, process: Process) -> int:
        """Run PowerShell on a file, as the command line says."""
        self.begun += 1
        self.first(process)
        file, *arguments = process.words[process.words.index("-File") + 1 :]
        drives = Drives({"C": self.samba.shares["C$"]})
        script = self.samba.shares["C$"] / file[3:].replace("\\", "/")
        if not script.exists():
            process.write("stderr", f"The argument '{file}' to the -File parameter does not exist.")
            return -196608
        found = run(script.read_text(), arguments, self.commands, drives)
        process.check()
        for each in found.errors:
            process.write("stderr", str(each))
        return found.exit_code

    @property
    def folder(self) -> Path:
        """Our folder on it."""
        return self.samba.shares["C$"] / "Windows/bootpoint"

    def left(self) -> list[str]:
        """Return the names of the calls that left a folder."""
        return sorted(each.name for each in (self.folder / "calls").iterdir())

    def access(self, **changed: Any) -> HostAccess:
        settings = {"winrm": "tls" if self.tls else "http", "smb_port": self.samba.port}
        given = {
            "name": "hv1", "kind": "hyperv", "address": self.samba.address, "port": self.winrm.port,
            "user": self.samba.username, "password": self.samba.password,
            "fingerprint": normalised(self.winrm.fingerprint), "settings": settings,
        }  # fmt: skip
        return HostAccess(**{**given, **changed})


@pytest.fixture
def windows(samba_server: SambaServer, tmp_path: Path) -> Iterator[Windows]:
    made = Windows(samba_server, tmp_path)
    yield made
    made.winrm.stop()
    shutil.rmtree(made.folder / "calls", ignore_errors=True)


@pytest.fixture
def secured(samba_server: SambaServer, tmp_path: Path) -> Iterator[Windows]:
    """One that listens by TLS."""
    made = Windows(samba_server, tmp_path, tls=True)
    yield made
    made.winrm.stop()


@contextlib.contextmanager
def opened(access: HostAccess) -> Iterator[HyperVSession]:
    with contextlib.closing(HyperVSession(access)) as made:
        yield made


def refused(code: Code, *words: str) -> pytest.RaisesExc[BootpointError]:
    """Expect an error of a code whose text and hint hold some words."""

    def told(problem: BootpointError) -> bool:
        return problem.code is code and all(word in f"{problem.message} {problem.hint}" for word in words)

    return pytest.RaisesExc(BootpointError, check=told)


@dataclass
class Failover:
    """The commands of a cluster of two nodes, with a VM on a shared volume."""

    windows: Windows
    role: str | None = None
    owner: str = "HV2"
    path: str = "C:\\ClusterStorage\\Volume1\\erp"
    denied: bool = False

    def __post_init__(self) -> None:
        self.windows.services["ClusSvc"] = "Running"
        up = {"Name": "HV1", "State": "Up"}, {"Name": "HV2", "State": "Down"}
        partition = PSObject.of(Size=2**41, FreeSpace=2**40)
        volume = PSObject.of(FriendlyVolumeName="C:\\ClusterStorage\\Volume1", Partition=partition)
        shared = {"Name": "Disk 1", "OwnerNode": PSObject.of(Name="HV2"), "SharedVolumeInfo": volume}
        self.windows.commands |= {
            "Get-Cluster": command(self._cluster),
            "Get-ClusterNode": objects(*up),
            "Get-ClusterSharedVolume": objects(shared),
            "Get-ClusterGroup": command(self._group, "VMId string"),
            "Add-ClusterVirtualMachineRole": command(self._add, "VMId string"),
            "Remove-ClusterGroup": command(
                self._remove, "InputObject object pipeline", "RemoveResources switch", "Force switch"
            ),
            "Get-VM": command(
                lambda _: PSObject.of(Name="erp", Path=self.path, IsClustered=self.role is not None), "Id string"
            ),
            "Get-VMHardDiskDrive": command(lambda _: PSObject.of(Path=f"{self.path}\\a.vhdx"), "VM object"),
        }

    def _cluster(self, _: Call) -> object:
        if self.denied:
            raise failure("System.UnauthorizedAccessException", "Access is denied", "X", "PermissionDenied")
        return PSObject.of(Name="clu")

    def _group(self, _: Call) -> object:
        self._cluster(_)
        return PSObject.of(Name=self.role, OwnerNode=PSObject.of(Name=self.owner))

    def _add(self, _: Call) -> object:
        self._cluster(_)
        self.role = "erp"
        return self._group(_)

    def _remove(self, call: Call) -> None:
        assert call.switched("RemoveResources")
        assert call.switched("Force")
        assert call["InputObject"] is not None
        self.role = None


@pytest.fixture
def failover(windows: Windows) -> Failover:
    return Failover(windows)
