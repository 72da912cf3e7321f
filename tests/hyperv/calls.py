"""What a script calls, and with which arguments, as far as that is told by its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import zip_longest

from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.node import (
    Assignment,
    Binary,
    Body,
    Command,
    Expression,
    Function,
    HashLiteral,
    If,
    Literal,
    Member,
    Named,
    Parameter,
    Pipeline,
    Splat,
    Unary,
    Variable,
)

#: The function by which the module asks whether the host has a command, and a parameter of it.
_ASKS = "test-command"

#: A command, and perhaps its parameter, that the host is known to have, in small letters.
Guard = tuple[str, str]


@dataclass(slots=True)
class Built:
    """A hashtable that a function builds up.

    Attributes:
        keys: Each with what the host is known to have where it is set.
        texts: What is set, where that is a text.
    """

    keys: dict[str, frozenset[Guard]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def note(self, key: str, value: object, guards: frozenset[Guard]) -> None:
        """Take notice of a key that is set."""
        self.keys[key] = guards
        stage = value.stages[0] if isinstance(value, Pipeline) else None
        if isinstance(stage, Literal) and isinstance(stage.value, str):
            self.texts[key] = stage.value


@dataclass(frozen=True, slots=True)
class Site:
    """A command where it stands.

    Attributes:
        command: The command.
        piped: Objects come to it.
        guards: What the host is known to have there.
        tables: The hashtables that the function has built up to there, by the names of their variables.
    """

    command: Command
    piped: bool
    guards: frozenset[Guard]
    tables: dict[str, Built]

    @property
    def name(self) -> str:
        """The command's name as it is written; nothing for one that is called by its value."""
        return to_text(self.command.name.value) if isinstance(self.command.name, Literal) else ""

    def table(self, splat: Splat) -> Built | None:
        """Return what is known of a hashtable that is splatted, or None where the function doesn't make it."""
        return self.tables.get(splat.variable.name.lower())

    def given(self) -> Iterator[tuple[str, int, frozenset[Guard]]]:
        """Yield the names of the arguments, splatted ones too, each with what the host is known to have there."""
        for each in self.command.elements:
            if isinstance(each, Named):
                yield each.name, each.line, self.guards
            elif isinstance(each, Splat):
                table = self.table(each)
                for key, guards in (table.keys if table else {}).items():
                    yield key, each.line, guards | self.guards

    def texts(self) -> Iterator[tuple[str, str, int]]:
        """Yield the arguments that are texts, by the names of their parameters, each with its line."""
        elements = self.command.elements
        for each, following in zip_longest(elements, elements[1:]):
            if isinstance(each, Named):
                value = each.value or following
                if isinstance(value, Literal) and isinstance(value.value, str):
                    yield each.name, value.value, each.line
            elif isinstance(each, Splat):
                table = self.table(each)
                for name, text in (table.texts if table else {}).items():
                    yield name, text, each.line

    def unnamed(self, known: Sequence[Parameter]) -> Iterator[Expression]:
        """Yield the arguments without a name; what follows a name that is no switch is its value."""
        switches = {each.name.lower() for each in known if each.type and each.type.name == "switch"} | {"verbose"}
        value_follows = False
        for each in self.command.elements:
            if isinstance(each, Named):
                value_follows = each.value is None and each.name.lower() not in switches
            elif isinstance(each, Splat) or value_follows:
                value_follows = False
            else:
                yield each


def functions(node: object) -> Iterator[tuple[str, Body]]:
    """Yield the functions that a script defines, wherever, by their names in small letters."""
    if isinstance(node, Function):
        yield node.name.lower(), node.body
    for part in _parts(node):
        yield from functions(part)


def calls(body: Body) -> Iterator[Site]:
    """Yield the commands of a script in their order."""
    yield from _calls(body, frozenset(), {})


def _parts(node: object) -> Iterator[object]:
    if isinstance(node, tuple):
        yield from node
    elif is_dataclass(node):
        yield from (getattr(node, each.name) for each in fields(node))


def _calls(node: object, guards: frozenset[Guard], tables: dict[str, Built]) -> Iterator[Site]:
    if isinstance(node, Body):
        tables = {}
    if isinstance(node, Assignment):
        _note_keys(node, guards, tables)
    if isinstance(node, If):
        for condition, inner in node.branches:
            yield from _calls(condition, guards, tables)
            yield from _calls(inner, guards | frozenset(_asked(condition)), tables)
        yield from _calls(node.otherwise, guards, tables)
        return
    if isinstance(node, Pipeline):
        for at, stage in enumerate(node.stages):
            if isinstance(stage, Command):
                yield Site(stage, at > 0, guards, tables)
    for part in _parts(node):
        yield from _calls(part, guards, tables)


def _asked(condition: object) -> Iterator[Guard]:
    """Yield what the host has where a condition holds; of one that is turned round, or of alternatives, nothing."""
    if isinstance(condition, Unary) or (isinstance(condition, Binary) and condition.operator == "-or"):
        return
    if isinstance(condition, Command) and isinstance(condition.name, Literal):
        words = [to_text(each.value).lower() for each in condition.elements if isinstance(each, Literal)]
        if to_text(condition.name.value).lower() == _ASKS and words:
            yield words[0], words[1] if len(words) > 1 else ""
    for part in _parts(condition):
        yield from _asked(part)


def _note_keys(node: Assignment, guards: frozenset[Guard], tables: dict[str, Built]) -> None:
    target = node.target
    if isinstance(target, Variable) and isinstance(node.value, Pipeline):
        value = node.value.stages[0]
        if isinstance(value, HashLiteral):
            table = tables[target.name.lower()] = Built()
            for key, each in value.entries:
                table.note(to_text(key.value) if isinstance(key, Literal) else "", each, guards)
    elif isinstance(target, Member) and isinstance(target.target, Variable) and isinstance(target.name, Literal):
        known = tables.get(target.target.name.lower())
        if known is not None:
            known.note(to_text(target.name.value), node.value, guards)
