"""From text to tree-sitter's tree, and the tables by which its nodes are read.

The grammar is tree-sitter-pwsh's. It is kinder than PowerShell 5.1 here and there (it takes ``&&`` and ``class``), so
what is read is what the tables name, and nothing else: a construct without a reader is an error that names it and its
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import tree_sitter_pwsh
from tree_sitter import Language, Node, Parser

from tests.hyperv.pwsh.failure import OutsideSubset
from tests.hyperv.pwsh.node import Expression, Statement

_LANGUAGE = Language(tree_sitter_pwsh.language())

ExpressionReader = Callable[[Node], Expression]
StatementReader = Callable[[Node], Statement]
_Reader = TypeVar("_Reader", ExpressionReader, StatementReader)

_expressions: dict[str, ExpressionReader] = {}
_statements: dict[str, StatementReader] = {}


class SyntaxFault(OutsideSubset):
    """The text is no PowerShell, or a construct of it isn't among those that are understood here."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what, line)


def parse(text: str) -> Node:
    """Return the root of the grammar's tree.

    Raises:
        SyntaxFault: The text doesn't parse.
    """
    root = Parser(_LANGUAGE).parse(text.encode()).root_node
    if root.has_error:
        raise next(_faults(root))
    return root


def _faults(node: Node) -> Iterator[SyntaxFault]:
    inner = [child for child in node.children if child.has_error]
    if node.is_missing:
        yield SyntaxFault(line(node), f"{node.type} is missing")
    elif node.is_error or not inner:
        # Some errors, empty parentheses for one, have no node of their own.
        yield SyntaxFault(line(node), f"can't be parsed: {source(node).strip()[:60]!r}")
    for child in inner:
        yield from _faults(child)


def expression_of(*types: str) -> Callable[[ExpressionReader], ExpressionReader]:
    """Register what reads these types of nodes where an expression stands."""

    def register(reader: ExpressionReader) -> ExpressionReader:
        _expressions.update(dict.fromkeys(types, reader))
        return reader

    return register


def statement_of(*types: str) -> Callable[[StatementReader], StatementReader]:
    """Register what reads these types of nodes where a statement stands."""

    def register(reader: StatementReader) -> StatementReader:
        _statements.update(dict.fromkeys(types, reader))
        return reader

    return register


def read_expression(node: Node) -> Expression:
    """Return the expression that a node stands for.

    Raises:
        SyntaxFault: It isn't among those that are understood.
    """
    return _reader(_expressions, node)(node)


def read_statement(node: Node) -> Statement:
    """Return the statement that a node stands for.

    Raises:
        SyntaxFault: It isn't among those that are understood.
    """
    return _reader(_statements, node)(node)


def read_statements(node: Node | None) -> tuple[Statement, ...]:
    """Return the statements of a ``statement_list`` or a ``statement_block``; none where there is no node."""
    if node is None:
        return ()
    if node.type == "statement_block":
        inner = tuple(child for child in parts(node) if child.type == "statement_list")
        return read_statements(inner[0]) if inner else ()
    return tuple(read_statement(child) for child in parts(node) if child.type != "empty_statement")


def _reader(table: dict[str, _Reader], node: Node) -> _Reader:
    reader = table.get(node.type)
    if reader is None:
        raise unknown(node)
    return reader


def unknown(node: Node) -> SyntaxFault:
    """Return the error for a construct that isn't understood here."""
    return SyntaxFault(line(node), f"{node.type.replace('_', ' ')} is outside the subset: {source(node)[:60]!r}")


def line(node: Node) -> int:
    """Return the line on which a node starts, from 1."""
    return node.start_point[0] + 1


def source(node: Node) -> str:
    """Return a node's text."""
    return (node.text or b"").decode()


def parts(node: Node) -> list[Node]:
    """Return a node's children that have a name, without comments."""
    return [child for child in node.named_children if child.type != "comment"]


def only(node: Node) -> Node:
    """Return a node's single child.

    Raises:
        SyntaxFault: It has none, or more.
    """
    return some(node, 1)[0]


def some(node: Node, count: int) -> list[Node]:
    """Return a node's children, as many as they have to be.

    Raises:
        SyntaxFault: They are others.
    """
    inner = parts(node)
    if len(inner) != count:
        raise unknown(node)
    return inner


def first_of(node: Node, kind: str) -> Node | None:
    """Return a node's first child of a type, or None."""
    return next((child for child in node.children if child.type == kind), None)
