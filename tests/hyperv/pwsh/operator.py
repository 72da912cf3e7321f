"""Operators with two operands, and those before one.

Sources: about_Operators, about_Comparison_Operators (a list on the left is filtered),
about_Arithmetic_Operators, about_Join, about_Split, about_Type_Operators. Texts are compared without regard to case
unless the operator's name starts with ``c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import Enum

from tests.hyperv.pwsh.comparison import equal, listed, order
from tests.hyperv.pwsh.conversion import cast, to_bool, to_number, to_text
from tests.hyperv.pwsh.failure import Failure, OutsideSubset, failure, runtime
from tests.hyperv.pwsh.kind import is_of
from tests.hyperv.pwsh.node import TypeName
from tests.hyperv.pwsh.pattern import like, regex, replaced
from tests.hyperv.pwsh.value import Hashtable, TypeValue, is_null

#: From here on doubles print with an exponent, and Windows PowerShell makes doubles of sums beyond 32 bits: until here
#: whole numbers print alike.
_LARGEST = 10**15

_ORDERS: dict[str, Callable[[int], bool]] = {
    "gt": lambda order: order > 0,
    "ge": lambda order: order >= 0,
    "lt": lambda order: order < 0,
    "le": lambda order: order <= 0,
}


def apply(operator: str, left: object, right: object) -> object:
    """Return what an operator makes of its operands; ``-and`` and ``-or`` aren't among them.

    Raises:
        Failure: The operands can't be converted to what it needs.
        OutsideSubset: Operands of these kinds aren't known here.
    """
    if operator in _PLAIN:
        return _PLAIN[operator](left, right)
    cased = operator.startswith("-c") and operator != "-contains"
    name = operator[2:] if cased else operator[1:]
    if name in ("split", "replace"):
        return split(left, right, cased=cased) if name == "split" else replace(left, right, cased=cased)
    if name in ("in", "notin"):
        left, right, name = right, left, "contains" if name == "in" else "notcontains"
    if name in ("contains", "notcontains"):
        return any(equal(item, right, cased=cased) for item in listed(left)) != name.startswith("not")
    return _filtered(left, lambda item: _compared(name, item, right, cased=cased))


def _filtered(left: object, holds: Callable[[object], bool]) -> object:
    """Compare one value; of a list return those for which the comparison holds."""
    if isinstance(left, list | tuple):
        return [item for item in left if holds(item)]
    return holds(left)


def _compared(name: str, left: object, right: object, *, cased: bool) -> bool:
    if name in ("eq", "ne"):
        return equal(left, right, cased=cased) == (name == "eq")
    if name in _ORDERS:
        return _ORDERS[name](order(left, right, cased=cased))
    turned = name.startswith("not")
    if name.removeprefix("not") == "like":
        return like(to_text(left), to_text(right), cased=cased) != turned
    if name.removeprefix("not") == "match":
        return (regex(to_text(right), cased=cased).search(to_text(left)) is not None) != turned
    raise OutsideSubset(f"the operator -{name}")


def _checked(number: float) -> float:
    if isinstance(number, int) and abs(number) >= _LARGEST:
        raise OutsideSubset(f"the whole number {number}: from {_LARGEST} on Windows PowerShell may go to a double")
    return number


def _add(left: object, right: object) -> object:
    if isinstance(left, str):
        return left + to_text(right)
    if isinstance(left, list | tuple):
        return [*left, *(right if isinstance(right, list | tuple) else [right])]
    if isinstance(left, Hashtable):
        if not isinstance(right, Hashtable):
            raise runtime("A hash table can only be added to another hash table.", "AddHashTableToNonHashTable")
        for key, _ in right.pairs():
            if key in left:
                message = f"Item has already been added. Key in dictionary: '{key}'  Key being added: '{key}'"
                raise failure("System.ArgumentException", message)
        return Hashtable([*left.pairs(), *right.pairs()], ordered=left.ordered)
    if is_null(left):
        return right
    if isinstance(left, int | float | Enum):
        return _checked(to_number(left) + to_number(right))
    try:
        return left + right  # type: ignore[operator] # times and durations; others raise
    except TypeError:
        raise _no_operator("op_Addition", left) from None


def _subtract(left: object, right: object) -> object:
    if is_null(left) or isinstance(left, int | float | str | Enum):
        return _checked(to_number(left) - to_number(right))
    try:
        return left - right  # type: ignore[operator] # times and durations; others raise
    except TypeError:
        raise _no_operator("op_Subtraction", left) from None


def _no_operator(name: str, left: object) -> Failure:
    message = f"Method invocation failed because [{type(left).__name__}] does not contain a method named '{name}'."
    return runtime(message, "MethodNotFound")


def _multiply(left: object, right: object) -> object:
    if isinstance(left, str | list):
        return left * int(to_number(right))
    return _checked(to_number(left) * to_number(right))


def _divide(left: object, right: object) -> object:
    number, by = to_number(left), to_number(right)
    if by == 0:
        raise runtime("Attempted to divide by zero.", "RuntimeException", "NotSpecified")
    # Whole numbers give a whole one only where nothing is left over.
    if isinstance(number, int) and isinstance(by, int) and number % by == 0:
        return number // by
    return number / by


def _remainder(left: object, right: object) -> object:
    number, by = to_number(left), to_number(right)
    if by == 0:
        raise runtime("Attempted to divide by zero.", "RuntimeException", "NotSpecified")
    # The sign is that of the left operand, as in C#.
    rest = abs(number) % abs(by)
    return rest if number >= 0 else -rest


def _range(left: object, right: object) -> object:
    first, last = round(to_number(left)), round(to_number(right))
    return list(range(first, last + 1)) if first <= last else list(range(first, last - 1, -1))


def _shifted(combine: Callable[[int, int], int]) -> Callable[[object, object], object]:
    def shift(left: object, right: object) -> object:
        count = round(to_number(right))
        found = combine(round(to_number(left)), count) if 0 <= count < 32 else 1 << 31
        if abs(found) >= 1 << 31:
            # The count is taken modulo the width of the type, which isn't known here.
            raise OutsideSubset("a shift beyond 32 bits")
        return found

    return shift


def _bits(combine: Callable[[int, int], int]) -> Callable[[object, object], object]:
    return lambda left, right: combine(round(to_number(left)), round(to_number(right)))


def _type_of(right: object) -> TypeName:
    if isinstance(right, TypeValue):
        return right.name
    raise OutsideSubset("a type that isn't written as [type] beside -is or -as")


def _as(left: object, right: object) -> object:
    try:
        return cast(_type_of(right), left)
    except Failure:
        return None


def join(items: Iterable[object], separator: str) -> str:
    """Return texts with a separator between them (about_Join)."""
    return separator.join(to_text(item) for item in items)


def split(left: object, right: object, *, cased: bool = False) -> list[object]:
    """Return the pieces between matches of a regular expression (about_Split): ``pattern`` or ``pattern, count``."""
    pattern, *rest = listed(right)
    if len(rest) > 1 or isinstance(pattern, list):
        raise OutsideSubset("-split with more than a pattern and a count")
    count = round(to_number(rest[0])) if rest else 0
    if count < 0:
        raise OutsideSubset("-split with a count below zero, which is of PowerShell 7")
    found = regex(to_text(pattern), cased=cased)
    return [piece for text in listed(left) for piece in found.split(to_text(text), max(count - 1, 0))]


def replace(left: object, right: object, *, cased: bool = False) -> object:
    """Return texts with what matches a regular expression replaced (about_Comparison_Operators)."""
    pattern, *rest = listed(right)
    if len(rest) > 1:
        raise runtime("The -replace operator takes a pattern and a replacement.", "BadReplaceArgument")
    new = to_text(rest[0]) if rest else ""
    texts = [replaced(to_text(text), to_text(pattern), new, cased=cased) for text in listed(left)]
    return texts if isinstance(left, list | tuple) else texts[0]


def unary(operator: str, value: object) -> object:
    """Return what an operator before its one operand makes of it.

    Raises:
        Failure: The operand can't be converted.
    """
    if operator in ("-not", "!"):
        return not to_bool(value)
    if operator in ("-", "+"):
        return -to_number(value) if operator == "-" else to_number(value)
    if operator == ",":
        return [value]
    if operator == "-bnot":
        return ~round(to_number(value))
    if operator == "-join":
        return join(listed(value), "")
    # Before one operand -split cuts at white space.
    return [piece for text in listed(value) for piece in re.split(r"\s+", to_text(text).strip()) if piece]


_PLAIN: dict[str, Callable[[object, object], object]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "%": _remainder,
    "..": _range,
    "-band": _bits(lambda one, two: one & two),
    "-bor": _bits(lambda one, two: one | two),
    "-bxor": _bits(lambda one, two: one ^ two),
    "-shl": _shifted(lambda one, two: one << two),
    "-shr": _shifted(lambda one, two: one >> two),
    "-xor": lambda left, right: to_bool(left) != to_bool(right),
    "-is": lambda left, right: is_of(left, _type_of(right)),
    "-isnot": lambda left, right: not is_of(left, _type_of(right)),
    "-as": _as,
    "-join": lambda left, right: join(listed(left), to_text(right)),
}
