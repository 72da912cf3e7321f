"""A client of the stand-in for tests of itself: it runs scripts over WinRM, as pywinrm does, and reads their JSON."""

from __future__ import annotations

import json
from typing import Any

from winrm.protocol import Protocol

from tests.hyperv.host import Host

#: Where scripts are put.
SCRIPT = "C:\\Windows\\test.ps1"

#: What a script begins with.
PREAMBLE = "$ErrorActionPreference = 'Stop'\n"


#: Makes a VM with one disk of 64 MiB.
MAKE = """
$vm = New-VM -Name web -Path 'D:\\standby' -MemoryStartupBytes 512MB -Generation 2 -NoVHD
New-VHD -Path 'D:\\standby\\web\\disk.vhdx' -SizeBytes 64MB -Dynamic | Out-Null
Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -Path 'D:\\standby\\web\\disk.vhdx'
"""

#: Tells the files of the VM and of its checkpoints.
PATHS = """
$vm = Get-VM -Name web
$of = @(Get-VMSnapshot -VM $vm | ForEach-Object { (Get-VMHardDiskDrive -VMSnapshot $_).Path })
@{ leaf = (Get-VMHardDiskDrive -VM $vm).Path; points = $of; status = "$($vm.OperationalStatus)" } | ConvertTo-Json
"""


class ScriptError(Exception):
    """A script ended with an error; its text is what it said."""


def run(host: Host, script: str) -> Any:
    """Run a script on a host, and return what it wrote as JSON; None when it wrote nothing.

    Raises:
        ScriptError: It ended with an error.
    """
    host.locate(SCRIPT).write_text(PREAMBLE + script)
    protocol = Protocol(
        f"http{'s' if host.winrm.tls else ''}://{host.address}:{host.winrm.port}/wsman",
        transport="ntlm",
        username=host.username,
        password=host.password,
        server_cert_validation="ignore",
        message_encryption="never" if host.winrm.tls else "always",
        proxy=None,
    )
    shell = protocol.open_shell(codepage=65001)
    words = ["-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-File", SCRIPT]
    command = protocol.run_command(shell, "powershell.exe", words)
    out, err, exit_code = protocol.get_command_output(shell, command)
    protocol.cleanup_command(shell, command)
    protocol.close_shell(shell)
    if exit_code or err:
        raise ScriptError(f"{exit_code}: {err.decode()}")
    return json.loads(out) if out.strip() else None
