"""ConvertTo-Json and ConvertFrom-Json as Windows PowerShell 5.1 has them, with their traps.

Sources: Microsoft's reference of Microsoft.PowerShell.Utility, and what PowerShell's issues tell of 5.1:

- beyond ``-Depth``, 2 unless it is given, objects become texts, and nothing warns of it (8393, 9266);
- an array of one object that comes through the pipeline is written as the object (11857);
- an array that is read goes through the pipeline as one object (3424), and is written from there as an object with
  ``value`` and ``Count`` (3153);
- null is written as nothing at all where it is the whole input (10942), and what a command without output leaves as
  ``{}`` (9231);
- an enumeration's value is written as its number; ``<``, ``>``, ``&`` and ``'`` are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from uuid import UUID

from tests.hyperv.pwsh.binding import Bound
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.context import Context, Out
from tests.hyperv.pwsh.conversion import to_number, to_text
from tests.hyperv.pwsh.failure import OutsideSubset, failure
from tests.hyperv.pwsh.stage import function, stage
from tests.hyperv.pwsh.value import NOTHING, FileText, Hashtable, PSObject, TypeValue, Version, is_null, public

#: How deep objects are written where nothing is said.
_DEPTH = 2

#: Objects that the reader takes for one, in characters (MaxJsonLength of JavaScriptSerializer, which 5.1 uses).
_LONGEST = 2_097_152


@stage("ConvertTo-Json", "InputObject object 0 pipeline", "Depth int", "Compress switch")
class _ToJson:
    def __init__(self, bound: Bound, context: Context, out: Out, piped: bool) -> None:
        self._bound, self._out, self._piped = bound, out, piped
        self._items: list[object] = []

    def process(self, item: object) -> None:
        self._items.append(item)

    def finish(self) -> None:
        arguments = self._bound.arguments
        value: object = [item for item in self._items if not is_null(item)]
        if not self._piped:
            value = arguments.get("InputObject")
        elif len(self._items) == 1:
            value = self._items[0]
            if isinstance(value, list):
                raise OutsideSubset("an array as one object of the pipeline: 5.1 makes value and Count of it")
        if is_null(value) or (self._piped and value == []):
            # 5.1 writes nothing for null.
            return
        depth = round(to_number(arguments["Depth"])) if "Depth" in arguments else _DEPTH
        plain = _plain(value, depth)
        compress = "Compress" in arguments
        separators = (",", ":" if compress else ":  ")
        text = json.dumps(plain, ensure_ascii=False, indent=None if compress else 4, separators=separators)
        self._out(re.sub("[<>&']", lambda match: f"\\u{ord(match[0]):04x}", text))


def _plain(value: object, depth: int) -> object:
    """Return what the serialiser makes of a value; beyond the depth it is its text."""
    if value is None:
        return None
    if value is NOTHING:
        return {}
    for kind, convert in _SCALARS:
        if isinstance(value, kind):
            return convert(value)
    if depth < 0:
        return _flat(value)
    if isinstance(value, list):
        return [_plain(item, depth - 1) for item in value]
    return {to_text(name): _plain(each, depth - 1) for name, each in _members(value)}


def _file_text(value: FileText) -> object:
    what = f"the text {value[:20]!r} of Get-Content as JSON: 5.1 writes its PSPath and the like, too"
    raise OutsideSubset(f"{what}; read it with File.ReadAllText")


#: What is written whatever the depth; the first kind that fits.
_SCALARS: tuple[tuple[type, Callable[..., object]], ...] = (
    (FileText, _file_text),
    (str, str),
    (Enum, lambda value: value.value if isinstance(value.value, int) else to_text(value)),
    (bool, bool),
    (int, int),
    (float, lambda value: int(value) if value.is_integer() else value),
    (UUID, str),
    (datetime, lambda value: f"/Date({round(value.timestamp() * 1000)})/"),
    (bytes, list),
)


def _flat(value: object) -> str:
    if isinstance(value, list | Hashtable | PSObject):
        return to_text(value)
    return to_text(value) if type(value).__str__ is not object.__str__ else type(value).__name__


def _members(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Hashtable | PSObject):
        yield from value.pairs()
    elif isinstance(value, Version):
        yield from zip(("Major", "Minor", "Build", "Revision"), value.numbers(), strict=True)
    elif isinstance(value, TypeValue):
        raise OutsideSubset("a type as JSON")
    else:
        attributes = public(value).values()
        yield from ((_cased(name), getattr(value, name)) for name in attributes if not callable(getattr(value, name)))


def _cased(name: str) -> str:
    """Return a Python attribute's name as PowerShell writes it: HardDrives for hard_drives."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


@function("ConvertFrom-Json", "InputObject string 0 mandatory pipeline")
def _from_json(call: Call, _: Context) -> object:
    text = to_text(call["InputObject"])
    if len(text) > _LONGEST:
        raise _bad("The length of the string exceeds the value set on the maxJsonLength property.")
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except ValueError:
        raise _bad(f"Invalid JSON primitive: {text[:40]}.") from None
    value = _objects(found)
    # 5.1 writes an array as one object, and not its members.
    return [value] if isinstance(value, list) else value


def _no_constant(word: str) -> object:
    raise ValueError(word)


def _bad(message: str) -> Exception:
    identity = "System.ArgumentException,Microsoft.PowerShell.Commands.ConvertFromJsonCommand"
    return failure("System.ArgumentException", message, identity)


def _objects(value: object) -> object:
    if isinstance(value, dict):
        names = [name.lower() for name in value]
        if len(set(names)) < len(names) or "" in names:
            raise _bad("Cannot convert the JSON string because a dictionary in it has the same key twice.")
        return PSObject((name, _objects(each)) for name, each in value.items())
    if isinstance(value, list):
        return [_objects(each) for each in value]
    if isinstance(value, str):
        dated = re.fullmatch(r"/Date\((-?\d+)\)/", value)
        if dated:
            raise OutsideSubset("a time in JSON, which 5.1 reads as a DateTime: write it as a text of another form")
    return value
