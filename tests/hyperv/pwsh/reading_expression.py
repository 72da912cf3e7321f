"""Reads expressions: operators, members, casts, arrays, hashtables, script blocks."""

from __future__ import annotations

from tree_sitter import Node

from tests.hyperv.pwsh.node import (
    ArrayBlock,
    ArrayLiteral,
    Binary,
    BlockLiteral,
    Call,
    Cast,
    Expression,
    Group,
    HashLiteral,
    Increment,
    Index,
    Literal,
    Member,
    Statement,
    TypeLiteral,
    Unary,
)
from tests.hyperv.pwsh.reading_block import body
from tests.hyperv.pwsh.reading_text import type_name
from tests.hyperv.pwsh.syntax import (
    expression_of,
    first_of,
    line,
    only,
    parts,
    read_expression,
    read_statement,
    read_statements,
    some,
    source,
    unknown,
)

#: Operators with two operands (about_Operators), all of them of PowerShell 3.0.
OPERATORS = frozenset(
    """+ - * / % .. -f -and -or -xor -band -bor -bxor -shl -shr
    -eq -ne -gt -ge -lt -le -like -notlike -match -notmatch -contains -notcontains -in -notin
    -is -isnot -as -split -join -replace
    -ceq -cne -cgt -cge -clt -cle -clike -cnotlike -cmatch -cnotmatch -ccontains -cnotcontains -cin -cnotin
    -csplit -creplace""".split(),  # noqa: SIM905 - a table of words
)

#: Operators before one operand.
UNARY = frozenset(("-not", "!", "-", "+", ",", "-join", "-split", "-bnot"))


#: Levels of operators with two operands; the grammar has them twice, for a method's arguments know no comma.
_LEVELS = ("logical", "bitwise", "comparison", "additive", "multiplicative", "format", "range")


@expression_of(
    *(f"{level}_expression" for level in _LEVELS),
    *(f"{level}_argument_expression" for level in _LEVELS),
)
def _binary(node: Node) -> Expression:
    inner = [child for child in node.children if child.type != "comment"]
    if len(inner) == 1:
        return read_expression(inner[0])
    if len(inner) != 3:
        raise unknown(node)
    left, sign, right = inner
    operator = _without_i(source(sign).lower())
    if operator not in OPERATORS:
        raise unknown(sign)
    return Binary(operator, read_expression(left), read_expression(right), line(sign))


def _without_i(operator: str) -> str:
    """``-ieq`` is ``-eq`` said loudly."""
    return f"-{operator[2:]}" if operator.startswith("-i") and f"-{operator[2:]}" in OPERATORS else operator


@expression_of("array_literal_expression")
def _array_literal(node: Node) -> Expression:
    inner = parts(node)
    if len(inner) == 1:
        return read_expression(inner[0])
    return ArrayLiteral(tuple(read_expression(child) for child in inner), line(node))


@expression_of("unary_expression")
def _transparent(node: Node) -> Expression:
    return read_expression(only(node))


@expression_of("expression_with_unary_operator")
def _unary(node: Node) -> Expression:
    inner = [child for child in node.children if child.type != "comment"]
    if len(inner) == 1:
        return read_expression(inner[0])
    sign, operand = inner
    operator = source(sign).lower()
    if operator not in UNARY:
        raise unknown(node)
    value = read_expression(operand)
    if operator == "-" and isinstance(value, Literal) and not isinstance(value.value, str):
        return Literal(-value.value, line(node))
    return Unary(operator, value, line(node))


@expression_of("pre_increment_expression", "pre_decrement_expression")
def _before(node: Node) -> Expression:
    return Increment(read_expression(only(node)), 1 if "increment" in node.type else -1, before=True, line=line(node))


@expression_of("post_increment_expression", "post_decrement_expression")
def _after(node: Node) -> Expression:
    return Increment(read_expression(only(node)), 1 if "increment" in node.type else -1, before=False, line=line(node))


@expression_of("cast_expression")
def _cast(node: Node) -> Expression:
    kind, operand = some(node, 2)
    return Cast(type_name(kind), read_expression(operand), line(node))


@expression_of("type_literal")
def _type_literal(node: Node) -> Expression:
    return TypeLiteral(type_name(node), line(node))


@expression_of("member_access")
def _member(node: Node) -> Expression:
    target, name = some(node, 2)
    return Member(read_expression(target), _member_name(name), _static(node), line(name))


@expression_of("invocation_expression")
def _call(node: Node) -> Expression:
    target, name, arguments = some(node, 3)
    listed = first_of(arguments, "argument_expression_list")
    values = tuple(read_expression(only(child)) for child in parts(listed)) if listed else ()
    return Call(read_expression(target), _member_name(name), values, _static(node), line(name))


def _static(node: Node) -> bool:
    signs = [child.type for child in node.children if not child.is_named]
    if signs[:1] not in (["."], ["::"]):
        raise unknown(node)
    return signs[0] == "::"


def _member_name(node: Node) -> Expression:
    return read_expression(only(node)) if node.type == "member_name" else read_expression(node)


@expression_of("element_access")
def _index(node: Node) -> Expression:
    target, index = some(node, 2)
    return Index(read_expression(target), read_expression(index), line(node))


@expression_of("parenthesized_expression")
def _group(node: Node) -> Expression:
    return Group(read_statement(only(node)), line(node))


@expression_of("array_expression")
def _array_block(node: Node) -> Expression:
    return ArrayBlock(read_statements(node.child_by_field_name("statements")), line(node))


@expression_of("hash_literal_expression")
def _hash(node: Node) -> Expression:
    inner = first_of(node, "hash_literal_body")
    return HashLiteral(tuple(_entry(child) for child in parts(inner)) if inner else (), line(node))


def _entry(node: Node) -> tuple[Expression, Statement]:
    key, value = some(node, 2)
    return read_expression(only(key)), read_statement(value)


@expression_of("script_block_expression")
def _block(node: Node) -> Expression:
    return BlockLiteral(body(node), line(node))
