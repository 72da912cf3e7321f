"""Pipelines: each stage hands every object on as soon as it has it, as PowerShell does (about_Pipelines).

::

    expression ──▶ Stage ──▶ Stage ──▶ out        process() for each object, finish() after the last one

A stage is a function or a script block (its begin, process and end blocks), a command carried out by Python, or one of
the language's own commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.hyperv.pwsh.binding import Given, bind, check_mandatory
from tests.hyperv.pwsh.block import BlockStage
from tests.hyperv.pwsh.cmdlet import Cmdlet
from tests.hyperv.pwsh.context import Context, Out, Scope
from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.evaluation import evaluate, executes, write
from tests.hyperv.pwsh.failure import Enough, OutsideSubset, failure
from tests.hyperv.pwsh.node import Command, Expression, Increment, Named, Pipeline, Splat
from tests.hyperv.pwsh.stage import FUNCTIONS, STAGES, CmdletStage, Stage
from tests.hyperv.pwsh.value import NOTHING, ScriptBlock, Table


@executes(Pipeline)
def _pipeline(node: Pipeline, context: Context, out: Out) -> None:
    shown = len(context.reported)
    if node.discards:
        out = _drop
    first = node.stages[0]
    if isinstance(first, Command):
        _flow(_stages(node.stages, context, out, piped=False), _nothing)
    else:
        _from_expression(first, node.stages[1:], context, out)
    if node.silent:
        del context.reported[shown:]


def _drop(_: object) -> None:
    """Take what nobody wants."""


def _nothing() -> None:
    """Feed nothing: the first stage is a command that finds its objects itself."""


def _from_expression(
    first: Expression, rest: Sequence[Command | Expression], context: Context, out: Out
) -> None:  # fmt: skip
    value = evaluate(first, context)
    if rest:
        stages = _stages(rest, context, out, piped=True)
        _flow(stages, lambda: write(value, stages[0].process))
    elif not isinstance(first, Increment):
        # A step alone, $i++, writes nothing.
        write(value, out)


def _stages(nodes: Sequence[Command | Expression], context: Context, out: Out, *, piped: bool) -> list[_Placed]:
    """Return the stages, made from the last to the first, for each has to know where it writes."""
    made: list[_Placed] = []
    for at in reversed(range(len(nodes))):
        node = nodes[at]
        assert isinstance(node, Command)
        made.insert(0, _placed(node, context, made[0].process if made else out, piped=piped or at > 0))
    return made


def _flow(stages: list[_Placed], feed: Callable[[], None]) -> None:
    """Run a pipeline; a stage that has enough ends those before it without their end blocks."""
    waiting = list(stages)
    fed = False
    while waiting:
        try:
            if not fed:
                fed = True
                feed()
            waiting[0].finish()
            waiting.pop(0)
        except Enough as enough:
            at = next((at for at, each in enumerate(waiting) if each.stage is enough.stage), None)
            if at is None:
                raise
            waiting = waiting[at:]


class _Placed:
    """A stage with the scopes in which it runs, whoever hands it an object."""

    def __init__(self, stage: Stage, context: Context, scopes: list[Scope]) -> None:
        self.stage = stage
        self._context, self._scopes = context, scopes

    def process(self, item: object) -> None:
        with self._context.within(self._scopes):
            self.stage.process(item)

    def finish(self) -> None:
        with self._context.within(self._scopes):
            self.stage.finish()


def _placed(node: Command, context: Context, out: Out, *, piped: bool) -> _Placed:
    """Return the stage of a command.

    Raises:
        Failure: There is no such command, or it can't be called like this.
    """
    context.line = node.line
    if node.here:
        raise OutsideSubset("a call by the dot, which runs in the caller's scope", node.line)
    target = evaluate(node.name, context)
    given = [each for element in node.elements for each in _given(element, context)]
    if isinstance(target, ScriptBlock):
        stage: Stage = BlockStage("the script block", target.body, given, context, out, piped=piped)
        return _Placed(stage, context, [*context.scopes, Scope()])
    name = to_text(target)
    function = context.function(name)
    if function is not None:
        stage = BlockStage(name, function.body, given, context, out, piped=piped)
        return _Placed(stage, context, [*context.scopes, Scope()])
    return _Placed(_command(name, given, context, out, piped=piped), context, list(context.scopes))


def _given(element: Named | Splat | Expression, context: Context) -> list[Given]:
    if isinstance(element, Named):
        if element.value is None:
            return [Given(element.name, None, open=True)]
        return [Given(element.name, evaluate(element.value, context))]
    if isinstance(element, Splat):
        value = evaluate(element.variable, context)
        if isinstance(value, Table):
            return [Given(to_text(key), each) for key, each in value.pairs()]
        return [Given(None, each) for each in value] if isinstance(value, list) else [Given(None, value)]
    value = evaluate(element, context)
    return [Given(None, None if value is NOTHING else value)]


def _command(name: str, given: list[Given], context: Context, out: Out, *, piped: bool) -> Stage:
    """Return the stage of a command that isn't the script's own; those of the machine go before the language's."""
    cmdlet = context.commands.get(name.lower())
    own = cmdlet or _own(name, context)
    if own is not None:
        bound = bind(name, own.parameters, given, common=True, partly=cmdlet is None)
        return CmdletStage(name, own, bound, context, out, piped=piped)
    if name.lower() not in STAGES:
        message = (
            f"The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program. "
            "Check the spelling of the name, or if a path was included, verify that the path is correct and try again."
        )
        kind = "System.Management.Automation.CommandNotFoundException"
        raise failure(kind, message, "CommandNotFoundException", "ObjectNotFound", target=name)
    formal, make = STAGES[name.lower()]
    bound = bind(name, formal, given, common=True, partly=True)
    check_mandatory(name, formal, bound.arguments)
    return make(bound, context, out, piped)


def _own(name: str, context: Context) -> Cmdlet | None:
    found = FUNCTIONS.get(name.lower())
    if found is None:
        return None
    formal, carried = found
    return Cmdlet(formal, lambda call: carried(call, context))
