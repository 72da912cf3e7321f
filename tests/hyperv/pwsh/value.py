"""What PowerShell's values are here, where Python has no type that behaves alike.

Texts, numbers, booleans, arrays, GUIDs, times and byte arrays are Python's ``str``, ``int`` and ``float``, ``bool``,
``list``, ``UUID``, ``datetime`` and ``timedelta``, ``bytes``; an enumeration's value is an ``Enum`` whose names are
PowerShell's. What commands return is any Python object: its public attributes are its properties, ``hard_drives`` for
``HardDrives``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tests.hyperv.pwsh.node import Body, TypeName


class _Nothing(Enum):
    """What a command leaves that wrote nothing: null to everything but a pipeline (about_Automatic_Variables)."""

    NOTHING = "nothing"


#: AutomationNull.
NOTHING: Final = _Nothing.NOTHING


class ArrayList(list[object]):
    """A list that grows in place.

    Attributes:
        tells: Its ``Add`` returns the new index, as System.Collections.ArrayList's does: an output of the function that
            calls it, unless it is taken away. That of a generic List returns nothing.
    """

    def __init__(self, items: Iterable[object] = (), *, tells: bool) -> None:
        super().__init__(items)
        self.tells = tells


class Table:
    """Names with values, in which case doesn't matter; what Hashtable and PSObject have in common."""

    def __init__(self, pairs: Iterable[tuple[object, object]] = ()) -> None:
        self._pairs: dict[object, tuple[object, object]] = {}
        for key, value in pairs:
            self[key] = value

    @staticmethod
    def _folded(key: object) -> object:
        return key.lower() if isinstance(key, str) else key

    def __getitem__(self, key: object) -> object:
        return self._pairs[self._folded(key)][1]

    def __setitem__(self, key: object, value: object) -> None:
        folded = self._folded(key)
        first = self._pairs[folded][0] if folded in self._pairs else key
        self._pairs[folded] = (first, value)

    def __delitem__(self, key: object) -> None:
        self._pairs.pop(self._folded(key), None)

    def __contains__(self, key: object) -> bool:
        return self._folded(key) in self._pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def get(self, key: object, default: object = None) -> object:
        """Return a value, or the default where there is none of that name."""
        return self[key] if key in self else default  # noqa: SIM401 - this is what that would call

    def pairs(self) -> list[tuple[object, object]]:
        """Return names and values in their order."""
        return list(self._pairs.values())

    def clear(self) -> None:
        """Take everything out."""
        self._pairs.clear()


class Hashtable(Table):
    """``@{}`` and ``[ordered] @{}``.

    Attributes:
        ordered: It keeps its order. One that doesn't has an order of its own, that of its keys' checksums, so that a
            script that relies on an order is found out (about_Hash_Tables: "in a random order").
    """

    def __init__(self, pairs: Iterable[tuple[object, object]] = (), *, ordered: bool = False) -> None:
        super().__init__(pairs)
        self.ordered = ordered

    def pairs(self) -> list[tuple[object, object]]:
        """Return keys and values as an enumeration yields them."""
        found = super().pairs()
        return found if self.ordered else sorted(found, key=lambda pair: zlib.crc32(str(pair[0]).lower().encode()))


class PSObject(Table):
    """A ``[pscustomobject]``: properties with names, in their order."""

    @classmethod
    def of(cls, **properties: object) -> PSObject:
        """Return an object with these properties; for what commands return."""
        return cls(properties.items())


class FileText(str):
    """A text of Get-Content, which carries the file's path with it; plain again after whatever is done with it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What enumerating a hashtable yields: ``.Key`` and ``.Value``; likewise ``.Name``."""

    key: object
    value: object

    @property
    def name(self) -> object:
        """An alias of the key, of PowerShell's."""
        return self.key


@dataclass(frozen=True, slots=True)
class TypeValue:
    """A type as a value."""

    name: TypeName


@dataclass(frozen=True, slots=True)
class ScriptBlock:
    """A block that can be called; it sees the variables of where it is called from (about_Scopes)."""

    body: Body


@dataclass(frozen=True, slots=True)
class Version:
    """``System.Version``."""

    major: int
    minor: int
    build: int = -1
    revision: int = -1

    def numbers(self) -> tuple[int, int, int, int]:
        """Return its parts, -1 for one that isn't there."""
        return self.major, self.minor, self.build, self.revision

    def __str__(self) -> str:
        return ".".join(str(part) for part in self.numbers() if part >= 0)


def is_null(value: object) -> bool:
    """Tell whether a value is ``$null``, or nothing at all."""
    return value is None or value is NOTHING


def written(value: object) -> Iterator[object]:
    """Yield what a value becomes in a pipeline: the members of a list, but not those of a text or a hashtable.

    See about_Pipelines, "Investigating pipeline errors" and "One-at-a-time processing".
    """
    if value is NOTHING:
        return
    if isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, bytes | bytearray):
        yield from list(value)
    else:
        yield value


def gathered(items: list[object]) -> object:
    """Return what an expression takes of a pipeline's output: nothing, the one object, or an array of them."""
    if not items:
        return NOTHING
    return items[0] if len(items) == 1 else items


def public(value: object) -> dict[str, str]:
    """Return a Python object's public attributes by their names without case and underscores."""
    names = [name for name in dir(value) if not name.startswith("_")]
    return {name.replace("_", "").lower(): name for name in names}
