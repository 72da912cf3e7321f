"""Evaluates expressions.

Sources: about_Expressions, about_Operators, about_Operator_Precedence, about_Subexpressions ("$( ) and @( )"),
    about_Arrays,
about_Hash_Tables, about_Quoting_Rules, about_Regular_Expressions ("$Matches").
"""

from __future__ import annotations

from tests.hyperv.pwsh import member, method, operator, static
from tests.hyperv.pwsh.assignment import assign
from tests.hyperv.pwsh.comparison import listed
from tests.hyperv.pwsh.context import Context
from tests.hyperv.pwsh.conversion import cast, to_bool, to_number, to_text
from tests.hyperv.pwsh.evaluation import collect, evaluate, evaluates, execute, result
from tests.hyperv.pwsh.failure import OutsideSubset, runtime
from tests.hyperv.pwsh.formatting import composed
from tests.hyperv.pwsh.node import (
    ArrayBlock,
    ArrayLiteral,
    Assignment,
    Binary,
    BlockLiteral,
    Call,
    Cast,
    Expandable,
    Group,
    HashLiteral,
    Increment,
    Index,
    Literal,
    Member,
    SubExpression,
    TypeLiteral,
    Unary,
    Variable,
)
from tests.hyperv.pwsh.pattern import regex
from tests.hyperv.pwsh.value import NOTHING, Hashtable, PSObject, ScriptBlock, TypeValue, gathered, is_null


@evaluates(Literal)
def _literal(node: Literal, _: Context) -> object:
    return node.value


@evaluates(Expandable)
def _expandable(node: Expandable, context: Context) -> object:
    return "".join(part if isinstance(part, str) else to_text(evaluate(part, context)) for part in node.parts)


@evaluates(Variable)
def _variable(node: Variable, context: Context) -> object:
    return context.value(node)


@evaluates(ArrayLiteral)
def _array_literal(node: ArrayLiteral, context: Context) -> object:
    return [_plain(evaluate(item, context)) for item in node.items]


def _plain(value: object) -> object:
    return None if value is NOTHING else value


@evaluates(ArrayBlock)
def _array_block(node: ArrayBlock, context: Context) -> object:
    return collect(node.statements, context)


@evaluates(SubExpression)
def _sub_expression(node: SubExpression, context: Context) -> object:
    return gathered(collect(node.statements, context))


@evaluates(Group)
def _group(node: Group, context: Context) -> object:
    if isinstance(node.statement, Assignment):
        execute(node.statement, context, lambda _: None)
        return evaluate(node.statement.target, context)
    return result(node.statement, context)


@evaluates(HashLiteral)
def _hash(node: HashLiteral, context: Context) -> object:
    return Hashtable(_entries(node, context))


def _entries(node: HashLiteral, context: Context) -> list[tuple[object, object]]:
    found = [(evaluate(key, context), result(value, context)) for key, value in node.entries]
    names = [to_text(key).lower() for key, _ in found]
    if len(set(names)) < len(names):
        raise OutsideSubset("a hashtable with the same key twice doesn't parse", node.line)
    return found


@evaluates(Member)
def _member(node: Member, context: Context) -> object:
    name = to_text(evaluate(node.name, context))
    target = evaluate(node.target, context)
    if node.static:
        if not isinstance(target, TypeValue):
            raise OutsideSubset("a static member of what isn't written as [type]", node.line)
        return static.get(target.name, name)
    return member.get(target, name, strict=context.strict)


@evaluates(Call)
def _call(node: Call, context: Context) -> object:
    name = to_text(evaluate(node.name, context))
    target = evaluate(node.target, context)
    arguments = [_plain(evaluate(each, context)) for each in node.arguments]
    if node.static:
        if not isinstance(target, TypeValue):
            raise OutsideSubset("a static method of what isn't written as [type]", node.line)
        return static.call(context, target.name, name, arguments)
    return method.call(target, name, arguments)


@evaluates(Index)
def _index(node: Index, context: Context) -> object:
    return member.index(evaluate(node.target, context), evaluate(node.index, context), strict=context.strict)


@evaluates(Unary)
def _unary(node: Unary, context: Context) -> object:
    return operator.unary(node.operator, evaluate(node.operand, context))


@evaluates(Binary)
def _binary(node: Binary, context: Context) -> object:
    left = evaluate(node.left, context)
    if node.operator in ("-and", "-or"):
        if to_bool(left) == (node.operator == "-or"):
            return node.operator == "-or"
        return to_bool(evaluate(node.right, context))
    right = evaluate(node.right, context)
    if node.operator == "-f":
        return composed(to_text(left), listed(right))
    if node.operator.endswith("match") and not isinstance(left, list):
        remember_match(to_text(left), to_text(right), context, cased=node.operator.startswith("-c"))
    return operator.apply(node.operator, left, right)


def remember_match(text: str, pattern: str, context: Context, *, cased: bool) -> bool:
    """Tell whether a text matches, and set ``$Matches`` where it does; where it doesn't, the last ones stay
    (about_Regular_Expressions).
    """
    found = regex(pattern, cased=cased).search(text)
    if found is None:
        return False
    groups: list[tuple[object, object]] = [(0, found[0])]
    names = {number: name for name, number in found.re.groupindex.items()}
    groups += [(names.get(number, number), text) for number, text in enumerate(found.groups(), 1) if text is not None]
    context.set("Matches", Hashtable(groups))
    return True


@evaluates(Increment)
def _increment(node: Increment, context: Context) -> object:
    old = evaluate(node.target, context)
    if not is_null(old) and (isinstance(old, bool) or not isinstance(old, int | float)):
        raise runtime("The '++' operator works only on numbers.", "OperatorRequiresNumber")
    new = to_number(old) + node.step
    assign(node.target, new, context)
    return new if node.before else (0 if is_null(old) else old)


@evaluates(Cast)
def _cast(node: Cast, context: Context) -> object:
    name = node.type.name
    # The order of a literal's keys is kept by these two, and by these only (about_PSCustomObject, about_Hash_Tables).
    if name in ("ordered", "pscustomobject") and isinstance(node.operand, HashLiteral):
        entries = _entries(node.operand, context)
        return Hashtable(entries, ordered=True) if name == "ordered" else PSObject(entries)
    if name == "ordered":
        raise OutsideSubset("[ordered] beside anything but @{ }", node.line)
    value = evaluate(node.operand, context)
    if name == "void":
        return NOTHING
    return cast(node.type, value)


@evaluates(TypeLiteral)
def _type_literal(node: TypeLiteral, _: Context) -> object:
    return TypeValue(node.type)


@evaluates(BlockLiteral)
def _block(node: BlockLiteral, _: Context) -> object:
    return ScriptBlock(node.body)
