"""What stands in a pipeline: a command at work; and the table of the language's own commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from tests.hyperv.pwsh.binding import Bound, check_sets, from_pipeline
from tests.hyperv.pwsh.cmdlet import Call, Cmdlet, parameters
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import to_bool, to_text
from tests.hyperv.pwsh.failure import Category, ErrorRecord, Failure, OutsideSubset, failure
from tests.hyperv.pwsh.node import Parameter
from tests.hyperv.pwsh.value import Table, is_null


class Stage(Protocol):
    """A command at work in a pipeline."""

    def process(self, item: object) -> None:
        """Take an object that the stage before has written."""
        ...

    def finish(self) -> None:
        """Take notice that there is no more, or that there never was a stage before."""
        ...


#: Makes the stage of a command of the language's own; the flag tells whether objects come to it.
StageMaker = Callable[[Bound, Context, Out, bool], Stage]

#: Carries out a command of the language's own that needs nothing of the pipeline but single objects.
Function = Callable[[Call, Context], object]

#: The language's own commands by their names in small letters, with what they take.
STAGES: dict[str, tuple[tuple[Parameter, ...], StageMaker]] = {}
FUNCTIONS: dict[str, tuple[tuple[Parameter, ...], Function]] = {}


def stage(name: str, *takes: str) -> Callable[[StageMaker], StageMaker]:
    """Register the stage of a command; `takes` are the words that `parameter` reads."""

    def register(maker: StageMaker) -> StageMaker:
        STAGES[name.lower()] = (parameters(takes), maker)
        return maker

    return register


def function(name: str, *takes: str) -> Callable[[Function], Function]:
    """Register what carries out a command; `takes` are the words that `parameter` reads."""

    def register(carried: Function) -> Function:
        FUNCTIONS[name.lower()] = (parameters(takes), carried)
        return carried

    return register


class CmdletStage:
    """A command that Python carries out, once for each object that comes to it."""

    def __init__(self, name: str, cmdlet: Cmdlet, bound: Bound, context: Context, out: Out, *, piped: bool) -> None:
        self._name, self._cmdlet, self._bound = name, cmdlet, bound
        self._context, self._out, self._piped = context, out, piped
        self._line = context.line

    def process(self, item: object) -> None:
        """Call it with an object of the pipeline; one that it can't take is an error that doesn't end it."""
        try:
            arguments = from_pipeline(self._name, self._cmdlet.parameters, self._bound, item)
        except Failure as wrong:
            self._report(wrong.record)
            return
        self._call(arguments)

    def finish(self) -> None:
        """Call it, unless objects came to it."""
        if not self._piped:
            self._call(self._bound.arguments)

    def _call(self, arguments: Table) -> None:
        check_sets(self._name, self._cmdlet.sets or (self._cmdlet.parameters,), arguments)
        if self._cmdlet.prompts and not _answered(arguments):
            message = "Windows PowerShell is in NonInteractive mode. Read and Prompt functionality is not available."
            raise failure("System.Management.Automation.PSInvalidOperationException", message, "InvalidOperation")
        self._context.line = self._line
        try:
            self._write(self._cmdlet.run(Call(self._name, arguments, self._report)))
        except Failure as wrong:
            self._name_in(wrong.record)
            remember(self._bound, self._context, wrong.record)
            raise

    def _write(self, found: object) -> None:
        if isinstance(found, list | tuple | Iterator):
            for item in found:
                self._out(item)
        elif found is not None:
            self._out(found)

    def _report(self, record: ErrorRecord) -> None:
        self._name_in(record)
        remember(self._bound, self._context, record)
        self._context.report(record, self._bound.error_action)

    def _name_in(self, record: ErrorRecord) -> None:
        info = record.category_info
        if not info.activity:
            record.category_info = Category(info.category, info.reason, self._name, info.target_name)


def _answered(arguments: Table) -> bool:
    """Tell whether a command that asks has its answer: ``-Confirm:$false`` or ``-Force``."""
    if "confirm" in arguments:
        return not to_bool(arguments["confirm"])
    return "force" in arguments and to_bool(arguments["force"])


def remember(bound: Bound, context: Context, record: ErrorRecord) -> None:
    """Put an error into the variable of ``-ErrorVariable``."""
    name = bound.common.get("errorvariable")
    if is_null(name):
        return
    if to_text(name).startswith("+"):
        raise OutsideSubset("-ErrorVariable that adds to a variable")
    context.set(to_text(name), [record])
