"""Binds a command's arguments to its parameters.

The order is that of about_Parameters and "Cmdlet parameter binding" (learn.microsoft.com): names, then positions, then
the pipeline; a name may be cut short as long as it means one parameter only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.hyperv.pwsh.argument import converted, is_switch, refused
from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.failure import Failure, OutsideSubset
from tests.hyperv.pwsh.member import property_of
from tests.hyperv.pwsh.node import Parameter
from tests.hyperv.pwsh.value import NOTHING, Table

#: Common parameters and their aliases (about_CommonParameters); those that are known change nothing but ErrorAction and
#: ErrorVariable.
COMMON = {
    "erroraction": "erroraction", "ea": "erroraction",
    "errorvariable": "errorvariable", "ev": "errorvariable",
    "warningaction": "warningaction", "wa": "warningaction",
    "verbose": "verbose", "vb": "verbose",
}  # fmt: skip


#: Common parameters that aren't known here.
_UNCOMMON = frozenset((
    "debug", "db", "informationaction", "infa", "informationvariable", "iv", "outbuffer", "ob", "outvariable", "ov",
    "pipelinevariable", "pv", "warningvariable", "wv",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Given:
    """An argument as it is called with.

    Attributes:
        name: Of its parameter, or None for an argument without a name.
        value: Its value.
        open: Nothing was said yet of a value: the next argument is it, unless the parameter is a switch.
    """

    name: str | None
    value: object
    open: bool = False


@dataclass(slots=True)
class Bound:
    """Arguments that found their parameters.

    Attributes:
        arguments: By the parameters' names.
        common: Common parameters, by names in small letters.
        rest: Arguments that no parameter takes.
    """

    arguments: Table
    common: dict[str, object]
    rest: list[object]

    @property
    def error_action(self) -> str:
        """What ``-ErrorAction`` says, in small letters; empty where nothing was said."""
        return to_text(self.common.get("erroraction")).lower()


def bind(
    command: str,
    parameters: Sequence[Parameter],
    given: Sequence[Given],
    *,
    common: bool,
    rest: bool = False,
    partly: bool = False,
) -> Bound:
    """Bind arguments by name and position.

    Args:
        command: Its name, for errors.
        parameters: What it takes.
        given: What it is called with.
        common: It has the common parameters.
        rest: It takes arguments that no parameter takes (``$args``).
        partly: It has more parameters than are known here.

    Raises:
        Failure: An argument has no parameter, or isn't what its parameter takes.
        OutsideSubset: It may have a parameter that isn't known here.
    """
    bound = Bound(Table(), {}, [])
    loose: list[object] = []
    waiting = list(given)
    while waiting:
        each = waiting.pop(0)
        if each.name is None:
            loose.append(each.value)
            continue
        found = _named(command, parameters, each.name, common=common, partly=partly)
        value = each.value
        switch = found == "verbose" if isinstance(found, str) else is_switch(found)
        if each.open:
            value = True if switch else _next(waiting, each.name)
        _put(bound, command, found, value)
    _place(bound, command, parameters, loose)
    if bound.rest and partly:
        raise OutsideSubset(f"{command} with {len(loose)} arguments without a name")
    if bound.rest and not rest:
        message = f"A positional parameter cannot be found that accepts argument '{to_text(bound.rest[0])}'."
        raise refused(message, f"PositionalParameterNotFound,{command}")
    return bound


def _next(waiting: list[Given], name: str) -> object:
    if not waiting or waiting[0].name is not None:
        message = f"Missing an argument for parameter '{name}'. Specify a parameter and try again."
        raise refused(message, "MissingArgument")
    return waiting.pop(0).value


def _named(
    command: str, parameters: Sequence[Parameter], name: str, *, common: bool, partly: bool
) -> Parameter | str:  # fmt: skip
    """Return the parameter that a name means, or the common one's name."""
    wanted = name.lower()
    exact = [each for each in parameters if wanted in _names(each)]
    if exact:
        return exact[0]
    if common and wanted in COMMON:
        return COMMON[wanted]
    if partly or (common and wanted in _UNCOMMON):
        raise OutsideSubset(f"{command} -{name}")
    begun = [each for each in parameters if any(each_name.startswith(wanted) for each_name in _names(each))]
    if len(begun) == 1:
        return begun[0]
    if begun:
        message = f"Parameter cannot be processed because the parameter name '{name}' is ambiguous."
        raise refused(message, "AmbiguousParameter")
    message = f"A parameter cannot be found that matches parameter name '{name}'."
    raise refused(message, f"NamedParameterNotFound,{command}")


def _names(parameter: Parameter) -> Iterator[str]:
    yield parameter.name.lower()
    yield from (alias.lower() for alias in parameter.aliases)


def _put(bound: Bound, command: str, found: Parameter | str, value: object) -> None:
    if isinstance(found, str):
        bound.common[found] = value
        return
    if found.name in bound.arguments:
        message = f"Cannot bind parameter because parameter '{found.name}' is specified more than once."
        raise refused(message, "ParameterAlreadyBound")
    bound.arguments[found.name] = converted(command, found, value)


def _place(bound: Bound, command: str, parameters: Sequence[Parameter], loose: list[object]) -> None:
    # Path and LiteralPath are of different parameter sets of the language's own commands.
    taken = {"Path", *(str(name) for name, _ in bound.arguments.pairs())} if "LiteralPath" in bound.arguments else None
    free = sorted(
        (each for each in parameters if each.position is not None and each.name not in (taken or bound.arguments)),
        key=lambda each: each.position or 0,
    )
    for each in free[: len(loose)]:
        rivals = [other.name for other in free if other.position == each.position]
        if len(rivals) > 1:
            raise OutsideSubset(f"an argument of {command} without a name, which may be {' or '.join(rivals)}")
    for found, value in zip(free, loose, strict=False):
        bound.arguments[found.name] = converted(command, found, value)
    bound.rest = loose[len(free) :]


def from_pipeline(command: str, parameters: Sequence[Parameter], bound: Bound, item: object) -> Table:
    """Return the arguments with those that an object of the pipeline gives.

    Raises:
        Failure: No parameter takes it.
    """
    arguments = Table(bound.arguments.pairs())
    free = [each for each in parameters if each.name not in bound.arguments]
    by_value = [each for each in free if each.from_pipeline]
    if len(by_value) > 1:
        # Which of them it is hangs on types of .NET.
        raise OutsideSubset(f"an object from the pipeline for {command}: give it by name")
    for each in by_value:
        try:
            arguments[each.name] = converted(command, each, item)
        except Failure:
            continue
        return arguments
    found = [(each, value) for each in free if each.from_property for value in _properties(each, item)]
    if not found:
        message = "The input object cannot be bound to any parameters for the command."
        raise refused(message, f"InputObjectNotBound,{command}")
    for each, value in found:
        arguments[each.name] = converted(command, each, value)
    return arguments


def _properties(parameter: Parameter, item: object) -> Iterator[object]:
    """Yield what an object of the pipeline has under a parameter's name, or under one of its aliases."""
    values = [property_of(item, name) for name in _names(parameter)]
    yield from [value for value in values if value is not NOTHING][:1]


def check_sets(command: str, sets: Sequence[Sequence[Parameter]], arguments: Table) -> None:
    """Check that a command's arguments belong together, and that nothing is missing (about_Parameter_Sets).

    Raises:
        Failure: No parameter set has all of them, or each that has lacks a mandatory one.
    """
    fitting = [each for each in sets if all(any(one.name == name for one in each) for name, _ in arguments.pairs())]
    if not fitting:
        message = "Parameter set cannot be resolved using the specified named parameters."
        raise refused(message, f"AmbiguousParameterSet,{command}")
    if not any(all(one.name in arguments for one in each if one.mandatory) for each in fitting):
        check_mandatory(command, fitting[0], arguments)


def check_mandatory(command: str, parameters: Sequence[Parameter], arguments: Table) -> None:
    """Check that nothing is missing; nobody is there to be asked (``-NonInteractive``).

    Raises:
        Failure: A mandatory parameter has no argument.
    """
    missing = [each.name for each in parameters if each.mandatory and each.name not in arguments]
    if missing:
        message = f"Cannot process command because of one or more missing mandatory parameters: {' '.join(missing)}."
        raise refused(message, f"MissingMandatoryParameter,{command}")
