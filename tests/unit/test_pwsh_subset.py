"""What the interpreter of PowerShell's subset doesn't know it refuses, by construct and line; it passes nothing
over."""

from __future__ import annotations

import pytest

from tests.hyperv.pwsh import Drives, OutsideSubset, run


def refused(text: str) -> OutsideSubset:
    """Return what a script is refused with."""
    with pytest.raises(OutsideSubset) as raised:
        run(text, [], {}, Drives({}))
    return raised.value


@pytest.mark.parametrize(
    ("construct", "told"),
    [
        # Of a later PowerShell, though the grammar takes them.
        ("a && b", "'a && b'"),
        ("$x ? 1 : 2", "ternary"),
        ("$y = $x ?? 1", "null"),
        ("class A { }", "class"),
        ("enum A { B }", "enum"),
        ("[string]::new('x')", "New-Object"),
        ('"`e[0m"', "`e"),
        # Of this one, but nothing that the module needs.
        ("trap { }", "trap"),
        ("workflow w { }", "workflow w"),
        ("Get-VM > 'D:\\out.txt'", "redirection"),
        ("Get-VM 2>&1", "redirection"),
        ("1..5", "blanks"),
        ("Get-VM $x.Y('a')", "parentheses"),
        ('"$a:b"', "drive 'a'"),
        ("param([Parameter(ParameterSetName = 'a')] $x)", "ParameterSetName"),
        ("param([ValidateRange(1, 2)] $x)", "ValidateRange"),
        ("Get-VM | Get-VM | 2", "the word '2'"),
        ("Get-VM | $x", "missing"),
        ("if ($x) { 1", "missing"),
        ("()", "can't be parsed"),
        ("Get-VM -a$b", "-a$b"),
        ("function f {\n [CmdletBinding(SupportsShouldProcess = $true)]\n param()\n}", "SupportsShouldProcess"),
        ("function f { param($x) $x", "can't be parsed"),
    ],
)
def test_a_construct_is_refused_before_anything_runs(construct: str, told: str) -> None:
    # A param block can only be first.
    lead = "" if construct.startswith("param") else "'first'\n\n"
    wrong = refused(lead + construct)
    assert told in str(wrong)
    assert wrong.line >= (3 if lead else 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[xml] '<a/>'", "[xml]"),
        ("[System.Net.Dns]::GetHostName()", "[net.dns]::GetHostName"),
        ("'x'.Normalize()", "Normalize() of a System.String"),
        ("New-Object System.Net.WebClient", "net.webclient"),
        ("Get-ChildItem -Path 'D:\\*'", "-LiteralPath"),
        ("'a' -match '(?<a-b>x)'", "regular expression"),
        ("'{0:C}' -f 5", "'C'"),
        ("Get-Date -Format o", "format"),
        (". { 1 }", "dot"),
        ("1 | Where-Object Name -eq 1", "Where-Object -eq"),
        ("Get-Content -LiteralPath 'D:\\a' -Tail 1", "Get-Content -Tail"),
        ("function f {\n [CmdletBinding()]\n param()\n}\nf -OutVariable x", "OutVariable"),
        ("try { throw 'a' } catch { $_.ScriptStackTrace }", "ScriptStackTrace"),
        ("$?", "$?"),
        ("1 -shl 40", "32 bits"),
        ("[scriptblock] 'Get-VM'", "script text"),
        ("$x = 9000000000 * 9000000", "double"),
        ("1, 2 -is [int[]]", "members"),
        ("'[1]' | ConvertFrom-Json | ConvertTo-Json", "value and Count"),
        ("([datetime]::UtcNow).Ticks", "Ticks"),
    ],
)
def test_a_value_is_refused_where_it_is_met_and_no_catch_of_the_script_sees_it(text: str, told: str) -> None:
    wrong = refused(f"'first'\n\ntry {{ {text} }} catch {{ 'caught' }}")
    assert told in str(wrong)
    assert wrong.line >= 3
