"""Reads pipelines and the commands in them."""

from __future__ import annotations

import re

from tree_sitter import Node

from tests.hyperv.pwsh.node import (
    ArrayLiteral,
    Assignment,
    Command,
    Expandable,
    Expression,
    Literal,
    Named,
    Pipeline,
    Splat,
    Statement,
)
from tests.hyperv.pwsh.reading_text import variable
from tests.hyperv.pwsh.syntax import (
    SyntaxFault,
    expression_of,
    first_of,
    line,
    only,
    parts,
    read_expression,
    read_statement,
    some,
    source,
    statement_of,
    unknown,
)

#: Operators that assign (about_Assignment_Operators); ``??=`` is of PowerShell 7.
_ASSIGNMENTS = ("=", "+=", "-=", "*=", "/=", "%=")

#: A parameter's name; the grammar takes ``-a$b`` for one.
_PARAMETER = re.compile(r"-[A-Za-z_][A-Za-z0-9_]*")


@statement_of("pipeline")
def _pipeline(node: Node) -> Statement:
    return read_statement(only(node))


@statement_of("assignment_expression")
def _assignment(node: Node) -> Statement:
    target, operator, value = some(node, 3)
    if source(operator) not in _ASSIGNMENTS:
        raise unknown(operator)
    statement = only(value) if value.type == "assignment_value" else value
    return Assignment(read_expression(only(target)), source(operator), read_statement(statement), line(node))


@statement_of("pipeline_chain")
def _chain(node: Node) -> Statement:
    stages: list[Command | Expression] = []
    redirections: list[Node] = []
    for child in parts(node):
        if child.type == "redirections":
            redirections += parts(child)
        elif child.type == "command":
            stages.append(_command(child))
            elements = first_of(child, "command_elements")
            redirections += [each for each in parts(elements) if each.type == "redirection"] if elements else []
        elif stages:
            raise SyntaxFault(line(child), "an expression is only allowed as the first element of a pipeline")
        else:
            stages.append(read_expression(child))
    discards, silent = _redirected(redirections, node)
    return Pipeline(tuple(stages), discards=discards, silent=silent, line=line(node))


def _redirected(redirections: list[Node], chain: Node) -> tuple[bool, bool]:
    """Tell whether output and errors go to ``$null``; there is no other redirection here."""
    streams = set()
    for redirection in redirections:
        operator = first_of(redirection, "file_redirection_operator")
        name = first_of(redirection, "redirected_file_name")
        if operator is None or name is None or source(name).strip().lower() != "$null":
            raise unknown(redirection)
        streams.add(source(operator))
    if redirections and len([child for child in parts(chain) if child.type == "command"]) > 1:
        raise SyntaxFault(line(chain), "a redirection within a longer pipeline is outside the subset")
    if not streams <= {">", "2>", "*>"}:
        raise unknown(redirections[0])
    return bool(streams & {">", "*>"}), bool(streams & {"2>", "*>"})


def _command(node: Node) -> Command:
    operator = first_of(node, "command_invocation_operator")
    name = node.child_by_field_name("command_name")
    if name is None:
        raise unknown(node)
    called = name if name.type == "command_name" else only(name)
    if called.type == "path_command_name":
        called = only(called)
    if source(called)[0].isdigit():
        # The grammar takes 1..5 for a name where PowerShell has an expression.
        raise SyntaxFault(line(called), f"the word {source(called)!r}: write a range with blanks, 1 .. 5")
    elements = node.child_by_field_name("command_elements")
    return Command(
        read_expression(called),
        here=operator is not None and source(operator) == ".",
        elements=tuple(_elements(elements)) if elements else (),
        line=line(node),
    )


def _elements(node: Node) -> list[Named | Splat | Expression]:
    found: list[Named | Splat | Expression] = []
    previous: Node | None = None
    for child in node.named_children:
        if child.type == "command_argument_sep":
            previous = child if source(child).strip() == ":" else None
            continue
        if child.type in ("redirection", "comment"):
            continue
        _element(found, child, colon=previous is not None)
    return found


def _element(found: list[Named | Splat | Expression], node: Node, *, colon: bool) -> None:
    if node.type == "command_parameter":
        if not _PARAMETER.fullmatch(source(node)):
            raise unknown(node)
        found.append(Named(source(node)[1:], None, line(node)))
    elif node.type == "argument_list":
        found.append(_listed(found, node))
    elif source(node).startswith("@") and source(node)[1:2] not in ("(", "{", "'", '"'):
        found.append(Splat(variable(_innermost(node)), line(node)))
    elif colon and found and isinstance(found[-1], Named):
        found[-1] = Named(found[-1].name, read_expression(node), found[-1].line)
    else:
        found.append(read_expression(node))


def _listed(found: list[Named | Splat | Expression], node: Node) -> Expression:
    """Return what ``($false)`` right after a word is: the command's next argument (``New-Object Type($false)``)."""
    inner = first_of(node, "argument_expression_list")
    if inner is None or not found or not isinstance(found[-1], Literal):
        raise SyntaxFault(line(node), f"put the call with {source(node)[:40]!r} into parentheses of its own")
    return read_expression(only(only(inner)))


def _innermost(node: Node) -> Node:
    while node.type != "variable":
        node = only(node)
    return node


@expression_of("bareword_argument_list")
def _words(node: Node) -> Expression:
    """Words with commas between them, ``Name, Id``: a list."""
    return ArrayLiteral(tuple(read_expression(child) for child in parts(node)), line(node))


@expression_of("expandable_bareword", "concatenated_command_argument")
def _joined(node: Node) -> Expression:
    r"""A word of several parts, ``$folder\name``: as if it stood in double quotation marks."""
    pieces: list[str | Expression] = []
    for child in parts(node):
        value = read_expression(child)
        pieces.append(str(value.value) if isinstance(value, Literal) else value)
    return Expandable(tuple(pieces), line(node))
