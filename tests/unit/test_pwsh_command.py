"""Commands in the interpreter of PowerShell's subset: the machine's, and those of the language with their traps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from hypothesis import example, given, settings, strategies

from tests.hyperv.pwsh import Call, Cmdlet, Drives, OutsideSubset, parameters, run


class State(Enum):
    """A state as .NET enumerations have it: a name and a number."""

    Running = 2
    Off = 3


@dataclass
class Machine:
    """What Get-VM returns here."""

    name: str
    id: UUID
    state: State
    hard_drives: list[str]
    notes: str | None = None


VMS = [
    Machine("web", UUID(int=1), State.Off, ["D:\\web\\a.vhdx"]),
    Machine("db", UUID(int=2), State.Running, ["D:\\db\\a.vhdx", "D:\\db\\b.vhdx"]),
]


def get(call: Call) -> object:
    """Get-VM."""
    return [vm for vm in VMS if call.get("Name") is None or vm.name == call["Name"]]


def put(call: Call) -> object:
    """Set-VM: returns what it was called with."""
    return " ".join(f"{name}={value}" for name, value in call.arguments.pairs() if name != "VM")


NOTES = ["VM object 0 mandatory pipeline", "Notes string", "Memory long alias=RAM", "Mode On|Off", "Force switch"]
COMMANDS = {
    "Get-VM": Cmdlet(parameters(["Name string 0 property"]), get),
    "Set-VM": Cmdlet(parameters(NOTES), put),
}


def written(text: str, directory: Path | None = None) -> list[object]:
    """Return what a script writes that nothing goes wrong in."""
    outcome = run(text, [], COMMANDS, Drives({"D": directory} if directory else {}))
    assert [str(error) for error in outcome.errors] == []
    return outcome.output


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("(Get-VM).Count; (Get-VM web).Name; (Get-VM -Name nobody) -eq $null", [2, "web", True]),
        ("Get-VM | Where-Object { $_.State -eq 'off' } | ForEach-Object { $_.HARDDRIVES[0] }", ["D:\\web\\a.vhdx"]),
        ("(Get-VM db).HardDrives -join ';'", ["D:\\db\\a.vhdx;D:\\db\\b.vhdx"]),
        ("[string] (Get-VM web).Id", [str(UUID(int=1))]),
        ("$vm = Get-VM web\n[int] $vm.State; \"$($vm.State)\"; [string] $vm.Notes -eq ''", [3, "Off", True]),
        ("Get-VM web | Set-VM -Notes 7 -RAM '1024' -Mode on -Force", ["Notes=7 Memory=1024 Mode=on Force=True"]),
        ("$more = @{ Notes = 'n'; Force = $false }\nSet-VM -VM 1 @more", ["Notes=n Force=False"]),
        ("(Get-Command -Name Set-VM).Parameters.ContainsKey('mode'); Get-Command Get-No -ErrorAction SilentlyContinue",
         [True]),
        ("1, 3, 2 | Sort-Object -Descending; 'b', 'B', 'a' | Sort-Object -Unique", [3, 2, 1, "a", "b"]),
        ("Get-VM | Sort-Object -Property Name | Select-Object -ExpandProperty Name", ["db", "web"]),
        ("(Get-VM | Select-Object Name, @{ Name = 'Disks'; Expression = { $_.HardDrives.Count } })[1].Disks", [2]),
        ("(1, 2, 3 | Measure-Object -Sum -Maximum).Sum; (Get-VM | Measure-Object).Count", [6.0, 2]),
        ("1, 2, 3, 4 | Select-Object -Skip 1 -First 2; 1, 2, 3 | Select-Object -Last 1", [2, 3, 3]),
        ('Get-VM | Group-Object State | ForEach-Object { "$($_.Name)=$($_.Count)" }', ["Off=1", "Running=1"]),
        ("$o = New-Object PSObject\n$o | Add-Member -MemberType NoteProperty -Name x -Value 5\n$o.x", [5]),
    ],
)  # fmt: skip
def test_commands_take_and_give_objects(text: str, output: list[object]) -> None:
    assert written(text) == output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Set-VM -VM 1 -Nots x", "parameter name 'Nots'"),
        ("Set-VM -VM 1 -M 5", "ambiguous"),
        ("Set-VM -VM 1 -Mode maybe", "On,Off"),
        ("Set-VM -VM 1 2", "positional parameter"),
        ("Set-VM -Notes x", "mandatory parameters: VM"),
        ("Set-VM -VM 1 -Notes", "Missing an argument"),
        ("Set-VM -VM 1 -Memory much", "Cannot process argument transformation on parameter 'Memory'"),
        ("Set-VM -VM 1 -Memory 1 -RAM 2", "more than once"),
        ("Get-Nothing", "not recognized"),
        ("Set-VM -VM 1 -Notes @('a', 'b')", "it is an array"),
        ("Set-VM -VM $null", "because it is null"),
        ("Set-VM -VM 1 -Force:'no'", "only Boolean values"),
        ("Test-Path -LiteralPath $null", "because it is null"),
        ("Remove-Item -LiteralPath ''", "because it is an empty string"),
    ],
)
def test_a_call_that_does_not_fit_is_refused_as_powershell_refuses_it(text: str, told: str) -> None:
    outcome = run(text, [], COMMANDS, Drives({}))
    assert outcome.output == []
    assert told in str(outcome.errors[0])


def test_parameters_that_do_not_belong_together_are_refused() -> None:
    one, two = parameters(["Name string mandatory"]), parameters(["Id guid mandatory"])
    command = Cmdlet((*one, *two), lambda _: "fits", sets=(one, two))
    assert run("Get-It -Name a", [], {"Get-It": command}, Drives({})).output == ["fits"]
    wrong = run(f"Get-It -Name a -Id {UUID(int=1)}", [], {"Get-It": command}, Drives({}))
    assert "Parameter set cannot be resolved" in str(wrong.errors[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ConvertTo-Json -InputObject @{ a = 1 } -Compress", {"a": 1}),
        # Deeper than two, objects become texts (PowerShell's issues 8393, 9266, 3574).
        ("@{ a = @{ b = @{ c = @(1, 2); d = 'x' } } } | ConvertTo-Json", {"a": {"b": {"c": "1 2", "d": "x"}}}),
        ("@{ a = @(@{ b = @{ c = 1 } }) } | ConvertTo-Json", {"a": [{"b": "System.Collections.Hashtable"}]}),
        ("@{ a = @(@{ b = @{ c = 1 } }) } | ConvertTo-Json -Depth 3", {"a": [{"b": {"c": 1}}]}),
        # An array of one through the pipeline is its object (issue 11857); given by name it stays an array.
        ("@(@{ a = 1 }) | ConvertTo-Json", {"a": 1}),
        ("ConvertTo-Json -InputObject @(@{ a = 1 })", [{"a": 1}]),
        ("@{ a = @(1); b = @(); c = $null } | ConvertTo-Json", {"a": [1], "b": [], "c": None}),
        # What a command without output leaves (issue 9231).
        ("function f { }\n@{ a = f } | ConvertTo-Json", {"a": {}}),
        # Enumerations are their numbers, GUIDs texts.
        ("Get-VM web | Select-Object State, Id | ConvertTo-Json", {"State": 3, "Id": str(UUID(int=1))}),
        ('@{ state = "$((Get-VM web).State)" } | ConvertTo-Json', {"state": "Off"}),
        ("@{ n = 10TB; d = 2.5; t = $true } | ConvertTo-Json", {"n": 10 << 40, "d": 2.5, "t": True}),
    ],
)
def test_json_is_written_as_windows_powershell_writes_it(text: str, value: object) -> None:
    (output,) = written(text)
    assert json.loads(str(output)) == value


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("$x = ConvertFrom-Json '{\"a\": {\"B\": [1, 2]}, \"n\": null}'\n$x.A.b[1]; $x.n -eq $null", [2, True]),
        # An array is one object of the pipeline (issue 3424); in parentheses it is a list.
        ("('[1, 2]' | ConvertFrom-Json | ForEach-Object { 1 }).Count", [1]),
        ("@((ConvertFrom-Json '[1, 2]')).Count", [2]),
        ("try { ConvertFrom-Json '{' } catch { 'bad' }", ["bad"]),
        ("$null | ConvertTo-Json", []),
        ("'<a>' | ConvertTo-Json", ['"\\u003ca\\u003e"']),
    ],
)
def test_json_is_read_as_windows_powershell_reads_it(text: str, output: list[object]) -> None:
    assert written(text) == output


#: Names in JSON; two that differ in case only are refused.
NAMES = strategies.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=6)

#: What arguments and results of the module are made of: dictionaries, lists, texts of any letters, numbers, null.
VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers(-(2**63), 2**63 - 1) | strategies.text(max_size=12),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=20, deadline=None)
@given(values=strategies.dictionaries(NAMES, VALUES, max_size=3))
@example(values={"a": "$(exit 7) `$x \"quoted\" 'too'", "b": [["x"], []], "c": [{}]})
def test_what_comes_as_json_goes_as_json_whatever_letters_it_has(values: dict[str, object]) -> None:
    with TemporaryDirectory() as directory:
        (Path(directory) / "arguments.json").write_text(json.dumps(values), "utf-8")
        text = "param([string] $Folder)\n"
        text += "$given = ConvertFrom-Json ([System.IO.File]::ReadAllText((Join-Path $Folder 'arguments.json')))\n"
        text += "$result = ConvertTo-Json -InputObject $given -Depth 16 -Compress\n"
        text += "[System.IO.File]::WriteAllText((Join-Path -Path $Folder -ChildPath 'result.json'), $result)"
        assert run(text, ["D:\\"], {}, Drives({"D": Path(directory)})).errors == []
        assert json.loads((Path(directory) / "result.json").read_text("utf-8")) == values


def test_files_are_made_found_read_and_taken_away(tmp_path: Path) -> None:
    text = r"""
New-Item -ItemType Directory -Path 'D:\Work\one' -Force | Out-Null
[System.IO.File]::WriteAllText('D:\Work\one\a.json', '{"x": 1}')
(Get-Content -LiteralPath 'd:\work\ONE\A.JSON' -Raw | ConvertFrom-Json).x
[System.IO.File]::Move('D:\Work\one\a.json', 'D:\Work\one\b.json')
Test-Path -LiteralPath 'D:\Work\one\a.json'; Test-Path -LiteralPath 'D:\Work' -PathType Container; Test-Path 'X:\a'
(Get-ChildItem -LiteralPath 'D:\Work' -Recurse).FullName -join ','
(Get-Item -LiteralPath 'D:\Work\one\b.json').Length
Join-Path -Path 'D:\Work' -ChildPath 'c'; Split-Path -Path 'D:\Work\one' -Leaf; Split-Path -Path 'D:\Work\one' -Parent
Remove-Item -LiteralPath 'D:\Work' -Recurse -Force
"""
    assert written(text, tmp_path) == [
        1, False, True, False, r"D:\Work\one,D:\Work\one\b.json", 8, r"D:\Work\c", "one", r"D:\Work",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_there_are_errors_that_name_them(tmp_path: Path) -> None:
    text = "Get-Content -LiteralPath 'D:\\no'; Remove-Item -LiteralPath 'D:\\no'; Join-Path 'X:\\a' 'b'; 'on'"
    outcome = run(text, [], {}, Drives({"D": tmp_path}))
    assert outcome.output == ["on"]
    assert [str(error) for error in outcome.errors] == [
        "Cannot find path 'D:\\no' because it does not exist.",
        "Cannot find path 'D:\\no' because it does not exist.",
        "Cannot find drive. A drive with the name 'X' does not exist.",
    ]


def test_files_are_in_the_encodings_of_windows_powershell(tmp_path: Path) -> None:
    text = "Set-Content -LiteralPath 'D:\\m.txt' -Value 'ä' -Encoding UTF8\nSet-Content -LiteralPath 'D:\\a.txt' 'ä'\n"
    text += "[System.IO.File]::WriteAllText('D:\\u.txt', 'ä')\nGet-Content -LiteralPath 'D:\\u.txt'"
    # Without a mark and a word, UTF-8 is read as the machine's own code page.
    assert written(text, tmp_path) == ["Ã¤"]
    found = {name: (tmp_path / name).read_bytes() for name in ("m.txt", "a.txt", "u.txt")}
    assert found == {"m.txt": b"\xef\xbb\xbf\xc3\xa4\r\n", "a.txt": b"\xe4\r\n", "u.txt": b"\xc3\xa4"}


def test_a_text_of_a_file_is_no_plain_text_to_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(OutsideSubset, match="PSPath"):
        written("@{ a = Get-Content -LiteralPath 'D:\\a.txt' } | ConvertTo-Json", tmp_path)
