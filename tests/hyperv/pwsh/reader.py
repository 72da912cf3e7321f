"""Reads statements, and whole scripts."""

from __future__ import annotations

from functools import lru_cache

from tree_sitter import Node

from tests.hyperv.pwsh import reading_command, reading_expression  # noqa: F401 - they register their readers
from tests.hyperv.pwsh.node import (
    Body,
    Catch,
    Expression,
    Flow,
    FlowKind,
    ForEach,
    Function,
    If,
    Literal,
    Loop,
    Pipeline,
    Statement,
    Switch,
    Try,
)
from tests.hyperv.pwsh.reading_block import body
from tests.hyperv.pwsh.reading_text import type_name, variable
from tests.hyperv.pwsh.syntax import (
    first_of,
    line,
    only,
    parse,
    parts,
    read_expression,
    read_statement,
    read_statements,
    some,
    source,
    statement_of,
    unknown,
)


@lru_cache(maxsize=32)
def read(text: str) -> Body:
    """Return the tree of a script.

    Raises:
        SyntaxFault: It doesn't parse, or has something that is outside the subset.
    """
    return body(parse(text))


def _field(node: Node, name: str) -> Statement | None:
    """Return the statement in a field that wraps it, or None where the field is empty."""
    found = node.child_by_field_name(name)
    if found is None:
        return None
    return read_statement(found if found.type == "pipeline" else only(found))


def _block(node: Node) -> tuple[Statement, ...]:
    found = first_of(node, "statement_block")
    if found is None:
        raise unknown(node)
    return read_statements(found)


@statement_of("if_statement")
def _if(node: Node) -> Statement:
    listed = node.child_by_field_name("elseif_clauses")
    clauses = [node, *(parts(listed) if listed else ())]
    branches = tuple((_condition(clause), _block(clause)) for clause in clauses)
    last = node.child_by_field_name("else_clause")
    return If(branches, _block(last) if last else (), line(node))


def _condition(node: Node) -> Statement:
    condition = _field(node, "condition")
    if condition is None:
        raise unknown(node)
    return condition


@statement_of("foreach_statement")
def _foreach(node: Node) -> Statement:
    name, items, block = some(node, 3)
    return ForEach(variable(name), read_statement(items), read_statements(block), line(node))


@statement_of("for_statement")
def _for(node: Node) -> Statement:
    return Loop(
        _field(node, "for_initializer"),
        _field(node, "for_condition"),
        until=False,
        after=_field(node, "for_iterator"),
        body=_block(node),
        first_round=False,
        line=line(node),
    )


@statement_of("while_statement", "do_statement")
def _while(node: Node) -> Statement:
    return Loop(
        None,
        _condition(node),
        until=first_of(node, "until") is not None,
        after=None,
        body=_block(node),
        first_round=node.type == "do_statement",
        line=line(node),
    )


@statement_of("switch_statement")
def _switch(node: Node) -> Statement:
    mode = first_of(node, "switch_parameters")
    word = source(mode).lower() if mode else "-exact"
    subject, inner = first_of(node, "switch_condition"), first_of(node, "switch_body")
    if subject is None or inner is None or word not in ("-exact", "-wildcard", "-regex"):
        raise unknown(node)
    listed = first_of(inner, "switch_clauses")
    clauses = tuple(_clause(child) for child in parts(listed)) if listed else ()
    return Switch(word, read_statement(only(subject)), clauses, line(node))


def _clause(node: Node) -> tuple[Expression | None, tuple[Statement, ...]]:
    condition, block = some(node, 2)
    if source(condition).lower() == "default":
        return None, read_statements(block)
    inner = parts(condition)
    # A bare word has no node of its own.
    value = read_expression(inner[0]) if inner else Literal(source(condition), line(condition))
    return value, read_statements(block)


@statement_of("try_statement")
def _try(node: Node) -> Statement:
    listed = first_of(node, "catch_clauses")
    last = first_of(node, "finally_clause")
    return Try(
        _block(node),
        tuple(_catch(child) for child in parts(listed)) if listed else (),
        _block(last) if last else (),
        line(node),
    )


def _catch(node: Node) -> Catch:
    listed = first_of(node, "catch_type_list")
    return Catch(tuple(type_name(child) for child in parts(listed)) if listed else (), _block(node))


@statement_of("flow_control_statement")
def _flow(node: Node) -> Statement:
    word, *value = [child for child in node.children if child.type != "comment"]
    kind = FlowKind(source(word).lower())
    if kind in (FlowKind.BREAK, FlowKind.CONTINUE) and value:
        raise unknown(node)
    return Flow(kind, read_statement(value[0]) if value else None, line(node))


@statement_of("function_statement")
def _function(node: Node) -> Statement:
    name = first_of(node, "function_name")
    if name is None or source(node)[:8].lower() != "function":
        raise unknown(node)
    return Function(source(name), body(node), line(node))


@statement_of("expression")
def _expression(node: Node) -> Statement:
    return Pipeline((read_expression(node),), discards=False, silent=False, line=line(node))
