"""How values compare: whether they are equal, and which comes first (about_Comparison_Operators).

The left operand's type decides; the right one is converted to it. Texts are compared without regard to case unless they
are to be.
"""

from __future__ import annotations

from enum import Enum
from uuid import UUID

from tests.hyperv.pwsh.conversion import cast, to_bool, to_number, to_text
from tests.hyperv.pwsh.failure import Failure, runtime
from tests.hyperv.pwsh.node import TypeName
from tests.hyperv.pwsh.value import Version, is_null


def listed(value: object) -> list[object]:
    """Return a list's members, or a single value as a list of one; null is one, too."""
    return list(value) if isinstance(value, list | tuple | bytes) else [value]


def equal(left: object, right: object, *, cased: bool = False) -> bool:
    """Tell whether two values are equal to ``-eq``: the right one is converted to the left one's type first."""
    if is_null(left) or is_null(right):
        return is_null(left) and is_null(right)
    if isinstance(left, bool):
        return left == to_bool(right)
    if isinstance(left, str):
        return _folded(left, cased=cased) == _folded(to_text(right), cased=cased)
    if isinstance(left, Enum):
        return _folded(to_text(left), cased=False) == _folded(to_text(right), cased=False) or left.value == right
    if isinstance(left, UUID):
        return isinstance(right, UUID | str) and str(left) == to_text(right).strip("{}").lower()
    if isinstance(left, int | float):
        return _number_equals(left, right)
    if isinstance(left, Version):
        return left == cast(TypeName("version", 0, (), 0), right)
    return left is right or left == right


def _number_equals(left: float, right: object) -> bool:
    try:
        return left == to_number(right)
    except Failure:
        return False


def _folded(text: str, *, cased: bool) -> str:
    return text if cased else text.casefold()


def sort_key(text: str, *, cased: bool) -> tuple[list[tuple[int, str]], list[bool]]:
    """Return what texts are ordered by: signs, then digits, then letters; small ones before capital ones, where case
    matters and nothing else differs.

    That is the invariant culture's order, but for hyphens and apostrophes, which it all but passes over.
    """
    kinds = [(2 if letter.isalpha() else 1 if letter.isdigit() else 0, letter.casefold()) for letter in text]
    return kinds, [letter.isupper() for letter in text] if cased else []


def order(left: object, right: object, *, cased: bool = False) -> int:
    """Return how two values stand to each other: below zero, zero, above zero.

    Raises:
        Failure: They can't be compared.
    """
    if isinstance(left, str):
        one, two = sort_key(left, cased=cased), sort_key(to_text(right), cased=cased)
        return (one > two) - (one < two)
    if is_null(left) or is_null(right):
        return (not is_null(left)) - (not is_null(right))
    if isinstance(left, Version):
        other = cast(TypeName("version", 0, (), 0), right)
        assert isinstance(other, Version)
        return (left.numbers() > other.numbers()) - (left.numbers() < other.numbers())
    if isinstance(left, int | float | Enum):
        number, against = to_number(left), to_number(right)
        return (number > against) - (number < against)
    try:
        return bool(left > right) - bool(left < right)  # type: ignore[operator] # times with times; others raise
    except TypeError:
        raise runtime(f"Cannot compare {type(left).__name__} with {type(right).__name__}.", "NotIcomparable") from None
