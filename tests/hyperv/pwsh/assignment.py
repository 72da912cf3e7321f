"""Assigns: to variables, properties, places in lists, and to several targets at once (about_Assignment_Operators)."""

from __future__ import annotations

from tests.hyperv.pwsh import member, operator
from tests.hyperv.pwsh.comparison import listed
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.evaluation import evaluate, executes, result
from tests.hyperv.pwsh.failure import OutsideSubset
from tests.hyperv.pwsh.node import ArrayLiteral, Assignment, Cast, Expression, Index, Member, Variable


@executes(Assignment)
def _assignment(node: Assignment, context: Context, _: Out) -> None:
    value = result(node.value, context)
    if node.operator != "=":
        value = operator.apply(node.operator[:-1], evaluate(node.target, context), value)
    assign(node.target, value, context)


def assign(target: Expression, value: object, context: Context) -> None:
    """Assign a value.

    Raises:
        Failure: The target is a constant, has no such property or no such place.
    """
    if isinstance(target, Variable):
        context.assign(target, value)
    elif isinstance(target, Cast) and isinstance(target.operand, Variable):
        context.assign(target.operand, value, target.type)
    elif isinstance(target, Member) and not target.static:
        name = to_text(evaluate(target.name, context))
        member.put(evaluate(target.target, context), name, value)
    elif isinstance(target, Index):
        place = evaluate(target.index, context)
        member.put_index(evaluate(target.target, context), place, value)
    elif isinstance(target, ArrayLiteral):
        _spread(target, value, context)
    else:
        raise OutsideSubset(f"an assignment to a {type(target).__name__}", target.line)


def _spread(target: ArrayLiteral, value: object, context: Context) -> None:
    """Assign to each target its value; the last one takes all that is left."""
    items = listed(value)
    for at, each in enumerate(target.items[:-1]):
        assign(each, items[at] if at < len(items) else None, context)
    left = items[len(target.items) - 1 :]
    assign(target.items[-1], left[0] if len(left) == 1 else left or None, context)
