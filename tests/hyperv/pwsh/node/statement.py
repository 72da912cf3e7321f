"""Statements, and the commands in their pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from tests.hyperv.pwsh.node.expression import Expression, TypeName, Variable

if TYPE_CHECKING:
    from tests.hyperv.pwsh.node.block import Body

# --- commands --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named:
    """``-Name`` of a command; whether a value belongs to it is for the command's parameters to say.

    Attributes:
        name: Without the dash.
        value: What follows a colon: ``-Confirm:$false``.
        line: Where it stands.
    """

    name: str
    value: Expression | None
    line: int


@dataclass(frozen=True, slots=True)
class Splat:
    """``@variable`` among a command's arguments."""

    variable: Variable
    line: int


@dataclass(frozen=True, slots=True)
class Command:
    """A command's call.

    Attributes:
        name: Its name, or an expression after ``&`` or ``.``.
        here: Called by ``.``: it runs in the caller's scope.
        elements: Parameters and arguments as they stand.
        line: Where it stands.
    """

    name: Expression
    here: bool
    elements: tuple[Named | Splat | Expression, ...]
    line: int


# --- statements ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages from left to right; an expression can only be the first.

    Attributes:
        stages: At least one.
        discards: Its output goes to ``$null``.
        silent: Its errors do.
        line: Where it starts.
    """

    stages: tuple[Command | Expression, ...]
    discards: bool
    silent: bool
    line: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """``target = value``, ``target += value``."""

    target: Expression
    operator: str
    value: Statement
    line: int


@dataclass(frozen=True, slots=True)
class If:
    """Conditions with what they guard, in their order."""

    branches: tuple[tuple[Statement, tuple[Statement, ...]], ...]
    otherwise: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class ForEach:
    """``foreach ($variable in items) { … }``."""

    variable: Variable
    items: Statement
    body: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Loop:
    """``for``, ``while`` and ``do``.

    Attributes:
        start: Before the first round.
        condition: Another round while it holds; None is always.
        until: The condition is turned round.
        after: After each round.
        body: A round.
        first_round: The first round comes before the condition.
        line: Where it stands.
    """

    start: Statement | None
    condition: Statement | None
    until: bool
    after: Statement | None
    body: tuple[Statement, ...]
    first_round: bool
    line: int


@dataclass(frozen=True, slots=True)
class Switch:
    """``switch``; a clause's condition of None is ``default``."""

    mode: str
    subject: Statement
    clauses: tuple[tuple[Expression | None, tuple[Statement, ...]], ...]
    line: int


@dataclass(frozen=True, slots=True)
class Catch:
    """A clause of ``try``; without types it catches all."""

    types: tuple[TypeName, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Try:
    """``try``, ``catch``, ``finally``."""

    body: tuple[Statement, ...]
    catches: tuple[Catch, ...]
    last: tuple[Statement, ...]
    line: int


class FlowKind(Enum):
    """What leaves a block."""

    BREAK = "break"
    CONTINUE = "continue"
    RETURN = "return"
    THROW = "throw"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Flow:
    """A statement that leaves a block, with its value."""

    kind: FlowKind
    value: Statement | None
    line: int


@dataclass(frozen=True, slots=True)
class Function:
    """A function's definition; its name keeps a scope's prefix."""

    name: str
    body: Body
    line: int


Statement = Pipeline | Assignment | If | ForEach | Loop | Switch | Try | Flow | Function
