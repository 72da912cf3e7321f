"""The interpreter of PowerShell's subset does what Microsoft's about_* pages say, each case with its page."""

from __future__ import annotations

import pytest

from tests.hyperv.pwsh import Drives, Machine, Version, run


def written(text: str, *arguments: str) -> list[object]:
    """Return what a script writes that nothing goes wrong in."""
    outcome = run(text, arguments, {}, Drives({}))
    assert [str(error) for error in outcome.errors] == []
    return outcome.output


@pytest.mark.parametrize(
    ("text", "output"),
    [
        # about_Arrays, about_Pipelines: a list is written member by member; one object alone is no list.
        ("1, 2", [1, 2]),
        ("function f {\n @(7)\n}\n$x = f\n$x -is [array]", [False]),
        ("function f {\n return , @(7)\n}\n$x = f\n$x -is [array]", [True]),
        ("$x = @(7)\n$x -is [array]", [True]),
        ("$x = if ($true) { @(7) }\n$x -is [array]", [False]),
        ("@($null).Count", [1]),
        ("function f { }\n@(f).Count", [0]),
        ("function f { }\n$x = f\n@($x).Count; $null -eq $x", [0, True]),
        ("$x = 1, 2\n$x += 3\n$x.Count; $x[-1]; $x[7] -eq $null", [3, 3, True]),
        ("$x = @(@(1, 2), @(3))\n$x.Count", [2]),
        ("$a, $b = 1, 2, 3\n$b -join '+'", ["2+3"]),
        # about_Properties: of a list what its members have; Count of what is no list.
        ("$x = [pscustomobject] @{ n = 1 }, [pscustomobject] @{ n = 2 }\n$x.n -join ','", ["1,2"]),
        ("(7).Count; $null.Count; $null.Length; ([pscustomobject] @{ a = 1 }).Count", [1, 0, 0, None]),
        # about_Hash_Tables, about_PSCustomObject.
        ("$x = @{ A = 1 }\n$x.a; $x['a']; $x.b -eq $null; $x.Count", [1, 1, True, 1]),
        ("$x = @{}\n$x.b = 2\n$x['c'] = 3\n($x.Keys | Sort-Object) -join ','", ["b,c"]),
        ("([pscustomobject] @{ z = 1; a = 2 }).PSObject.Properties.Name -join ','", ["z,a"]),
        ("([ordered] @{ z = 1; a = 2 }).Keys -join ','", ["z,a"]),
        # about_Quoting_Rules: only the variable itself is expanded.
        ('$x = @{ a = 1 }\n"$x.a and $($x.a)"', ["System.Collections.Hashtable.a and 1"]),
        ("$x = 'v'\n\"${x}:1 `$x `\"`t\"\"\"", ['v:1 $x "\t"']),
        ("'it''s $x'", ["it's $x"]),
        ('$x = 1\n@"\na $x\n  b "c"\n"@', ['a 1\n  b "c"']),
        # about_If, about_Booleans.
        ("if (@()) { 1 } else { 2 }\nif (@(0)) { 1 } else { 2 }\nif (@(0, 0)) { 1 } else { 2 }", [2, 2, 1]),
        ("if ('False') { 1 }\nif ('') { 2 }\nif (0.0) { 3 } elseif ($null) { 4 } else { 5 }", [1, 5]),
        # about_Foreach, about_For, about_While, about_Do, about_Break, about_Continue.
        ("foreach ($i in $null) { 'never' }\nforeach ($i in @($null)) { 'once' }", ["once"]),
        ("foreach ($i in 1, 2, 3, 4) {\n if ($i -eq 2) { continue }\n if ($i -eq 4) { break }\n $i\n}", [1, 3]),
        ("for ($i = 0; $i -lt 3; $i++) { $i }\n$i", [0, 1, 2, 3]),
        ("$a = 0\n$b = @(1, 2)\n$c = @(-1, -2)\n$b[$a] = $c[$a++]\n$b", [1, -1]),
        ("$i = 0\ndo { $i++ } until ($i -ge 2)\nwhile ($i) { $i-- }\n$i", [0]),
        # about_Switch: each clause that holds; default where none does.
        ("switch ('b') {\n 'a' { 1 }\n 'B' { 2 }\n { $_ -eq 'b' } { 3 }\n default { 4 }\n}", [2, 3]),
        ("switch -Wildcard ('abc', 'x') {\n 'a*' { \"A:$_\"; continue }\n default { 'none' }\n}", ["A:abc", "none"]),
        ("switch ('a', 'b') {\n 'a' { 1; break }\n 'b' { 2 }\n}", [1]),
        ("switch (1, 4, -1, 'Hello', 2) {\n { $_ -lt 0 } { continue }\n { $_ -isnot [int32] } { break }\n 4 { $_ }\n}",
         [4]),
        ("switch -Regex ('https://a') {\n 'ftp' { 1 }\n '(http[s]?)\\://.*' { $Matches[1] }\n}", ["https"]),
        ("switch -Wildcard ('fourteen') {\n 4 { 1 }\n 'fo*' { 'many' }\n}", ["many"]),
        ("switch (@{}) {\n 'System.Collections.Hashtable' { 'as text' }\n}", ["as text"]),
        # about_Return, about_Functions: whatever nobody takes is output; arguments by order and by name.
        ("function f {\n $l = New-Object System.Collections.ArrayList\n $l.Add('a')\n 'b'\n}\nf", [0, "b"]),
        ("$l = New-Object Collections.ArrayList\n[void] $l.Add(0); $null = $l.Add(1); $l.Add(2) | Out-Null", []),
        ("function f { 1; return 2; 3 }\nf", [1, 2]),
        ("function f($a, $b = 5) { $a + $b }\nf 1; f -b 2 1; (f 1 1) * 2", [6, 3, 4]),
        ('function f {\n param([string] $Name, [switch] $Force)\n "$Name/$Force"\n}\nf x -Force; f; f -Force:$false y',
         ["x/True", "/False", "y/False"]),
        ("function f { $args.Count }\nf 1 2 3", [3]),
        ("$more = @{ a = 1; b = 2 }\nfunction f($a, $b) { $a - $b }\nf @more; $list = 7, 2\nf @list", [-1, 5]),
        ("& {\n param($x)\n $x * 2\n} 4", [8]),
        ("function f {\n begin { 'b' }\n process { $_ * 2 }\n end { 'e' }\n}\n1, 2 | f", ["b", 2, 4, "e"]),
        # about_Parsing: an argument is a text unless it begins like an expression.
        ("function f { $args }\n$a = 4\nf 2+2 (2+2) $a $a/H a$a (!1) D:\\a.txt",
         ["2+2", 4, 4, "4/H", "a4", False, "D:\\a.txt"]),
        # about_Splatting
        ("function f($a, $b) { $a - $b }\nfunction g($a, $b) { f @PSBoundParameters }\ng -b 2 1", [-1]),
        # about_Split
        ("('a,b,c', '1,2,3,4' -split ',', 2) -join '|'", ["a|b,c|1|2,3,4"]),
        ("'a-b-c-d' -split '(-)', 3", ["a", "-", "b", "-", "c-d"]),
        # about_Scopes: a function sees its caller's variables, and sets its own.
        ("$x = 1\nfunction f { $x; $x = 2; $x }\nf; $x", [1, 2, 1]),
        ("$x = 1\nfunction f { $script:x = 2 }\nf; $x", [2]),
        ("function f {\n $y = 9\n 1 | ForEach-Object { $_ }\n}\n$y = 3\nf | ForEach-Object { $y }", [3]),
        # about_Variables: a type stays with its variable.
        ("[int] $x = '5'\n$x + 1; $x = '7'\n$x + 1", [6, 8]),
        # about_Pipelines: one object at a time, and no more than the next command wants.
        ("$n = 0\n1, 2, 3 | ForEach-Object { $script:n++; $_ } | Select-Object -First 1\n$n", [1, 1]),
    ],
)  # fmt: skip
def test_the_language_does_what_its_pages_say(text: str, output: list[object]) -> None:
    assert written(text) == output


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # about_Comparison_Operators: case doesn't matter, and the left operand's type decides.
        ("'ABC' -eq 'abc'", True),
        ("'ABC' -ceq 'abc'", False),
        ("'10' -lt '9'", True),
        ("10 -lt '9'", False),
        ("1 -eq 'x'", False),
        ("$true -eq 'False'", True),
        ("$null -eq ''", False),
        ("'' -eq $null", False),
        ("'a[1]' -like 'A*1?'", True),
        ("'abc' -notlike 'b*'", True),
        ("'vm-7' -match '^VM-(?<n>\\d)$'", True),
        ("'a' -in 'A', 'b'", True),
        ("1, 2 -notcontains '2'", False),
        ("'abc' -eq 'abc', 'def'", False),
        ("(1, 2 -eq 3).Count", 0),
        ("'macOS' -clt 'MacOS'", True),
        ("'macOS' -lt 'MacOS'", False),
        ("(' ', '_', '~', '7' -gt 'a').Count", 0),
        ("'PowerShell' -like 'Power[p-w]hell'", True),
        ("'5.72' -replace '(.+)', '$$$1'", "$5.72"),
        ("'Contoso\\John.Doe' -replace '^(?<d>\\w+)\\\\(?<u>[\\w.]+)$', '${u}@${d}'", "John.Doe@Contoso"),
        # about_Arithmetic_Operators
        ("3+6/3*4", 11),
        ("[int] (7 / 2)", 4),
        ("'file' * 3", "filefilefile"),
        ("(@(1, 2) * 2) -join ''", "1212"),
        ("-bnot 10", -11),
        ("102 -shl 2", 408),
        ("10 -bxor 3", 9),
        ("7 / 2", 3.5),
        ("6 / 2", 3),
        ("-7 % 3", -1),
        ("'3' + 4", "34"),
        ("3 + '4'", 7),
        ("[int] 2.5", 2),
        ("[int] 3.5", 4),
        ("1GB / 1MB", 1024),
        ("0xFF -band 0x0F", 15),
        ("0x80070005", -2147024891),
        ("-not 1 -or 1", True),
        # about_Operators
        ("'{0:d3}|{1,4}|{2:x}|{{}}' -f 7, 'a', 255", "007|   a|ff|{}"),
        ("'a1b22' -replace '(\\d+)', '<$1>'", "a<1>b<22>"),
        ("'a-b-c'.Replace('-', '')", "abc"),
        ("('a, b' -split ',\\s*')[1]", "b"),
        ("-join ('a', 'b')", "ab"),
        ("'x' -is [string]", True),
        ("'5' -as [int]", 5),
        ("'x' -as [int]", None),
        ("[string] $null", ""),
        ("[int] $null", 0),
        ('"$(1.0) $(0.1 + 0.2) $true $(1, 2)"', "1 0.3 True 1 2"),
        ("'ab'.Substring(1) + 'A'.ToLower() + [string]::Join('-', @(1, 2))", "ba1-2"),
        ("'Abc'.StartsWith('a')", False),
        ("'Abc'.StartsWith('a', [System.StringComparison]::OrdinalIgnoreCase)", True),
        ("[guid] '{6F9619FF-8B86-D011-B42D-00CF4FC964FF}' -eq '6f9619ff-8b86-d011-b42d-00cf4fc964ff'", True),
        ("[IO.Path]::Combine('D:\\a', 'b.vhdx') + [IO.Path]::GetFileName('D:\\a\\c')", "D:\\a\\b.vhdxc"),
        ("[Convert]::ToBase64String([byte[]] (1, 255))", "Af8="),
        ("[version] '10.0.14393' -ge [version] '6.3'", True),
        ("[math]::Floor(7 / 2)", 3.0),
    ],
)  # fmt: skip
def test_operators_and_types_do_what_their_pages_say(text: str, value: object) -> None:
    assert written(f"$value = {text}\n, $value") == [value]


def test_a_list_on_the_left_is_filtered() -> None:
    assert written("1, 2, 3, 2 -eq 2") == [2, 2]
    assert written("'ab', 'cd', 'ax' -like 'a*'") == ["ab", "ax"]


def test_a_script_takes_its_arguments_as_texts() -> None:
    text = "param(\n [Parameter(Mandatory = $true)]\n [string] $Operation,\n [int] $Count = 3,\n [switch] $Force\n)\n"
    text += '"$Operation $Count $Force"; $PSVersionTable.PSVersion.Major; $env:COMPUTERNAME; $PSScriptRoot'
    machine = Machine(Version(4, 0), {"ComputerName": "HV1"}, "D:\\work\\module.ps1")
    output = run(text, ["state", "-Count", "5"], {}, Drives({}), machine).output
    assert output == ["state 5 False", 4, "HV1", "D:\\work"]


def test_the_order_of_a_plain_hashtable_is_none_that_a_script_can_rely_on() -> None:
    keys = written("(@{ a = 1; b = 1; c = 1; d = 1; e = 1 }).Keys")
    assert sorted(map(str, keys)) == ["a", "b", "c", "d", "e"]
    assert keys != ["a", "b", "c", "d", "e"]
