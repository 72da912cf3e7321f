"""Carries out statements but pipelines.

Sources: about_If, about_Foreach, about_For, about_While, about_Do, about_Switch, about_Break, about_Continue,
    about_Return,
about_Throw, about_Try_Catch_Finally, about_Functions.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.hyperv.pwsh import assignment  # noqa: F401 - it registers itself
from tests.hyperv.pwsh.comparison import equal
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import to_bool, to_number, to_text
from tests.hyperv.pwsh.evaluation import evaluate, execute, executes, result, run_block, write
from tests.hyperv.pwsh.expression import remember_match
from tests.hyperv.pwsh.failure import (
    ErrorRecord,
    Exited,
    Failure,
    Leaving,
    LoopLeft,
    NetException,
    OutsideSubset,
    Returned,
    failure,
)
from tests.hyperv.pwsh.node import (
    BlockLiteral,
    Catch,
    Expression,
    Flow,
    FlowKind,
    ForEach,
    Function,
    If,
    Loop,
    Statement,
    Switch,
    Try,
)
from tests.hyperv.pwsh.pattern import like
from tests.hyperv.pwsh.value import is_null, written


@executes(Function)
def _function(node: Function, context: Context, _: Out) -> None:
    context.define(node)


@executes(If)
def _if(node: If, context: Context, out: Out) -> None:
    for condition, body in node.branches:
        if to_bool(result(condition, context)):
            run_block(body, context, out)
            return
    run_block(node.otherwise, context, out)


# --- loops -----------------------------------------------------------------------------------------------------------


@executes(ForEach)
def _foreach(node: ForEach, context: Context, out: Out) -> None:
    items = result(node.items, context)
    # Over null there is no round (about_Foreach; since PowerShell 3.0).
    for item in [] if is_null(items) else list(written(items)):
        context.assign(node.variable, item)
        if not _round(node.body, context, out):
            return


@executes(Loop)
def _loop(node: Loop, context: Context, out: Out) -> None:
    if node.start is not None:
        execute(node.start, context, lambda _: None)
    first = node.first_round
    while first or _holds(node, context):
        first = False
        if not _round(node.body, context, out):
            return
        if node.after is not None:
            execute(node.after, context, lambda _: None)


def _holds(node: Loop, context: Context) -> bool:
    return node.condition is None or to_bool(result(node.condition, context)) != node.until


def _round(body: tuple[Statement, ...], context: Context, out: Out) -> bool:
    """Run a loop's body once, and tell whether the loop goes on."""
    try:
        run_block(body, context, out)
    except LoopLeft as left:
        return left.again
    return True


@executes(Switch)
def _switch(node: Switch, context: Context, out: Out) -> None:
    subject = result(node.subject, context)
    for item in written(subject):
        with context.scoped("_", item):
            if not _round_of_switch(node, item, context, out):
                return


def _round_of_switch(node: Switch, item: object, context: Context, out: Out) -> bool:
    """Run every clause that holds, not just the first, and tell whether the next item follows (about_Switch)."""
    met = False
    try:
        for condition, body in node.clauses:
            if condition is not None and _meets(node.mode, condition, item, context):
                met = True
                run_block(body, context, out)
        if not met:
            for condition, body in node.clauses:
                if condition is None:
                    run_block(body, context, out)
    except LoopLeft as left:
        return left.again
    return True


def _meets(mode: str, condition: Expression, item: object, context: Context) -> bool:
    if isinstance(condition, BlockLiteral):
        found: list[object] = []
        run_block(condition.body.end, context, found.append)
        return to_bool(found)
    wanted = evaluate(condition, context)
    if not isinstance(wanted, str):
        # The mode is for texts; anything else is compared.
        return equal(item, wanted)
    if mode == "-wildcard":
        return like(to_text(item), wanted)
    if mode == "-regex":
        return remember_match(to_text(item), wanted, context, cased=False)
    return equal(to_text(item), wanted)


# --- leaving ---------------------------------------------------------------------------------------------------------


@executes(Flow)
def _flow(node: Flow, context: Context, out: Out) -> None:
    if node.kind in (FlowKind.BREAK, FlowKind.CONTINUE):
        raise LoopLeft(again=node.kind is FlowKind.CONTINUE)
    value = result(node.value, context) if node.value else None
    if node.kind is FlowKind.RETURN:
        if node.value is not None:
            write(value, out)
        raise Returned
    if node.kind is FlowKind.EXIT:
        raise Exited(round(to_number(value)))
    context.line = node.line
    raise _thrown(value, context, node)


def _thrown(value: object, context: Context, node: Flow) -> Failure:
    """Return what ``throw`` throws: an exception as it is, a record as it is, anything else as the message of a
    RuntimeException; alone in a catch block, what was caught (about_Throw)."""
    if node.value is None:
        current = context.current_error()
        if current is None:
            raise OutsideSubset("throw without a value outside of a catch block", node.line)
        return Failure(current, ends_script=True)
    if isinstance(value, ErrorRecord):
        return Failure(value, ends_script=True)
    if isinstance(value, NetException):
        wrong = failure(value.type_name, value.message, value.message, "OperationStopped")
        wrong.record.exception = value
    else:
        message = to_text(value)
        wrong = failure("System.Management.Automation.RuntimeException", message, message, "OperationStopped")
        wrong.record.target_object = value
    wrong.ends_script = True
    return wrong


# --- try -------------------------------------------------------------------------------------------------------------


@executes(Try)
def _try(node: Try, context: Context, out: Out) -> None:
    try:
        _guarded(node, context, out)
    except Leaving:
        run_block(node.last, context, out)
        raise
    # Not so for what isn't of the script: where its process is killed, for one, no finally block runs.
    run_block(node.last, context, out)


def _guarded(node: Try, context: Context, out: Out) -> None:
    context.guarded += bool(node.catches)
    try:
        run_block(node.body, context, out)
    except Failure as wrong:
        context.guarded -= bool(node.catches)
        try:
            _handle(node, wrong, context, out)
        finally:
            context.guarded += bool(node.catches)
    finally:
        context.guarded -= bool(node.catches)


def _handle(node: Try, wrong: Failure, context: Context, out: Out) -> None:
    for clause in node.catches:
        caught = _caught(clause, wrong.record.exception)
        if caught is not None:
            record = context.noted(wrong.record)
            if caught is not record.exception:
                record = ErrorRecord(
                    caught,
                    record.fully_qualified_error_id,
                    record.category_info,
                    record.target_object,
                    record.invocation_info,
                )
            with context.scoped("_", record):
                run_block(clause.body, context, out)
            return
    raise wrong


def _caught(clause: Catch, exception: NetException) -> NetException | None:
    """Return what a clause catches: the exception, or the one in it, where a type is that of the inner one."""
    # All that is thrown is wrapped in a RuntimeException (about_Try_Catch_Finally, a note).
    if not clause.types or any(kind.name == "management.automation.runtimeexception" for kind in clause.types):
        return exception
    for each in _layers(exception):
        lineage = list(each.lineage())
        if any(kind.name in lineage for kind in clause.types):
            return each
    return None


def _layers(exception: NetException) -> Iterator[NetException]:
    if exception.inner_exception is not None:
        yield exception.inner_exception
    yield exception
