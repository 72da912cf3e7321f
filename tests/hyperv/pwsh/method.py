"""Methods of values: the listed few of String, Guid, numbers, times, lists, hashtables and exceptions.

They do what .NET Framework 4's reference says; a text's methods tell capital letters from small ones, as PowerShell's
operators don't. What isn't listed isn't known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tests.hyperv.pwsh.comparison import equal
from tests.hyperv.pwsh.conversion import to_number, to_text
from tests.hyperv.pwsh.failure import ErrorRecord, Failure, NetException, OutsideSubset, failure, runtime
from tests.hyperv.pwsh.formatting import formatted
from tests.hyperv.pwsh.kind import type_name
from tests.hyperv.pwsh.value import NOTHING, ArrayList, Entry, Hashtable, TypeValue, Version, is_null, public

Method = Callable[..., object]


def call(value: object, name: str, arguments: list[object]) -> object:
    """Return what a method returns; NOTHING for one that returns nothing.

    Raises:
        Failure: The value has no such method, or the method failed: a MethodInvocationException around what went wrong.
        OutsideSubset: The method isn't known here.
    """
    wanted = name.lower()
    if is_null(value):
        raise runtime("You cannot call a method on a null-valued expression.", "InvokeMethodOnNull")
    method = _found(value, wanted)
    if method is None:
        raise OutsideSubset(f"the method {name}() of a {_shown(value)}")
    return invoked(name, functools.partial(method, value), arguments)


def _shown(value: object) -> str:
    try:
        return type_name(value)
    except OutsideSubset:
        return type(value).__name__


def _found(value: object, wanted: str) -> Method | None:
    for kind, methods in _METHODS:
        if isinstance(value, kind) and wanted in methods:
            return methods[wanted]
    if wanted in _ALL:
        return _ALL[wanted]
    if any(isinstance(value, kind) for kind, _ in _METHODS):
        return None
    own = getattr(value, public(value).get(wanted, ""), None)
    return (lambda _, *arguments: own(*arguments)) if callable(own) else None


def invoked(name: str, method: Method, arguments: list[object]) -> object:
    """Call a method of .NET, and wrap what goes wrong in it.

    Raises:
        Failure: It failed (about_Try_Catch_Finally: a method's exception comes within a MethodInvocationException).
    """
    try:
        return method(*arguments)
    except Failure as wrong:
        inner = wrong.record.exception
        shown = f'Exception calling "{name}" with "{len(arguments)}" argument(s): "{inner.message}"'
        outer = failure("System.Management.Automation.MethodInvocationException", shown, _plain_name(inner))
        outer.record.exception.inner_exception = inner
        raise outer from wrong
    except TypeError as wrong:
        raise OutsideSubset(f"{name}() with {len(arguments)} arguments: {wrong}") from wrong


def _plain_name(exception: NetException) -> str:
    return exception.type_name.rpartition(".")[2]


# --- texts -----------------------------------------------------------------------------------------------------------


def _ignores_case(rest: tuple[object, ...]) -> bool:
    """Tell whether a StringComparison says that case doesn't matter."""
    return bool(rest) and to_text(rest[0]).lower().endswith("ignorecase")


def _compared(test: Callable[[str, str], object]) -> Method:
    def method(text: str, other: object, *rest: object) -> object:
        one, two = text, to_text(other)
        return test(one.casefold(), two.casefold()) if _ignores_case(rest) else test(one, two)

    return method


def _substring(text: str, start: object, length: object = None) -> object:
    first = round(to_number(start))
    count = len(text) - first if length is None else round(to_number(length))
    if first < 0 or count < 0 or first + count > len(text):
        message = "Index and length must refer to a location within the string.\r\nParameter name: length"
        raise failure("System.ArgumentOutOfRangeException", message)
    return text[first : first + count]


def _split_text(text: str, *separators: object) -> object:
    """Cut at each of some letters: .NET Framework takes a text as the letters that it is made of."""
    options = [each for each in separators if to_text(each).lower() in ("removeemptyentries", "none")]
    letters = "".join(to_text(part) for each in separators if each not in options for part in _members(each))
    pieces, piece = [], ""
    for letter in text:
        if letter in letters or (not letters and letter.isspace()):
            pieces.append(piece)
            piece = ""
        else:
            piece += letter
    pieces.append(piece)
    kept = options and to_text(options[0]).lower() == "removeemptyentries"
    return [each for each in pieces if each] if kept else list(pieces)


def _members(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _letters(arguments: tuple[object, ...]) -> str | None:
    return "".join(to_text(part) for each in arguments for part in _members(each)) or None


def _replace(text: str, old: object, new: object) -> object:
    if not to_text(old):
        raise failure("System.ArgumentException", "String cannot be of zero length.\r\nParameter name: oldValue")
    return text.replace(to_text(old), to_text(new))


_TEXT: dict[str, Method] = {
    "toupper": lambda text: text.upper(),
    "tolower": lambda text: text.lower(),
    "toupperinvariant": lambda text: text.upper(),
    "tolowerinvariant": lambda text: text.lower(),
    "trim": lambda text, *letters: text.strip(_letters(letters)),
    "trimstart": lambda text, *letters: text.lstrip(_letters(letters)),
    "trimend": lambda text, *letters: text.rstrip(_letters(letters)),
    "startswith": _compared(str.startswith),
    "endswith": _compared(str.endswith),
    "contains": lambda text, other: to_text(other) in text,
    "indexof": _compared(str.find),
    "lastindexof": _compared(str.rfind),
    "equals": _compared(str.__eq__),
    "substring": _substring,
    "replace": _replace,
    "split": _split_text,
    "padleft": lambda text, width, fill=" ": text.rjust(round(to_number(width)), to_text(fill)),
    "padright": lambda text, width, fill=" ": text.ljust(round(to_number(width)), to_text(fill)),
    "tochararray": list,
}

# --- lists and hashtables --------------------------------------------------------------------------------------------


def _add(items: ArrayList, value: object) -> object:
    items.append(value)
    return len(items) - 1 if items.tells else NOTHING


def _fixed(_: list[object], *__: object) -> object:
    raise failure("System.NotSupportedException", "Collection was of a fixed size.")


def _quiet(change: Callable[..., object]) -> Method:
    def method(*arguments: object) -> object:
        change(*arguments)
        return NOTHING

    return method


def _remove(items: ArrayList, value: object) -> object:
    found = [at for at, each in enumerate(items) if equal(each, value, cased=True)]
    if found:
        del items[found[0]]
    return NOTHING if items.tells else bool(found)


def _add_key(table: Hashtable, key: object, value: object) -> object:
    if key in table:
        message = f"Item has already been added. Key in dictionary: '{to_text(key)}'  Key being added: '{to_text(key)}'"
        raise failure("System.ArgumentException", message)
    table[key] = value
    return NOTHING


_GROWING: dict[str, Method] = {
    "add": _add,
    "addrange": _quiet(lambda items, more: items.extend(_members(more))),
    "insert": _quiet(lambda items, at, value: items.insert(round(to_number(at)), value)),
    "remove": _remove,
    "removeat": _quiet(lambda items, at: items.pop(round(to_number(at)))),
    "clear": _quiet(lambda items: items.clear()),
    "toarray": list,
}
_LIST: dict[str, Method] = {
    "contains": lambda items, value: any(equal(each, value, cased=True) for each in items),
    "indexof": lambda items, value: next((at for at, each in enumerate(items) if equal(each, value, cased=True)), -1),
    "add": _fixed,
    "remove": _fixed,
}
_TABLE: dict[str, Method] = {
    "add": _add_key,
    "remove": _quiet(lambda table, key: table.__delitem__(key)),
    "containskey": lambda table, key: key in table,
    "contains": lambda table, key: key in table,
    "clear": _quiet(lambda table: table.clear()),
    "getenumerator": lambda table: [Entry(key, value) for key, value in table.pairs()],
}

# --- others ----------------------------------------------------------------------------------------------------------


def _guid_text(value: UUID, form: object = "D") -> object:
    texts = {"d": str(value), "n": value.hex, "b": f"{{{value}}}", "p": f"({value})"}
    if to_text(form).lower() not in texts:
        raise failure("System.FormatException", 'Format String can be only "D", "d", "N", "n", "P", "p", "B" or "b".')
    return texts[to_text(form).lower()]


def _added(unit: str) -> Method:
    return lambda time, count: time + timedelta(**{unit: float(to_number(count))})


_TIME: dict[str, Method] = {
    "touniversaltime": lambda time: time.astimezone(UTC),
    "addseconds": _added("seconds"),
    "addminutes": _added("minutes"),
    "addhours": _added("hours"),
    "adddays": _added("days"),
}


def _base_exception(value: NetException) -> object:
    return _base_exception(value.inner_exception) if value.inner_exception else value


def _type(value: object) -> object:
    return NamedType(type_name(value))


class NamedType:
    """What ``GetType()`` returns."""

    def __init__(self, full_name: str) -> None:
        self.full_name = full_name
        self.name = full_name.rpartition(".")[2]

    def __str__(self) -> str:
        return self.full_name


#: Methods of all values.
_ALL: dict[str, Method] = {
    "tostring": lambda value, *form: formatted(value, to_text(form[0])) if form else to_text(value),
    "gettype": _type,
    "equals": lambda value, other: equal(value, other, cased=True),
}

_METHODS: tuple[tuple[type, dict[str, Method]], ...] = (
    (str, _TEXT),
    (ArrayList, _GROWING),
    (list, _LIST),
    (Hashtable, _TABLE),
    (UUID, {"tostring": _guid_text}),
    (datetime, _TIME),
    (NetException, {"getbaseexception": _base_exception}),
    (ErrorRecord, {}),
    (Version, {"compareto": lambda one, two: (one.numbers() > two.numbers()) - (one.numbers() < two.numbers())}),
    (bool, {}),
    (int, {"compareto": lambda one, two: (one > to_number(two)) - (one < to_number(two))}),
    (float, {}),
    (bytes, {}),
    (timedelta, {}),
    (TypeValue, {}),
)
