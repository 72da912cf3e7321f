"""Static members of the listed few .NET types, and what ``New-Object`` makes (.NET Framework 4's reference)."""

from __future__ import annotations

import base64
import functools
import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tests.hyperv.pwsh import net_path
from tests.hyperv.pwsh.context import Context
from tests.hyperv.pwsh.conversion import INTEGERS, cast, to_bool, to_number, to_text
from tests.hyperv.pwsh.failure import NetException, OutsideSubset, failure
from tests.hyperv.pwsh.formatting import composed
from tests.hyperv.pwsh.method import invoked
from tests.hyperv.pwsh.net_file import ENCODINGS, FILES, Encoding, system_failure
from tests.hyperv.pwsh.node import TypeName
from tests.hyperv.pwsh.operator import join
from tests.hyperv.pwsh.value import ArrayList, Hashtable, PSObject

Static = Callable[..., object]


def _parsed_guid(text: object) -> object:
    return cast(TypeName("guid", 0, (), 0), text)


def _base64(text: object) -> object:
    try:
        return base64.b64decode(to_text(text), validate=True)
    except ValueError:
        message = "The input is not a valid Base-64 string as it contains a non-base 64 character."
        raise failure("System.FormatException", message) from None


def _to_base64(data: object) -> object:
    raw = cast(TypeName("byte", 1, (), 0), data)
    assert isinstance(raw, bytes)
    return base64.b64encode(raw).decode()


def _rounded(value: object, places: object = 0) -> object:
    # Halves go to the even neighbour: MidpointRounding.ToEven is the default.
    return float(round(to_number(value), round(to_number(places))))


def _integer(name: str) -> dict[str, Static]:
    return {"parse": lambda text: cast(TypeName(name, 0, (), 0), to_text(text))}


def _compared(one: object, two: object, *ignores: object) -> object:
    first, second = to_text(one), to_text(two)
    if ignores and (ignores[0] is True or to_text(ignores[0]).lower().endswith("ignorecase")):
        return first.casefold() == second.casefold()
    return first == second


_METHODS: dict[str, dict[str, Static]] = {
    "string": {
        "isnullorempty": lambda text: not to_text(text),
        "isnullorwhitespace": lambda text: not to_text(text).strip(),
        "join": lambda separator, *items: join(
            items[0] if len(items) == 1 and isinstance(items[0], list) else items, to_text(separator)
        ),
        "format": lambda form, *values: composed(to_text(form), list(values)),
        "equals": _compared,
    },
    "io.path": net_path.METHODS,
    "guid": {"newguid": uuid.uuid4, "parse": _parsed_guid},
    "math": {
        "max": lambda one, two: max(to_number(one), to_number(two)),
        "min": lambda one, two: min(to_number(one), to_number(two)),
        "abs": lambda value: abs(to_number(value)),
        "floor": lambda value: float(math.floor(to_number(value))),
        "ceiling": lambda value: float(math.ceil(to_number(value))),
        "truncate": lambda value: float(math.trunc(to_number(value))),
        "round": _rounded,
    },
    "convert": {
        "tobase64string": _to_base64,
        "frombase64string": _base64,
        "toint32": lambda value: cast(TypeName("int", 0, (), 0), value),
        "toint64": lambda value: cast(TypeName("long", 0, (), 0), value),
        "tostring": to_text,
        "toboolean": to_bool,
    },
    "int": _integer("int"),
    "long": _integer("long"),
    "timespan": {
        "fromseconds": lambda count: timedelta(seconds=float(to_number(count))),
        "fromminutes": lambda count: timedelta(minutes=float(to_number(count))),
    },
    "datetime": {"parse": lambda text: cast(TypeName("datetime", 0, (), 0), text)},
}

_PROPERTIES: dict[str, dict[str, Static]] = {
    "datetime": {"utcnow": lambda: datetime.now(UTC), "now": lambda: datetime.now().astimezone()},
    "guid": {"empty": lambda: uuid.UUID(int=0)},
    "string": {"empty": lambda: ""},
    "text.encoding": {name: functools.partial(lambda each: each, each) for name, each in ENCODINGS.items()},
    "stringcomparison": {name: functools.partial(str, name) for name in ("ordinal", "ordinalignorecase")},
    "environment": {"newline": lambda: "\r\n"},
}
for _name, (_least, _greatest) in INTEGERS.items():
    _PROPERTIES[_name] = {
        "minvalue": functools.partial(int, _least),
        "maxvalue": functools.partial(int, _greatest),
    }


def get(kind: TypeName, name: str) -> object:
    """Return a static property; of an enumeration that isn't known here, its value's name.

    Raises:
        OutsideSubset: It isn't among those that are known.
    """
    found = _PROPERTIES.get(kind.name, {}).get(name.lower())
    if found is None:
        raise OutsideSubset(f"[{kind.name}]::{name}", kind.line)
    return found()


def call(context: Context, kind: TypeName, name: str, arguments: list[object]) -> object:
    """Return what a static method returns.

    Raises:
        Failure: It failed: a MethodInvocationException around what went wrong.
        OutsideSubset: It isn't among those that are known.
    """
    wanted = name.lower()
    if wanted == "new":
        raise OutsideSubset(f"[{kind.name}]::new() is of PowerShell 5; New-Object makes it everywhere", kind.line)
    on_files = FILES.get(kind.name, {}).get(wanted)
    if on_files is not None:
        return invoked(name, functools.partial(_with_system_errors, on_files, context), arguments)
    method = _METHODS.get(kind.name, {}).get(wanted)
    if method is None:
        raise OutsideSubset(f"[{kind.name}]::{name}()", kind.line)
    return invoked(name, method, arguments)


def _with_system_errors(method: Callable[..., object], context: Context, *arguments: object) -> object:
    try:
        return method(context, *arguments)
    except OSError as wrong:
        raise system_failure(wrong) from wrong


def made(kind: TypeName, arguments: list[object]) -> object:
    """Return a new object of a type (``New-Object``).

    Raises:
        OutsideSubset: Objects of this type can't be made here.
    """
    name = kind.name
    if name.endswith("exception"):
        return _exception(kind, arguments)
    if name == "text.utf8encoding":
        return Encoding("utf-8", ENCODINGS["utf8"].mark if arguments and to_bool(arguments[0]) else b"")
    if name == "collections.arraylist" and not arguments:
        return ArrayList(tells=True)
    if name == "collections.generic.list" and not arguments:
        return ArrayList(tells=False)
    if name in ("psobject", "management.automation.psobject") and not arguments:
        return PSObject()
    if name in ("hashtable", "collections.hashtable") and not arguments:
        return Hashtable()
    raise OutsideSubset(f"New-Object {name} with {len(arguments)} arguments", kind.line)


#: Exceptions whose names are spelt as .NET spells them, by names in small letters without ``System.``.
_EXCEPTIONS = {
    name.lower(): f"System.{name}"
    for name in (
        "Exception", "ArgumentException", "InvalidOperationException", "NotSupportedException", "FormatException",
        "UnauthorizedAccessException", "TimeoutException", "IO.IOException", "IO.FileNotFoundException",
        "IO.DirectoryNotFoundException", "Management.Automation.RuntimeException",
        "Management.Automation.ItemNotFoundException",
    )
}  # fmt: skip


def _exception(kind: TypeName, arguments: list[object]) -> NetException:
    if kind.name not in _EXCEPTIONS or len(arguments) > 2:
        raise OutsideSubset(f"an exception of the type {kind.name}", kind.line)
    full = _EXCEPTIONS[kind.name]
    message = to_text(arguments[0]) if arguments else f"Exception of type '{full}' was thrown."
    inner = arguments[1] if len(arguments) > 1 else None
    return NetException(full, message, inner if isinstance(inner, NetException) else None)
