"""Reads what runs: scripts, functions and script blocks, with their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tree_sitter import Node

from tests.hyperv.pwsh.node import Body, Expression, Literal, Parameter, Statement, Variable
from tests.hyperv.pwsh.reading_text import type_name, variable
from tests.hyperv.pwsh.syntax import (
    SyntaxFault,
    first_of,
    line,
    only,
    parts,
    read_expression,
    read_statements,
    some,
    source,
    unknown,
)

#: Attributes of parameters that are understood, besides types.
_ATTRIBUTES = ("parameter", "validateset", "alias", "validatenotnullorempty", "allownull", "allowemptystring",
               "allowemptycollection")  # fmt: skip

#: What ``[Parameter()]`` may say; a help text changes nothing.
_WORDS = ("mandatory", "position", "valuefrompipeline", "valuefrompipelinebypropertyname", "helpmessage")


def body(node: Node) -> Body:
    """Return what a ``program``, a function or a script block in braces runs.

    Raises:
        SyntaxFault: A part of it isn't among what is understood.
    """
    block = first_of(node, "script_block")
    found = first_of(node, "param_block") or (first_of(block, "param_block") if block else None)
    header = found or first_of(node, "function_parameter_declaration")
    parameters = _parameters(header) if header else ()
    advanced = found is not None and _advanced(found)
    sections = _sections(node if node.type == "program" else block)
    return Body(
        parameters,
        advanced or any(each.mandatory or each.from_pipeline or each.from_property for each in parameters),
        sections.get("begin", ()),
        sections.get("process", ()),
        sections.get("end", ()),
        has_process="process" in sections,
        line=line(node),
    )


def _sections(block: Node | None) -> dict[str, tuple[Statement, ...]]:
    """Return the statements of a block by the names of its parts; without such names all are of ``end``."""
    if block is None:
        return {}
    inner = block if block.type == "program" else first_of(block, "script_block_body")
    named = first_of(inner, "named_block_list") if inner else None
    if named is None:
        return {"end": read_statements(first_of(inner, "statement_list"))} if inner else {}
    found: dict[str, tuple[Statement, ...]] = {}
    for each in parts(named):
        name, statements = some(each, 2)
        if source(name).lower() not in ("begin", "process", "end"):
            raise unknown(name)
        found[source(name).lower()] = read_statements(statements)
    return found


def _advanced(block: Node) -> bool:
    """Tell whether a param block has ``[CmdletBinding()]``, and refuse other attributes."""
    listed = first_of(block, "attribute_list")
    attributes = parts(listed) if listed else []
    for attribute in attributes:
        if _attribute_name(attribute) not in ("cmdletbinding", "outputtype"):
            raise unknown(attribute)
        if _attribute_name(attribute) == "cmdletbinding" and first_of(attribute, "attribute_arguments"):
            raise unknown(attribute)
    return any(_attribute_name(attribute) == "cmdletbinding" for attribute in attributes)


def _parameters(header: Node) -> tuple[Parameter, ...]:
    listed = first_of(header, "parameter_list")
    found = [each for child in parts(listed) for each in _parameter(child)] if listed else []
    if any(each.position is not None for each in found):
        return tuple(found)
    # Without any Position, arguments without a name are taken in the order of the parameters; a switch takes none
    # (about_Functions_Advanced_Parameters, "Position argument").
    placed = [each for each in found if each.type is None or each.type.name not in ("switch", "switchparameter")]
    return tuple(replace(each, position=placed.index(each)) if each in placed else each for each in found)


def _parameter(node: Node) -> Iterator[Parameter]:
    """Yield a parameter, and those that the grammar took for part of its default.

    Of ``param($a = (1), $b)`` it makes the default ``(1), $b``, for which PowerShell has no meaning there.
    """
    name = first_of(node, "variable")
    if name is None:
        raise unknown(node)
    default, rest = _default(first_of(node, "script_parameter_default"))
    yield _described(variable(name), first_of(node, "attribute_list"), default, line(node))
    for each in rest:
        while each.type in ("unary_expression", "expression_with_unary_operator"):
            each = only(each)  # noqa: PLW2901 - a walk down
        if each.type == "cast_expression":
            kind, inner = some(each, 2)
            found = read_expression(inner)
            if isinstance(found, Variable):
                yield replace(_described(found, None, None, line(each)), type=type_name(kind))
                continue
        if each.type != "variable":
            raise SyntaxFault(line(each), "put a parameter's default into parentheses")
        yield _described(variable(each), None, None, line(each))


def _default(node: Node | None) -> tuple[Expression | None, list[Node]]:
    if node is None:
        return None, []
    value = only(node)
    if value.type == "array_literal_expression":
        first, *rest = parts(value)
        return read_expression(first), rest
    return read_expression(value), []


def _described(name: Variable, attributes: Node | None, default: Expression | None, where: int) -> Parameter:
    plain = Parameter(
        name.name,
        type=None,
        default=default,
        mandatory=False,
        position=None,
        from_pipeline=False,
        from_property=False,
        choices=(),
        aliases=(),
        not_empty=False,
        allows_empty=False,
        line=where,
    )
    for attribute in parts(attributes) if attributes else ():
        plain = _with(plain, attribute)
    return plain


def _with(parameter: Parameter, attribute: Node) -> Parameter:
    """Return a parameter with what an attribute says of it."""
    inner = parts(attribute)
    if inner[0].type == "type_literal":
        return replace(parameter, type=type_name(inner[0]))
    name = _attribute_name(attribute)
    if name not in _ATTRIBUTES:
        raise unknown(attribute)
    arguments = parts(inner[1]) if len(inner) > 1 else []
    if name == "parameter":
        return _said(parameter, arguments)
    if name == "validateset":
        return replace(parameter, choices=tuple(_words(arguments)))
    if name == "alias":
        return replace(parameter, aliases=tuple(_words(arguments)))
    if name == "validatenotnullorempty":
        return replace(parameter, not_empty=True)
    return replace(parameter, allows_empty=True)


def _attribute_name(attribute: Node) -> str:
    named = first_of(attribute, "attribute_name")
    return type_name(only(named)).name if named else ""


def _words(arguments: Iterable[Node]) -> Iterator[str]:
    for argument in arguments:
        value = only(argument)
        for each in parts(value) if value.type == "array_literal_expression" else [value]:
            found = read_expression(each)
            if not isinstance(found, Literal):
                raise unknown(each)
            yield str(found.value)


def _said(parameter: Parameter, arguments: Iterable[Node]) -> Parameter:
    """Return a parameter with what ``[Parameter(…)]`` says; a word alone is true."""
    said: dict[str, object] = {}
    for argument in arguments:
        word, *value = parts(argument)
        key = source(word).lower()
        if key not in _WORDS:
            raise unknown(argument)
        said[key] = _constant(value[0]) if value else True
    position = said.get("position")
    return replace(
        parameter,
        mandatory=bool(said.get("mandatory", False)),
        position=position if isinstance(position, int) else None,
        from_pipeline=bool(said.get("valuefrompipeline", False)),
        from_property=bool(said.get("valuefrompipelinebypropertyname", False)),
    )


def _constant(node: Node) -> object:
    value = read_expression(node)
    if isinstance(value, Variable) and value.name.lower() in ("true", "false"):
        return value.name.lower() == "true"
    if isinstance(value, Literal):
        return value.value
    raise unknown(node)
