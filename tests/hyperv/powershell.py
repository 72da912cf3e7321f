"""``powershell.exe`` as a process of a remote shell: it runs a script on the interpreter, with the host's commands.

Sources: about_PowerShell_exe (options, exit codes), about_Execution_Policies.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from tests.hyperv import (  # noqa: F401 - they register what they carry out
    commands_cluster,
    commands_part,
    commands_system,
    commands_vhd,
    commands_vm,
    fault,
    wmi,
)
from tests.hyperv.cmdlets import cmdlets, reference
from tests.hyperv.command import COMMANDS, many
from tests.hyperv.pwsh.cmdlet import Call, Cmdlet, parameters
from tests.hyperv.pwsh.failure import Failure, failure
from tests.hyperv.pwsh.files import Access
from tests.hyperv.pwsh.run import Machine, run
from tests.hyperv.shell import Killed, Process

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: Exit code of a script file that isn't there (about_PowerShell_exe: "-File").
NO_FILE = -196608

#: Commands that came with Windows PowerShell 3.0, and that our script needs: 2008 R2 has 2.0 ("What's New in Windows
#: PowerShell").
SINCE_POWERSHELL_3 = {
    "ConvertFrom-Json": parameters(["InputObject string 0 pipeline"]),
    "ConvertTo-Json": parameters(["InputObject object 0 pipeline", "Depth int", "Compress switch"]),
    "Get-CimInstance": parameters(["ClassName string 0", "Namespace string"]),
}

#: Commands that VMware's PowerCLI has, too. Its modules lie in Program Files, which is looked through before the
#: system's own folder: unless a module is loaded, its commands are found first (about_Modules).
POWER_CLI = frozenset({"Get-VM", "New-VM", "Set-VM", "Start-VM", "Stop-VM", "Remove-VM", "Get-VMHost"})

#: Options with a value, and those without.
_VALUED, _SWITCHES = ("-executionpolicy", "-outputformat", "-inputformat"), ("-noprofile", "-noninteractive", "-nologo")


def execute(host: Host, process: Process) -> int:
    """Carry out a process; return its exit code."""
    program, *words = process.words
    if program.lower().removesuffix(".exe") != "powershell":
        process.write("stderr", f"'{program}' is not recognized as an internal or external command.\r\n")
        return 1
    options, script, arguments = _parse(words)
    path = host.locate(script) if script else None
    if path is None or not path.is_file():
        text = f"The argument '{script}' to the -File parameter does not exist."
        process.write("stderr", f"{text} Provide the path to an existing '.ps1' file as an argument.\r\n")
        return NO_FILE
    policy = host.trouble.forced_policy or options.get("-executionpolicy", "Restricted")
    if policy.lower() not in ("bypass", "unrestricted", "remotesigned"):
        text = f"File {script} cannot be loaded because running scripts is disabled on this system."
        process.write("stderr", f"{text} For more information, see about_Execution_Policies.\r\n")
        process.write(
            "stderr", "    + CategoryInfo          : SecurityError: (:) [], ParentContainsErrorRecordException\r\n"
        )
        process.write("stderr", "    + FullyQualifiedErrorId : UnauthorizedAccess\r\n")
        return 1
    return _run(host, process, script, arguments, path.read_text("utf-8-sig"))


def _parse(words: list[str]) -> tuple[dict[str, str], str, list[str]]:
    """Return options, the script's path and its arguments: all that is behind ``-File`` and its value."""
    options: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0).lower()
        if word == "-file" and waiting:
            return options, waiting[0], waiting[1:]
        if word in _VALUED and waiting:
            options[word] = waiting.pop(0)
        elif word not in _SWITCHES:
            break
    return options, "", []


def _run(host: Host, process: Process, script: str, arguments: list[str], text: str) -> int:
    environment = {"COMPUTERNAME": host.name, "SystemRoot": "C:\\Windows", "SystemDrive": "C:"}
    around = Machine(host.guise.powershell, environment, str(PureWindowsPath(script)))
    outcome = run(text, arguments, commands(host, process), _Watched(host, process), around)
    for each in outcome.output:
        process.write("stdout", f"{each}\r\n")
    for record in outcome.errors:
        process.write("stderr", f"{record}\r\n    + FullyQualifiedErrorId : {record.fully_qualified_error_id}\r\n")
    return outcome.exit_code


class _Watched:
    """The host's drives, for a process that can be killed."""

    def __init__(self, host: Host, process: Process) -> None:
        self._host = host
        self._process = process

    def resolve(self, path: str, access: Access) -> Path:
        """Return the file here; see `Drives.resolve`."""
        self._process.check()
        return self._host.drives.resolve(path, access)


def commands(host: Host, process: Process) -> Mapping[str, Cmdlet]:
    """Return the commands that a process of the host has."""
    if host.guise.commands is None:
        return {name: Cmdlet(takes, _missing(name)) for name, takes in SINCE_POWERSHELL_3.items()}
    loaded: set[str] = set()
    carried = {
        name: _carried(host, process, name, do, loaded) for name, do in COMMANDS.items() if _installed(host, name)
    }
    carried["Import-Module"] = _importing(host, loaded)
    return cmdlets(host.guise.commands, carried)


def _importing(host: Host, loaded: set[str]) -> Callable[[Call], object]:
    def load(call: Call) -> None:
        for name in (str(each) for each in many(call["Name"])):
            if name.lower() == "hyper-v" and not host.hyperv:
                text = f"The specified module '{name}' was not loaded because no valid module file was found."
                identity = "Modules_ModuleNotFound,Microsoft.PowerShell.Commands.ImportModuleCommand"
                call.error(failure("System.IO.FileNotFoundException", text, identity, "ResourceUnavailable"))
            loaded.add(name.lower())

    return load


def _installed(host: Host, name: str) -> bool:
    module = reference()[name.lower()].module
    return {"Hyper-V": host.hyperv, "FailoverClusters": host.cluster is not None}.get(module, True)


def _carried(
    host: Host, process: Process, name: str, do: Callable[[Host, Call], object], loaded: set[str]
) -> Callable[[Call], object]:
    def carry_out(call: Call) -> object:
        process.check()
        if host.trouble.power_cli and name in POWER_CLI and "hyper-v" not in loaded:
            kind = "VMware.VimAutomation.Sdk.Types.V1.ErrorHandling.VimException.ViServerConnectionException"
            text = f"{name}\t\tYou are not currently connected to any servers. Please connect first."
            raise failure(kind, text, f"Core_BaseCmdlet_NotConnectedError,VMware.{name}", "ResourceUnavailable")
        if host.trouble.kills(name):
            process.kill()
            raise Killed
        host.trouble.meet(name)
        if host.trouble.vmms != "Running" and reference()[name.lower()].module == "Hyper-V":
            raise fault.no_service(name, host.name)
        with host.lock, _spacious(name):
            host.vmms.look()
            return do(host, call)

    return carry_out


@contextmanager
def _spacious(name: str) -> Iterator[None]:
    """Let a drive that is full be an error of the command: ERROR_DISK_FULL."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
        raise fault.no_room(name, exc.filename or "") from exc


def _missing(name: str) -> Callable[[Call], object]:
    def refuse(_: Call) -> Failure:
        text = (
            f"The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program. "
            "Check the spelling of the name, or if a path was included, verify that the path is correct and try again."
        )
        kind = "System.Management.Automation.CommandNotFoundException"
        raise failure(kind, text, "CommandNotFoundException", "ObjectNotFound", target=name)

    return refuse
