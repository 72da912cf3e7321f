"""Errors in the interpreter of PowerShell's subset: what ends a statement, what a script, and what a catch block
sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hyperv.pwsh import Access, Call, Cmdlet, Drives, Outcome, failure, parameters, run


def fails(call: Call) -> object:
    """Write an object, an error and another object."""
    yield "before"
    call.error(failure("System.InvalidOperationException", "no VM", "NotFound", "ObjectNotFound", target="x"))
    yield "after"


def ends(_: Call) -> object:
    """End with an error."""
    raise failure("System.UnauthorizedAccessException", "not you", "Denied", "PermissionDenied")


COMMANDS = {"Get-Bad": Cmdlet((), fails), "Stop-Here": Cmdlet((), ends)}


def outcome(text: str, directory: Path | None = None) -> Outcome:
    """Run a script on a machine whose drive D: is a directory."""
    return run(text, [], COMMANDS, Drives({"D": directory} if directory else {}))


@pytest.mark.parametrize(
    ("text", "output", "errors", "code"),
    [
        # about_Preference_Variables, about_CommonParameters: an error that doesn't end a command, and how it may end
        # more.
        ("Get-Bad; 'on'", ["before", "after", "on"], ["no VM"], 0),
        ("Get-Bad -ErrorAction SilentlyContinue; $Error.Count", ["before", "after", 1], [], 0),
        ("Get-Bad -ErrorAction Ignore; $Error.Count", ["before", "after", 0], [], 0),
        ("Get-Bad -ErrorAction Stop; 'on'", ["before"], ["no VM"], 1),
        ("$ErrorActionPreference = 'Stop'\nGet-Bad; 'on'", ["before"], ["no VM"], 1),
        ("$ErrorActionPreference = 'Stop'\nGet-Bad -ErrorAction SilentlyContinue; 1", ["before", "after", 1], [], 0),
        ("Get-Bad 2> $null; 'on'", ["before", "after", "on"], [], 0),
        ('Get-Bad -ErrorVariable wrong -ErrorAction SilentlyContinue | Out-Null\n"$wrong"', ["no VM"], [], 0),
        ("function f {\n [CmdletBinding()]\n param()\n Get-Bad\n}\nf -ErrorAction Stop; 1", ["before"], ["no VM"], 1),
        # An error that ends a command ends its statement only; -ErrorAction doesn't help.
        ("Stop-Here -ErrorAction SilentlyContinue; 'on'", ["on"], ["not you"], 0),
        ("'x'.Substring(5); 'on'", ["on"], None, 0),
        ("function f { Stop-Here; 'on' }\nf; 'last'", ["on", "last"], ["not you"], 0),
        ("function f { Stop-Here; 'on' }\ntry { f } catch { \"$_\" }", ["not you"], [], 0),
        # about_Throw: it ends the script; the message is what was thrown.
        ("function f { throw 'bad'; 'on' }\nf; 'last'", [], ["bad"], 1),
        ("try { throw 'bad' } catch { $_.FullyQualifiedErrorId }", ["bad"], [], 0),
        ("try { throw 'bad' } catch { $_.CategoryInfo.Category }", ["OperationStopped"], [], 0),
        ("try { try { Stop-Here } catch { throw } } catch { $_.Exception.Message }", ["not you"], [], 0),
        # about_Try_Catch_Finally
        ("try { Get-Bad } catch { 'never' }", ["before", "after"], ["no VM"], 0),
        ("try { Stop-Here } catch [System.IO.IOException] { 1 } catch [System.UnauthorizedAccessException] { 2 }", [2],
         [], 0),
        ("try { Stop-Here } catch [System.Exception] { $_.Exception.GetType().Name }", ["UnauthorizedAccessException"],
         [], 0),
        ("try { Stop-Here } catch [System.IO.IOException] { 1 } finally { 'last' }", ["last"], ["not you"], 0),
        ("function f { try { return 1 } finally { 'last' } }\nf", [1, "last"], [], 0),
        ("foreach ($i in 1, 2) { try { continue } finally { $i } }", [1, 2], [], 0),
        ("try { throw (New-Object System.IO.IOException 'full') } catch [System.IO.IOException] { \"$_\" }", ["full"],
         [], 0),
        ("try { 'x'.Substring(9) } catch [System.Management.Automation.RuntimeException] { 'any' }", ["any"], [], 0),
        ("try { @{ a = 1 } + @{ A = 2 } } catch [System.ArgumentException] { 'twice' }", ["twice"], [], 0),
        # about_Language_Keywords: exit, from wherever it is.
        ("function f { try { exit 3 } finally { 'last' } }\nf; 'on'", ["last"], [], 3),
        # about_Functions_Advanced_Parameters, about_Parameters
        ("function f {\n param([Parameter(Mandatory = $true)] [string] $A)\n $A\n}\ntry { f '' } catch { 'empty' }",
         ["empty"], [], 0),
        ("function f {\n param([ValidateSet('On', 'Off')] [string] $A)\n $A\n}\nf on; try { f maybe } catch { 'no' }",
         ["on", "no"], [], 0),
        ("function f {\n [CmdletBinding()]\n param($Name)\n $Name\n}\nf -Na 1; try { f -Other 1 } catch { 'unknown' }",
         [1, "unknown"], [], 0),
        ("function f {\n param([int] $A)\n $A\n}\ntry { f x } catch { $_.FullyQualifiedErrorId }",
         ["ParameterArgumentTransformationError,f"], [], 0),
        # Set-StrictMode
        ("$x.y", [None], [], 0),
        ("Set-StrictMode -Version 2\ntry { $x } catch { 'unset' }\n$x = @{ a = 1 }\ntry { $x.b } catch { 'none' }",
         ["unset", "none"], [], 0),
        ("Set-StrictMode -Version 2\n$x = 7\ntry { $x.Count } catch { 'none' }", ["none"], [], 0),
        # about_Member-Access, about_Methods: null has neither methods nor members.
        ("try { $null.Trim() } catch { $_.FullyQualifiedErrorId }", ["InvokeMethodOnNull"], [], 0),
        ("try { $null[0] } catch { $_.FullyQualifiedErrorId }", ["NullArray"], [], 0),
        ("try { ('x').Foo = 1 } catch { $_.FullyQualifiedErrorId }", ["PropertyNotFound"], [], 0),
        ('try { 1 / 0 } catch { "$_" }', ["Attempted to divide by zero."], [], 0),
    ],
)  # fmt: skip
def test_an_error_goes_as_far_as_the_pages_say(
    text: str, output: list[object], errors: list[str] | None, code: int
) -> None:  # fmt: skip
    ended = outcome(text)
    assert ended.output == output
    assert errors is None or [str(error) for error in ended.errors] == errors
    assert ended.exit_code == code


def test_what_a_method_of_dot_net_throws_comes_wrapped_and_is_caught_by_its_own_type(tmp_path: Path) -> None:
    text = "try { [System.IO.File]::ReadAllText('D:\\a.txt') } catch { $_.Exception.GetType().Name; \"$_\" }\n"
    text += "try { [System.IO.File]::ReadAllText('D:\\a.txt') } catch [System.IO.FileNotFoundException] { \"$_\" }\n"
    text += "try { [System.IO.File]::ReadAllText('D:\\a.txt') } catch { $_.Exception.InnerException.Message }"
    name, outer, inner, again = outcome(text, tmp_path).output
    assert again == inner
    assert name == "MethodInvocationException"
    assert outer == f'Exception calling "ReadAllText" with "1" argument(s): "{inner}"'
    assert inner == "Could not find file 'D:\\a.txt'."


def test_an_error_knows_its_line_and_its_command() -> None:
    error = outcome("'first'\n\nGet-Bad").errors[0]
    assert error.invocation_info.script_line_number == 3
    assert (error.category_info.category, error.category_info.activity) == ("ObjectNotFound", "Get-Bad")


def test_a_file_that_another_program_holds_is_refused_as_the_machine_would(tmp_path: Path) -> None:
    def held(path: Path, access: Access) -> None:
        if access is Access.DELETE and path.suffix == ".vhdx":
            raise failure("System.IO.IOException", "it is being used by another process", category="WriteError")

    (tmp_path / "a.vhdx").touch()
    text = "Remove-Item -LiteralPath 'D:\\a.vhdx'; Test-Path -LiteralPath 'D:\\a.vhdx'"
    ended = run(text, [], {}, Drives({"D": tmp_path}, held))
    assert ended.output == [True]
    assert [str(error) for error in ended.errors] == ["it is being used by another process"]


def test_a_command_that_asks_fails_where_nobody_can_answer() -> None:
    asking = {"Remove-VM": Cmdlet(parameters(["VM object 0", "Confirm switch"]), lambda call: call["VM"], prompts=True)}
    assert run("Remove-VM 1", [], asking, Drives({})).exit_code == 0
    assert "NonInteractive" in str(run("Remove-VM 1", [], asking, Drives({})).errors[0])
    assert run("Remove-VM 1 -Confirm:$false", [], asking, Drives({})).output == [1]


def test_what_is_not_of_the_script_passes_through_it_as_its_process_ends(tmp_path: Path) -> None:
    def killed(_: Call) -> object:
        raise KeyError("oops")

    text = "try { Get-Broken } catch { 'caught' } finally { New-Item -Path 'D:\\last' }"
    with pytest.raises(KeyError):
        run(text, [], {"Get-Broken": Cmdlet((), killed)}, Drives({"D": tmp_path}))
    assert list(tmp_path.iterdir()) == []
