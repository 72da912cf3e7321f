"""What has a value, and the types that are named beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Expressions hold statements, and statements expressions.
    from tests.hyperv.pwsh.node.block import Body
    from tests.hyperv.pwsh.node.statement import Statement


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type in brackets.

    Attributes:
        name: In small letters, without ``System.``: ``string``, ``io.path``.
        rank: How many times it is an array: 1 for ``int[]``.
        arguments: Of a generic type: ``object`` of ``List[object]``.
        line: Where it stands, from 1; likewise in all nodes.
    """

    name: str
    rank: int
    arguments: tuple[TypeName, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, or a text in which nothing is expanded."""

    value: str | int | float
    line: int


@dataclass(frozen=True, slots=True)
class Expandable:
    """A text with parts that are expanded."""

    parts: tuple[str | Expression, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Variable:
    """``$name``; with a scope for ``$script:name`` and ``$env:name``."""

    name: str
    scope: str
    line: int


@dataclass(frozen=True, slots=True)
class ArrayLiteral:
    """``1, 2``."""

    items: tuple[Expression, ...]
    line: int


@dataclass(frozen=True, slots=True)
class ArrayBlock:
    """``@( … )``: what the statements write, always an array."""

    statements: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class SubExpression:
    """``$( … )``: what the statements write."""

    statements: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Group:
    """``( … )``: what one statement writes; an assignment in it writes what it assigned."""

    statement: Statement
    line: int


@dataclass(frozen=True, slots=True)
class HashLiteral:
    """``@{ key = value }``."""

    entries: tuple[tuple[Expression, Statement], ...]
    line: int


@dataclass(frozen=True, slots=True)
class Member:
    """``target.name`` or ``[type]::name``."""

    target: Expression
    name: Expression
    static: bool
    line: int


@dataclass(frozen=True, slots=True)
class Call:
    """``target.name(…)`` or ``[type]::name(…)``."""

    target: Expression
    name: Expression
    arguments: tuple[Expression, ...]
    static: bool
    line: int


@dataclass(frozen=True, slots=True)
class Index:
    """``target[index]``."""

    target: Expression
    index: Expression
    line: int


@dataclass(frozen=True, slots=True)
class Unary:
    """``-not x``, ``!x``, ``-x``, ``,x``, ``-join x``, ``-split x``."""

    operator: str
    operand: Expression
    line: int


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands; the operator in small letters, with its dash."""

    operator: str
    left: Expression
    right: Expression
    line: int


@dataclass(frozen=True, slots=True)
class Increment:
    """``$i++``, ``--$i``."""

    target: Expression
    step: int
    before: bool
    line: int


@dataclass(frozen=True, slots=True)
class Cast:
    """``[type] operand``."""

    type: TypeName
    operand: Expression
    line: int


@dataclass(frozen=True, slots=True)
class TypeLiteral:
    """``[type]`` as a value."""

    type: TypeName
    line: int


@dataclass(frozen=True, slots=True)
class BlockLiteral:
    """``{ … }`` as a value."""

    body: Body
    line: int


Expression = (
    Literal
    | Expandable
    | Variable
    | ArrayLiteral
    | ArrayBlock
    | SubExpression
    | Group
    | HashLiteral
    | Member
    | Call
    | Index
    | Unary
    | Binary
    | Increment
    | Cast
    | TypeLiteral
    | BlockLiteral
)
