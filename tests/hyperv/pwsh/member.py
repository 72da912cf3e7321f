"""Properties of values, and what an index gives.

Sources: about_Properties (``Count`` and ``Length`` of a single object; what a list's members have), about_Member-Access
Enumeration, about_Hash_Tables (a key as a property), about_Arrays (negative indexes; null beyond the end),
Set-StrictMode (what version 2 takes for an error).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

from tests.hyperv.pwsh.conversion import to_number, to_text
from tests.hyperv.pwsh.failure import (
    Category,
    ErrorRecord,
    Invocation,
    NetException,
    OutsideSubset,
    failure,
    missing_property,
    runtime,
)
from tests.hyperv.pwsh.kind import type_name
from tests.hyperv.pwsh.value import (
    NOTHING,
    Hashtable,
    PSObject,
    ScriptBlock,
    Table,
    TypeValue,
    gathered,
    is_null,
    public,
)

#: Properties of what is no plain Python object, by names in small letters.
_PROPERTIES: tuple[tuple[type, dict[str, Callable[..., object]]], ...] = (
    (str, {"length": len}),
    (bytes, {"length": len, "count": len}),
    (list, {"count": len, "length": len, "rank": lambda _: 1}),
    (
        Hashtable,
        {
            "count": len,
            "keys": lambda table: [key for key, _ in table.pairs()],
            "values": lambda table: [value for _, value in table.pairs()],
        },
    ),
    (UUID, {"guid": str}),
    (
        timedelta,
        {
            "totalseconds": lambda span: span.total_seconds(),
            "totalmilliseconds": lambda span: span.total_seconds() * 1000,
            "totalminutes": lambda span: span.total_seconds() / 60,
            "totalhours": lambda span: span.total_seconds() / 3600,
            "totaldays": lambda span: span.total_seconds() / 86400,
            "days": lambda span: span.days,
            "seconds": lambda span: span.seconds % 60,
        },
    ),
    (datetime, {name: operator.attrgetter(name) for name in ("year", "month", "day", "hour", "minute", "second")}),
    (TypeValue, {"name": lambda value: value.name.name.rpartition(".")[2], "fullname": lambda value: value.name.name}),
    (Enum, {"value__": lambda value: value.value}),
    (ScriptBlock, {}),
    (bool, {"ispresent": bool}),
    (int, {}),
    (float, {}),
)

#: Types of .NET with more properties than are listed here: one that isn't listed is no property that isn't there.
_PARTLY = (UUID, timedelta, datetime, TypeValue, Enum, ErrorRecord, NetException, Category, Invocation)


class Properties:
    """``$object.PSObject``: an object seen through its properties."""

    def __init__(self, target: object) -> None:
        pairs = target.pairs() if isinstance(target, PSObject) else _attributes(target)
        self.properties = [PSObject([("Name", name), ("Value", value)]) for name, value in pairs]


def _attributes(target: object) -> list[tuple[object, object]]:
    if target is None or any(isinstance(target, kind) for kind, _ in _PROPERTIES):
        raise OutsideSubset("PSObject of a value that is no object with properties")
    return [(name, getattr(target, name)) for name in public(target).values() if not callable(getattr(target, name))]


def property_of(value: object, name: str) -> object:
    """Return a property of a value; NOTHING where it has none of that name."""
    wanted = name.lower()
    if wanted == "psobject" and not is_null(value):
        return Properties(value)
    if isinstance(value, PSObject):
        return value.get(name, NOTHING)
    if isinstance(value, Hashtable) and name in value:
        return value[name]
    for kind, properties in _PROPERTIES:
        if isinstance(value, kind):
            if wanted not in properties and isinstance(value, _PARTLY):
                raise OutsideSubset(f"the property {name} of a {type_name(value)}")
            return properties[wanted](value) if wanted in properties else NOTHING
    if is_null(value):
        return NOTHING
    if isinstance(value, _PARTLY) and wanted not in public(value):
        raise OutsideSubset(f"the property {name} of {type(value).__name__}")
    found = getattr(value, public(value).get(wanted, ""), NOTHING)
    return NOTHING if callable(found) else list(found) if isinstance(found, tuple) else found


def get(value: object, name: str, *, strict: int) -> object:
    """Return what ``value.name`` gives: of a list without such a property, what its members have.

    Raises:
        Failure: There is none, in strict mode.
    """
    found = property_of(value, name)
    if found is not NOTHING:
        return found
    if isinstance(value, list):
        return _of_members(value, name, strict=strict)
    # A [pscustomobject] has neither in Windows PowerShell (about_PSCustomObject, "Notes").
    if name.lower() in ("count", "length") and not strict and not isinstance(value, PSObject):
        return 0 if is_null(value) else 1
    if strict >= 2 or (strict and is_null(value)):
        raise missing_property(name)
    return None


def _of_members(value: list[object], name: str, *, strict: int) -> object:
    if name.lower() == "psobject":
        raise OutsideSubset("PSObject of a list")
    found = [each for item in value for each in [property_of(item, name)] if each is not NOTHING]
    if strict >= 2 and not found:
        raise missing_property(name)
    flat = [inner for each in found for inner in (each if isinstance(each, list) else [each])]
    return None if not flat else gathered(flat)


def put(value: object, name: str, new: object) -> None:
    """Set a property.

    Raises:
        Failure: There is none of that name, or the object has none that can be set.
    """
    if isinstance(value, Hashtable) or (isinstance(value, PSObject) and name in value):
        value[name] = new
        return
    plain = public(value).get(name.lower())
    if plain is None or is_null(value) or isinstance(value, str | int | float | list | Table):
        message = f"The property '{name}' cannot be found on this object."
        raise runtime(f"{message} Verify that the property exists and can be set.", "PropertyNotFound")
    setattr(value, plain, new)


def index(value: object, key: object, *, strict: int) -> object:
    """Return what ``value[key]`` gives.

    Raises:
        Failure: The value is null, or has no such member in strict mode 3.
        OutsideSubset: Values of this kind have no index here.
    """
    if isinstance(value, Hashtable):
        if isinstance(key, list):
            return [value.get(each) for each in key]
        return value.get(key)
    if is_null(value):
        raise runtime("Cannot index into a null array.", "NullArray")
    if isinstance(value, list | str | bytes):
        if isinstance(key, list):
            return [found for each in key for found in [_at(value, each, strict)] if not is_null(found)]
        if isinstance(key, str) and isinstance(value, list) and _named(value):
            return next((each for each in value if to_text(property_of(each, "name")).lower() == key.lower()), None)
        return _at(value, key, strict)
    raise OutsideSubset(f"an index of a {type_name(value)}")


def _named(value: list[object]) -> bool:
    """Tell whether a list is that of an object's properties, which are found by their names."""
    return bool(value) and all(isinstance(each, PSObject) and "Name" in each and len(each) == 2 for each in value)


def _at(value: list[object] | str | bytes, key: object, strict: int) -> object:
    at = round(to_number(key))
    if -len(value) <= at < len(value):
        return value[at]
    if strict >= 3:
        raise failure("System.IndexOutOfRangeException", "Index was outside the bounds of the array.")
    return None


def put_index(value: object, key: object, new: object) -> None:
    """Set what ``value[key]`` gives.

    Raises:
        Failure: There is no such place.
    """
    if isinstance(value, Hashtable):
        value[key] = new
        return
    if not isinstance(value, list):
        raise runtime("Cannot index into a null array.", "NullArray")
    at = round(to_number(key))
    if not -len(value) <= at < len(value):
        raise failure("System.IndexOutOfRangeException", "Index was outside the bounds of the array.")
    value[at] = new
