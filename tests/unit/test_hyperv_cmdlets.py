"""Every command and parameter that the PowerShell for Hyper-V hosts uses is there, on every Windows Server that it
claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hyperv.cmdlets import Windows, cmdlets, reference
from tests.hyperv.lint import lint
from tests.hyperv.pwsh import Drives, run

CHECKOUT = Path(__file__).parents[2]

#: The oldest Windows Server that bootpoint takes as a target.
OLDEST = Windows.SERVER_2012

#: What the module may use though `OLDEST` lacks it, and why.
ALLOWED = {
    "Set-VMFirmware is there from Windows Server 2012R2 on": "only VMs with UEFI come there, and 2012 has none",
}


def test_no_script_of_the_project_uses_what_a_host_may_lack() -> None:
    folders = [each for each in CHECKOUT.iterdir() if each.is_dir() and not each.name.startswith(".")]
    files = sorted(file for folder in folders for file in folder.rglob("*.ps1"))
    found = lint({file.name: file.read_text("utf-8") for file in files}, OLDEST)
    assert [str(each) for each in found if each.what not in ALLOWED] == []


def told(text: str, windows: Windows = OLDEST) -> list[str]:
    """Return what is wrong with a script, each with its line."""
    return [f"{each.line}: {each.what}" for each in lint({"a.ps1": text}, windows)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Get-VM -Name 'a' | Start-VM", []),
        ("Get-VM -Nam 'a'", ["1: Get-VM has no parameter -Nam"]),
        ("Get-VMx -Name 'a'", ["1: Get-VMx is neither a function of the script nor a command of the table"]),
        ("\nGet-VM 'a'", ["2: an argument of Get-VM without a name"]),
        ("Remove-VM -VM $x", ["1: Remove-VM asks before it acts: say -Force or -Confirm:$false"]),
        ("Start-VM", ["1: no parameter set of Start-VM takes just nothing"]),
        ("New-VM -NoVHD -VHDPath 'a'", ["1: no parameter set of New-VM takes just novhd, vhdpath"]),
        ("New-VM -Generation 2", ["1: New-VM has -Generation from Windows Server 2012R2 on"]),
        ("$x = @{ Generation = 2 }\nNew-VM @x", ["2: New-VM has -Generation from Windows Server 2012R2 on"]),
        ("$x = @{}\n$x.Sise = 2\nNew-VM @x", ["3: New-VM has no parameter -Sise"]),
        ("Set-VM -VM $x -AutomaticStopAction Halt",
         ["1: Set-VM takes TurnOff, Save, ShutDown for -AutomaticStopAction, and not Halt"]),
        ("$x = @{ SwitchType = 'Public' }\nNew-VMSwitch -Name 'a' @x",
         ["2: New-VMSwitch takes Internal, Private for -SwitchType, and not Public"]),
        ("New-VM @x", ["1: what is splatted to New-VM isn't a hashtable that the function makes"]),
        ("Get-Content -LiteralPath 'a' -Tail 1", ["1: Get-Content has no parameter -Tail"]),
        ("function f($a) { $a }\nf -b 1", ["2: f has no parameter -b"]),
        ("function f($a) { $a }\nf 1 2", ["2: more arguments than f has parameters"]),
        ("# \N{EN DASH}", ["1: not ASCII: Windows PowerShell reads a file without a mark as its own code page"]),
    ],
)  # fmt: skip
def test_what_a_host_does_not_have_or_takes_otherwise_is_told(text: str, wrong: list[str]) -> None:
    assert told(text) == wrong


def test_what_a_newer_windows_brought_may_be_used_once_it_was_asked_for() -> None:
    ask = "function Test-Command {\n param([string] $Name, [string] $Parameter)\n $true\n}\n$more = @{ VM = 1 }\n"
    use = "if (Test-Command 'Set-VM' 'CheckpointType') {\n $more.CheckpointType = 'Standard'\n}\nSet-VM @more"
    assert told(ask + use) == []
    assert told(ask + use.replace("if (", "if (-not (").replace(") {", ")) {")) != []
    assert told(ask + use.replace("'CheckpointType')", "'Notes')")) != []
    assert told(ask + use.replace("if (", "if ($more -or (").replace(") {", ")) {")) != []


def test_a_stand_in_has_what_its_windows_has() -> None:
    probe = "(Get-Command -Name Set-VM).Parameters.ContainsKey('CheckpointType')\n"
    probe += "$null -ne (Get-Command -Name Set-VMFirmware -ErrorAction SilentlyContinue)"
    answers = {}
    for windows in Windows:
        commands = cmdlets(windows, {"Set-VM": lambda _: None, "Set-VMFirmware": lambda _: None})
        answers[windows.value] = run(probe, [], commands, Drives({})).output
    assert answers == {
        "2012": [False, False],
        "2012R2": [False, True],
        "2016": [True, True],
        "2019": [True, True],
        "2022": [True, True],
    }


def test_a_parameter_that_a_windows_lacks_is_refused_by_it() -> None:
    def called(windows: Windows) -> object:
        commands = cmdlets(windows, {"New-VM": lambda call: call.get("Generation")})
        outcome = run("New-VM -Name 'a' -Generation 2 -NoVHD", [], commands, Drives({}))
        return outcome.output or str(outcome.errors[0])

    assert called(Windows.SERVER_2012) == "A parameter cannot be found that matches parameter name 'Generation'."
    assert called(Windows.SERVER_2012_R2) == [2]


def test_the_table_names_each_parameter_once_in_a_set() -> None:
    for entry in reference().values():
        for one in entry.sets:
            names = [name.lower() for each in one for name in (each.name, *each.aliases)]
            assert len(set(names)) == len(names), entry.name
            placed = [each.position for each in one if each.position is not None]
            assert len(set(placed)) == len(placed), entry.name
