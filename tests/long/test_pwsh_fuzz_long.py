"""Mutated scripts: the interpreter of PowerShell's subset runs them, or refuses them by construct and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.hyperv.pwsh import Call, Cmdlet, Drives, OutsideSubset, PSObject, failure, parameters, run

#: Scripts that are made in a round.
ROUNDS = 60_000

#: What is mutated and run: of each part of the subset something, and no loop that a mutation makes endless.
SCRIPTS = (
    'function f {\n param([string] $Name, [int[]] $Sizes = @(1), [switch] $Force)\n "$Name $Force $($Sizes[-1])"\n}',
    "f -Name 'a' -Force:$false; f 'b' 3, 4; $more = @{ Name = 'c'; Sizes = 5 }\nf @more",
    "try { throw 'bad' } catch [System.IO.IOException] { 1 } catch { $_.Exception.Message } finally { 'last' }",
    "Get-VM | Where-Object { $_.Name -like 'a*' -and -not $_.Notes } | ForEach-Object { $_.Name.ToUpper() }",
    "Get-VM -Name 'a' -ErrorAction SilentlyContinue | Select-Object -First 1 -Property Name, @{ N = 'x'; E = { 1 } }",
    "$x = [pscustomobject] @{ a = @(1, 2); b = @{ c = $null } }\n$x.a[0] + $x.b.c; $x.b.d = 4; $x | ConvertTo-Json",
    "switch -Wildcard ('abc', 5) {\n 'a*' { \"$_\"; continue }\n { $_ -is [int] } { break }\n default { 'none' }\n}",
    "foreach ($i in 1, 2, 3) { if ($i -eq 2) { continue } elseif ($i -gt 2) { break } else { $i } }",
    "'{0:d3}|{1}' -f 7, 'a'; 'a-b' -split '-'; 'abc' -replace '(b)', '<$1>'; 7 / 2; 5 % 3; 1KB; 0xFF -band 15",
    "$l = New-Object System.Collections.ArrayList\n[void] $l.Add('x'); $l.Count; [guid]::NewGuid().ToString('N')",
    "[System.IO.File]::WriteAllText('D:\\a.txt', 'x'); Get-Content -LiteralPath 'D:\\a.txt'; Test-Path 'D:\\b'",
)  # fmt: skip

_TOKENS = re.compile(r"\s+|\w+|.", re.DOTALL)


def machines(call: Call) -> object:
    """Get-VM: two, and an error where one is named that isn't there."""
    if call.get("Name", "a") not in ("a", "b"):
        call.error(failure("System.Exception", "no such VM", "NotFound", "ObjectNotFound"))
        return []
    return [PSObject.of(Name="a", Notes=None), PSObject.of(Name="b", Notes="n")]


COMMANDS = {"Get-VM": Cmdlet(parameters(["Name string 0 pipeline"]), machines)}

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def mutated(rng: Random) -> Iterator[str]:
    """Yield scripts of which one to three words or signs went, came or changed their places."""
    pieces = [_TOKENS.findall(script) for script in SCRIPTS]
    while True:
        tokens = list(rng.choice(pieces))
        for _ in range(rng.randint(1, 3)):
            at, new = rng.randrange(len(tokens)), rng.choice(rng.choice(pieces))
            tokens[at : at + rng.randint(0, 1)] = [new] if rng.random() < 0.7 else []
        yield "".join(tokens)


def attempted(script: str, directory: Path) -> OutsideSubset | None:
    """Run a script, and return what it was refused with, if it was."""
    try:
        run(script, [], COMMANDS, Drives({"D": directory}))
    except OutsideSubset as refused:
        return refused
    return None


def test_a_mutated_script_runs_or_is_refused_by_its_line(rng: Random, tmp_path: Path) -> None:
    ran, scripts = 0, mutated(rng)
    for _ in range(ROUNDS):
        script = next(scripts)
        try:
            refused = attempted(script, tmp_path)
        except Exception as broken:
            broken.add_note(f"by this script: {script!r}")
            raise
        ran += refused is None
        assert refused is None or (refused.what and 1 <= refused.line <= script.count("\n") + 1)
    # Neither are all of them refused, nor does every one run.
    assert ROUNDS / 10 < ran < ROUNDS
