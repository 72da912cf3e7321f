"""Conversions between values, as casts and operators make them.

Sources: about_Booleans (what is true), about_Type_Conversion, about_Arithmetic_Operators, about_Numeric_Literals;
    formats of
numbers and times are those of .NET's invariant culture, which expandable texts use (about_Quoting_Rules).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

from tests.hyperv.pwsh.failure import ErrorRecord, Failure, NetException, OutsideSubset, failure
from tests.hyperv.pwsh.node import TypeName
from tests.hyperv.pwsh.value import ArrayList, Hashtable, PSObject, ScriptBlock, Version, is_null

#: The least and the greatest number of each whole type.
INTEGERS = {
    "byte": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int": (-(2**31), 2**31 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "long": (-(2**63), 2**63 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}

#: The names that .NET has for types, where PowerShell has a shorter one.
FULL_NAMES = {"int": "System.Int32", "long": "System.Int64", "string": "System.String", "bool": "System.Boolean",
              "double": "System.Double", "guid": "System.Guid", "datetime": "System.DateTime"}  # fmt: skip


def to_text(value: object) -> str:
    """Return what a value becomes in a text.

    Raises:
        OutsideSubset: It is an object that has no text of its own here.
    """
    for kind, convert in _TEXTS:
        if isinstance(value, kind):
            return convert(value)
    if is_null(value):
        return ""
    if type(value).__str__ is not object.__str__:
        return str(value)
    raise OutsideSubset(f"a {type(value).__name__} as text")


def _list_text(value: object) -> str:
    assert isinstance(value, list | tuple | bytes)
    return " ".join(to_text(item) for item in value)


def _table_text(value: object) -> str:
    if isinstance(value, Hashtable):
        return "System.Collections." + ("Specialized.OrderedDictionary" if value.ordered else "Hashtable")
    assert isinstance(value, PSObject)
    # An array in an object is no more than its type's name (PowerShell's issue 3574).
    texts = {name: "System.Object[]" if isinstance(each, list) else to_text(each) for name, each in value.pairs()}
    return "@{" + "; ".join(f"{name}={text}" for name, text in texts.items()) + "}"


def _time_text(value: object) -> str:
    assert isinstance(value, datetime)
    return value.strftime("%m/%d/%Y %H:%M:%S")


def _duration_text(value: object) -> str:
    """Return a TimeSpan in its constant format, ``[-][d.]hh:mm:ss[.fffffff]``."""
    assert isinstance(value, timedelta)
    sign, value = ("-", -value) if value < timedelta() else ("", value)
    hours, rest = divmod(value.seconds, 3600)
    days = f"{value.days}." if value.days else ""
    fraction = f".{value.microseconds * 10:07}" if value.microseconds else ""
    return f"{sign}{days}{hours:02}:{rest // 60:02}:{rest % 60:02}{fraction}"


def _exception_text(value: object) -> str:
    assert isinstance(value, NetException)
    return f"{value.type_name}: {value.message}"


def _enum_text(value: object) -> str:
    assert isinstance(value, Enum)
    return value.name if isinstance(value.value, int) else str(value.value)


#: How values of each kind become texts; the first that fits.
_TEXTS: tuple[tuple[type | tuple[type, ...], Callable[[object], str]], ...] = (
    (str, str),
    (bool, str),
    (Enum, _enum_text),
    (int, str),
    # 15 digits, as .NET Framework's Double.ToString gives.
    (float, lambda value: f"{value:.15G}"),
    ((list, tuple, bytes), _list_text),
    ((Hashtable, PSObject), _table_text),
    (datetime, _time_text),
    (timedelta, _duration_text),
    (NetException, _exception_text),
    (ErrorRecord, str),
    (UUID, str),
)


def to_bool(value: object) -> bool:
    """Tell whether a value counts as true (about_Booleans)."""
    if is_null(value):
        return False
    if isinstance(value, str | bytes):
        return len(value) > 0
    if isinstance(value, list | tuple):
        return to_bool(value[0]) if len(value) == 1 else len(value) > 0
    if isinstance(value, Enum):
        return bool(value.value)
    if isinstance(value, int | float):
        return value != 0
    return True


def to_number(value: object) -> int | float:
    """Return a value as a number, as arithmetic takes it.

    Raises:
        Failure: It is a text that is no number, or not convertible at all.
    """
    if is_null(value):
        return 0
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Enum) and isinstance(value.value, int):
        return value.value
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return _parsed(value)
    raise _no_cast(value, "System.Int32")


def _parsed(text: str) -> int | float:
    plain = text.strip()
    if not plain:
        return 0
    if re.fullmatch(r"[+-]?[0-9]+", plain):
        return int(plain)
    if re.fullmatch(r"0x[0-9a-f]+", plain, re.IGNORECASE):
        return int(plain, 16)
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", plain, re.IGNORECASE):
        return float(plain)
    raise _no_cast(text, "System.Int32", "Input string was not in a correct format.")


def _no_cast(value: object, type_name: str, why: str = "") -> Failure:
    shown = to_text(value) if isinstance(value, str | int | float | Enum) else type(value).__name__
    reason = f' Error: "{why}"' if why else ""
    return failure(
        "System.Management.Automation.PSInvalidCastException",
        f'Cannot convert value "{shown}" to type "{type_name}".{reason}',
        "InvalidCastFromStringToInteger" if why else "ConvertToFinalInvalidCastException",
        "InvalidArgument",
    )


def cast(kind: TypeName, value: object) -> object:
    """Return a value as a type has it (about_Type_Conversion).

    Raises:
        Failure: It can't be converted.
        OutsideSubset: The type isn't known here.
    """
    if kind.rank or kind.name == "array":
        return _cast_array(kind, value)
    if kind.name in INTEGERS:
        return _cast_integer(kind.name, value)
    plain = _CASTS.get(kind.name)
    if plain is None:
        raise OutsideSubset(f"the type [{kind.name}]", kind.line)
    return plain(value)


def _cast_array(kind: TypeName, value: object) -> object:
    if is_null(value):
        return None
    items = list(value) if isinstance(value, list | tuple | bytes | bytearray) else [value]
    if kind.name == "byte" and kind.rank == 1:
        return bytes(int(to_number(_cast_integer("byte", item))) for item in items)
    inner = TypeName("object" if kind.name == "array" else kind.name, max(kind.rank - 1, 0), (), kind.line)
    return [cast(inner, item) for item in items]


def _cast_integer(name: str, value: object) -> object:
    if isinstance(value, list) and len(value) == 1:
        return _cast_integer(name, value[0])
    number = to_number(value)
    # Halves go to the even neighbour (about_Arithmetic_Operators, "Rounding").
    whole = round(number)
    least, greatest = INTEGERS[name]
    if not least <= whole <= greatest:
        full = FULL_NAMES.get(name, f"System.{name.capitalize()}")
        raise _no_cast(value, full, f"Value was either too large or too small for a {full.removeprefix('System.')}.")
    return whole


def _cast_guid(value: object) -> object:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(to_text(value))
    except ValueError:
        raise _no_cast(value, "System.Guid", "Guid should contain 32 digits with 4 dashes.") from None


def _cast_time(value: object) -> object:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(to_text(value))
    except ValueError:
        raise _no_cast(value, "System.DateTime", "String was not recognized as a valid DateTime.") from None


def _cast_version(value: object) -> object:
    if isinstance(value, Version):
        return value
    if not re.fullmatch(r"\d+(\.\d+){1,3}", to_text(value)):
        raise _no_cast(value, "System.Version", "Version string portion was too short or too long.")
    return Version(*(int(part) for part in to_text(value).split(".")))


def _cast_object(value: object) -> object:
    if isinstance(value, Hashtable):
        return PSObject(value.pairs())
    return value


def _cast_hashtable(value: object) -> object:
    if isinstance(value, Hashtable) or is_null(value):
        return value
    raise _no_cast(value, "System.Collections.Hashtable")


def _cast_block(value: object) -> object:
    if isinstance(value, ScriptBlock) or is_null(value):
        return value
    raise OutsideSubset("a text as [scriptblock]: script text is never built")


def _cast_char(value: object) -> object:
    if isinstance(value, int):
        return chr(value)
    if len(to_text(value)) != 1:
        raise _no_cast(value, "System.Char", "String must be exactly one character long.")
    return to_text(value)


def _cast_list(value: object) -> object:
    return ArrayList(value if isinstance(value, list) else [value], tells=True)


_CASTS: dict[str, Callable[[object], object]] = {
    "string": to_text,
    "bool": to_bool,
    "boolean": to_bool,
    "switch": to_bool,
    "double": lambda value: float(to_number(value)),
    "char": _cast_char,
    "object": lambda value: value,
    "psobject": lambda value: value,
    "pscustomobject": _cast_object,
    "management.automation.psobject": _cast_object,
    "hashtable": _cast_hashtable,
    "collections.hashtable": _cast_hashtable,
    "collections.arraylist": _cast_list,
    "scriptblock": _cast_block,
    "guid": _cast_guid,
    "datetime": _cast_time,
    "version": _cast_version,
}
