"""The nearest known name: what somebody who slipped most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Shortest text that is taken for the beginning of a name: "thursday" means "thu", and "t" could mean anything.
_BEGINNING = 3


def nearest(value: object, known: Iterable[str]) -> str | None:
    """Return the name that is nearest to a wrong one, whatever its case; None where none is near.

    Names that are the beginning of the other come first, then those that difflib finds alike.
    """
    if not isinstance(value, str):
        return None
    names = {name.casefold(): name for name in sorted(known, reverse=True)}
    wrong = value.strip().casefold()
    if wrong in names:
        return names[wrong]
    for name in sorted(names, key=len, reverse=True):
        shorter = min(len(name), len(wrong))
        if shorter >= _BEGINNING and name[:shorter] == wrong[:shorter]:
            return names[name]
    found = difflib.get_close_matches(wrong, names, n=1)
    return names[found[0]] if found else None


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return the end of a message: ``; did you mean 'Europe/Rome'?``, or nothing where no name is near."""
    name = nearest(value, known)
    return "" if name is None else f"; did you mean {name!r}?"
