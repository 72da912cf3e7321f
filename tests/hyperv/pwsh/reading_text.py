"""Reads numbers, texts, variables and types."""

from __future__ import annotations

import re

from tree_sitter import Node

from tests.hyperv.pwsh.node import Expandable, Expression, Literal, SubExpression, TypeName, Variable
from tests.hyperv.pwsh.syntax import (
    SyntaxFault,
    expression_of,
    line,
    only,
    parts,
    read_expression,
    read_statements,
    source,
    unknown,
)

#: What a multiplier stands for (about_Numeric_Literals).
_MULTIPLIERS = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "pb": 1 << 50}

#: What a backtick makes of the next character in an expandable text (about_Special_Characters; ```e`` and ```u`` are of
#: PowerShell 6 and 7).
_ESCAPES = {"0": "\0", "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_LATER_ESCAPES = "eu"

#: Scopes that a variable may name (about_Scopes), and the drive of the environment.
_SCOPES = ("script", "global", "local", "env")

_INTEGER = re.compile(r"(0x[0-9a-f]+|[0-9]+)(l?)([kmgtp]b)?", re.IGNORECASE)
_REAL = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)([kmgtp]b)?", re.IGNORECASE)


@expression_of("integer_literal", "decimal_integer_literal", "hexadecimal_integer_literal")
def _integer(node: Node) -> Expression:
    match = _INTEGER.fullmatch(source(node))
    if match is None:
        raise unknown(node)
    value = int(match[1], 16 if match[1][:2].lower() == "0x" else 10)
    if match[1][:2].lower() == "0x" and not match[2] and 1 << 31 <= value < 1 << 32:
        # Eight digits are the bits of an Int32: 0x80070005 is below zero (about_Numeric_Literals).
        value -= 1 << 32
    return Literal(value * _MULTIPLIERS.get((match[3] or "").lower(), 1), line(node))


@expression_of("real_literal")
def _real(node: Node) -> Expression:
    match = _REAL.fullmatch(source(node))
    if match is None:
        raise unknown(node)
    return Literal(float(match[1]) * _MULTIPLIERS.get((match[2] or "").lower(), 1), line(node))


@expression_of("generic_token", "simple_name", "command_name", "function_name")
def _word(node: Node) -> Expression:
    text = source(node)
    if "`" in text or "%" in text[:1]:
        raise unknown(node)
    return Literal(text, line(node))


@expression_of("string_literal")
def _text(node: Node) -> Expression:
    return read_expression(only(node))


@expression_of("verbatim_string_characters")
def _verbatim(node: Node) -> Expression:
    return Literal(source(node)[1:-1].replace("''", "'"), line(node))


@expression_of("verbatim_here_string_characters")
def _verbatim_here(node: Node) -> Expression:
    return Literal(_between_lines(source(node)), line(node))


@expression_of("expandable_string_literal")
def _expandable(node: Node) -> Expression:
    return _expanded(node, source(node)[1:-1], 1, doubled=True)


@expression_of("expandable_here_string_literal")
def _expandable_here(node: Node) -> Expression:
    inner = _between_lines(source(node))
    return _expanded(node, inner, source(node).index("\n") + 1, doubled=False)


def _between_lines(text: str) -> str:
    """Return what stands between a here-string's first and last line, without the line breaks beside them."""
    inner = text[text.index("\n") + 1 : text.rindex("\n")] if text.count("\n") > 1 else ""
    return inner.removesuffix("\r")


def _expanded(node: Node, inner: str, offset: int, *, doubled: bool) -> Expression:
    """Cut a text at what is expanded in it; the grammar has no nodes for the letters between."""
    pieces: list[str | Expression] = []
    raw = (node.text or b"")[len(source(node)[:offset].encode()) :][: len(inner.encode())]
    start = node.start_byte + len(source(node)[:offset].encode())
    at = 0
    for child in parts(node):
        if child.type not in ("variable", "sub_expression"):
            raise unknown(child)
        pieces.append(_plain(raw[at : child.start_byte - start].decode(), child, doubled=doubled))
        pieces.append(read_expression(child))
        at = child.end_byte - start
    pieces.append(_plain(raw[at:].decode(), node, doubled=doubled))
    kept = tuple(piece for piece in pieces if piece != "")
    if all(isinstance(piece, str) for piece in kept):
        return Literal("".join(str(piece) for piece in kept), line(node))
    return Expandable(kept, line(node))


def _plain(text: str, node: Node, *, doubled: bool) -> str:
    """Resolve backticks, and doubled quotation marks where the text stands between single ones."""

    def resolve(match: re.Match[str]) -> str:
        if match[0] == '""':
            return '"'
        if match[1] in _LATER_ESCAPES:
            raise SyntaxFault(line(node), f"the escape `{match[1]} is of a later PowerShell")
        return "" if match[1] in "\r\n" else _ESCAPES.get(match[1], match[1])

    return re.sub(r'`(\r\n|.|\n)|""' if doubled else r"`(\r\n|.|\n)", resolve, text, flags=re.DOTALL)


@expression_of("variable", "braced_variable")
def _variable(node: Node) -> Expression:
    return variable(node)


def variable(node: Node) -> Variable:
    """Return the variable of a node.

    Raises:
        SyntaxFault: Its scope isn't known: ``"$a:b"`` means drive ``a`` where ``"${a}:b"`` was meant.
    """
    text = source(node)
    if text[:1] not in "$@":
        raise unknown(node)
    name = text[1:].removeprefix("{").removesuffix("}")
    scope, colon, rest = name.partition(":")
    if not colon:
        return Variable(name, "", line(node))
    if scope.lower() not in _SCOPES:
        what = f"{text} names the scope or drive {scope!r}; ${{{scope}}}: is a variable and a colon"
        raise SyntaxFault(line(node), what)
    return Variable(rest, scope.lower(), line(node))


@expression_of("sub_expression")
def _sub_expression(node: Node) -> Expression:
    return SubExpression(read_statements(node.child_by_field_name("statements")), line(node))


def type_name(node: Node) -> TypeName:
    """Return the type that a ``type_literal`` or a ``type_spec`` names.

    Raises:
        SyntaxFault: It has several dimensions.
    """
    if node.type in ("type_literal", "type_spec"):
        return type_name(only(node))
    if node.type == "array_type_name":
        inner = type_name(only(node))
        return TypeName(inner.name, inner.rank + 1, inner.arguments, line(node))
    if node.type == "generic_type_name":
        outer, *rest = parts(node)
        arguments = tuple(type_name(each) for group in rest for each in parts(group))
        return TypeName(type_name(outer).name, 0, arguments, line(node))
    if node.type == "type_name":
        return TypeName(source(node).lower().removeprefix("system."), 0, (), line(node))
    raise unknown(node)
