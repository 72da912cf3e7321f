"""Runs a script as ``powershell.exe -NoProfile -NonInteractive -File`` would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.hyperv.pwsh import (  # noqa: F401 - they register what they carry out
    builtin_content,
    builtin_host,
    builtin_item,
    builtin_json,
    builtin_object,
    builtin_path,
    command,
    expression,
    statement,
)
from tests.hyperv.pwsh.binding import Given
from tests.hyperv.pwsh.block import BlockStage
from tests.hyperv.pwsh.cmdlet import Cmdlet
from tests.hyperv.pwsh.context import Context
from tests.hyperv.pwsh.failure import ErrorRecord, Exited, Failure, LoopLeft, OutsideSubset
from tests.hyperv.pwsh.files import Files
from tests.hyperv.pwsh.net_path import directory_name
from tests.hyperv.pwsh.reader import read
from tests.hyperv.pwsh.value import PSObject, Version


@dataclass(frozen=True, slots=True)
class Machine:
    """What a script finds out about where it runs.

    Attributes:
        version: Of Windows PowerShell: 3.0 on Windows Server 2012, 4.0 on 2012 R2, 5.1 from 2016 on.
        environment: Its environment variables.
        script: The path of the script there.
    """

    version: Version = field(default_factory=lambda: Version(5, 1, 17763, 1))
    environment: Mapping[str, str] = field(default_factory=dict)
    script: str = "C:\\script.ps1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a script ended.

    Attributes:
        output: The objects that it wrote.
        errors: The errors that were shown, in their order; one that ended the script is the last.
        exit_code: What powershell.exe returns: what ``exit`` said; 1 after an error that ended the script, else 0.
    """

    output: list[object]
    errors: list[ErrorRecord]
    exit_code: int


def run(
    text: str,
    arguments: Sequence[str],
    commands: Mapping[str, Cmdlet],
    files: Files,
    machine: Machine | None = None,
) -> Outcome:
    """Run a script.

    Args:
        text: The script.
        arguments: What stands after ``-File`` and the script's name, texts all of them: ``-Name`` names a parameter.
        commands: The commands of the machine by their names, in whatever case.
        files: The machine's drives.
        machine: What else it finds there.

    Raises:
        OutsideSubset: The script doesn't parse, or does what this interpreter doesn't know; the error names the line.
    """
    machine = machine or Machine()
    context = Context(
        commands={name.lower(): cmdlet for name, cmdlet in commands.items()},
        files=files,
        environment=machine.environment,
        version=machine.version,
        variables={
            "psscriptroot": directory_name(machine.script),
            "pscommandpath": machine.script,
            "myinvocation": PSObject.of(MyCommand=PSObject.of(Path=machine.script), InvocationName=machine.script),
        },
    )
    output: list[object] = []
    try:
        code = _run(text, arguments, context, output)
    except OutsideSubset as unknown:
        raise OutsideSubset(unknown.what, unknown.line or context.line) from unknown
    return Outcome(output, context.reported, code)


def _run(text: str, arguments: Sequence[str], context: Context, output: list[object]) -> int:
    """Run a script in its context, and return its exit code."""
    body = read(text)
    try:
        stage = BlockStage("script", body, [_given(each) for each in arguments], context, output.append, piped=False)
        stage.finish()
    except Exited as ended:
        return ended.code
    except Failure as wrong:
        context.reported.append(context.noted(wrong.record))
        return 1
    except LoopLeft:
        # Outside of a loop they end the script.
        return 0
    return 0


def _given(argument: str) -> Given:
    """Return an argument of the command line: ``-Name`` begins a parameter (about_PowerShell_exe, "-File")."""
    if argument[:1] == "-" and argument[1:2].isalpha():
        name, colon, value = argument[1:].partition(":")
        return Given(name, value, open=not colon)
    return Given(None, argument)
