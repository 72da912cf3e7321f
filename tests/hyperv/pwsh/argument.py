"""What an argument becomes on its way into a parameter, and which a parameter refuses.

Sources: about_Parameters, about_Functions_Advanced_Parameters ("Parameter and variable validation attributes").
"""

from __future__ import annotations

from tests.hyperv.pwsh.conversion import INTEGERS, cast, to_bool, to_text
from tests.hyperv.pwsh.failure import Failure, failure
from tests.hyperv.pwsh.node import Parameter, TypeName
from tests.hyperv.pwsh.value import is_null


def refused(message: str, identity: str) -> Failure:
    """Return the error of an argument that can't be bound."""
    return failure("System.Management.Automation.ParameterBindingException", message, identity, "InvalidArgument")


def is_switch(parameter: Parameter) -> bool:
    """Tell whether a parameter is on by its name alone."""
    return parameter.type is not None and parameter.type.name in ("switch", "management.automation.switchparameter")


def converted(command: str, parameter: Parameter, value: object) -> object:
    """Return an argument as its parameter takes it.

    Raises:
        Failure: It can't be converted, or isn't among what is allowed.
    """
    if parameter.type is not None and not (is_null(value) and parameter.type.rank):
        try:
            value = _argument(parameter.type, value)
        except Failure as wrong:
            message = f"Cannot process argument transformation on parameter '{parameter.name}'. {wrong}"
            raise refused(message, f"ParameterArgumentTransformationError,{command}") from wrong
    if parameter.choices:
        for each in value if isinstance(value, list) else [value]:
            _check_choice(command, parameter, each)
    if (parameter.mandatory or parameter.not_empty) and not parameter.allows_empty:
        _check_empty(command, parameter, value)
    return None if is_null(value) else value


def _argument(kind: TypeName, value: object) -> object:
    """Return an argument as a type has it; binding is stricter than a cast.

    No array becomes a single value, and no text a truth value (about_Booleans; "Boolean parameters accept only Boolean
    values and numbers").

    Raises:
        Failure: It can't be converted.
    """
    plain = kind.name.rpartition(".")[2]
    if not kind.rank and isinstance(value, list) and plain in ("string", "bool", "guid", "double", *INTEGERS):
        raise refused(f"Cannot convert value to type [{kind.name}]: it is an array.", "CannotConvertArgument")
    if plain in ("bool", "boolean", "switch", "switchparameter"):
        truth = isinstance(value, bool | int | float) or (is_null(value) and plain.startswith("switch"))
        if not truth:
            raise refused("Boolean parameters accept only Boolean values and numbers.", "CannotConvertArgument")
        return to_bool(value)
    return cast(kind, value)


def _check_choice(command: str, parameter: Parameter, value: object) -> None:
    if to_text(value).lower() not in (choice.lower() for choice in parameter.choices):
        allowed = ",".join(parameter.choices)
        message = (
            f"Cannot validate argument on parameter '{parameter.name}'. The argument \"{to_text(value)}\" does not "
            f'belong to the set "{allowed}" specified by the ValidateSet attribute.'
        )
        raise refused(message, f"ParameterArgumentValidationError,{command}")


def _check_empty(command: str, parameter: Parameter, value: object) -> None:
    """A mandatory parameter takes neither null nor an empty text or list, unless it says so."""
    inner = value if isinstance(value, list) and value else [value]
    empty = [each for each in inner if is_null(each) or each in ("", [])]
    if empty:
        what = "null" if is_null(empty[0]) else "an empty string" if empty[0] == "" else "an empty collection"
        message = f"Cannot bind argument to parameter '{parameter.name}' because it is {what}."
        raise refused(message, f"ParameterArgumentValidationError{what.title().replace(' ', '')}NotAllowed,{command}")
