"""The tables by which the nodes of a script's tree are carried out, and how errors pass through a block of
statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.failure import Failure, OutsideSubset
from tests.hyperv.pwsh.node import Command, Expression, Pipeline, Statement
from tests.hyperv.pwsh.value import gathered, written

Evaluator = Callable[[Any, Context], object]
Executor = Callable[[Any, Context, Out], None]
_Registered = TypeVar("_Registered", Evaluator, Executor)

_evaluators: dict[type, Evaluator] = {}
_executors: dict[type, Executor] = {}


def evaluates(kind: type) -> Callable[[Evaluator], Evaluator]:
    """Register what evaluates expressions of a kind."""
    return _registered(_evaluators, kind)


def executes(kind: type) -> Callable[[Executor], Executor]:
    """Register what carries out statements of a kind."""
    return _registered(_executors, kind)


def _registered(table: dict[type, _Registered], kind: type) -> Callable[[_Registered], _Registered]:
    def register(function: _Registered) -> _Registered:
        table[kind] = function
        return function

    return register


def evaluate(expression: Expression, context: Context) -> object:
    """Return an expression's value.

    Raises:
        Failure: A terminating error.
        OutsideSubset: It does what isn't known here.
    """
    context.line = expression.line
    return _evaluators[type(expression)](expression, context)


def execute(statement: Statement, context: Context, out: Out) -> None:
    """Carry out a statement; what it writes goes to `out`.

    Raises:
        Failure: A terminating error; besides, what leaves blocks (`LoopLeft`, `Returned`, `Exited`).
        OutsideSubset: It does what isn't known here.
    """
    context.line = statement.line
    _executors[type(statement)](statement, context, out)


def run_block(statements: Iterable[Statement], context: Context, out: Out) -> None:
    """Carry out statements in their order.

    An error that ends a statement alone is shown, and the next statement runs; not so within a ``try``, after a
    ``throw``, or where the preference is Stop (about_Try_Catch_Finally, about_Preference_Variables).

    Raises:
        Failure: An error that ends the block, too.
    """
    for statement in statements:
        try:
            execute(statement, context, out)
        except Failure as wrong:
            record = context.noted(wrong.record)
            action = context.text("ErrorActionPreference")
            if wrong.ends_script and not context.guarded and action in ("silentlycontinue", "ignore"):
                # It goes on at the next statement, which nobody who throws can want (about_Try_Catch_Finally, a note).
                raise OutsideSubset(f"a throw under $ErrorActionPreference = {action}") from wrong
            if wrong.ends_script or context.guarded or action == "stop":
                raise
            if action == "continue":
                context.reported.append(record)


def collect(statements: Iterable[Statement], context: Context) -> list[object]:
    """Return what statements write."""
    items: list[object] = []
    run_block(statements, context, items.append)
    return items


def result(statement: Statement, context: Context) -> object:
    """Return a statement's value.

    A single expression's value is taken as it is; of anything else what it writes: nothing, the one object, or an
    array of them (about_Return, about_Pipelines).
    """
    if isinstance(statement, Pipeline) and len(statement.stages) == 1 and not statement.discards:
        stage = statement.stages[0]
        if not isinstance(stage, Command):
            return evaluate(stage, context)
    items: list[object] = []
    execute(statement, context, items.append)
    return gathered(items)


def write(value: object, out: Out) -> None:
    """Write a value to the pipeline: a list's members one by one."""
    for item in written(value):
        out(item)
