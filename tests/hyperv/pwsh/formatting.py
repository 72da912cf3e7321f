"""Formats of numbers and times: ``-f`` and ``ToString(format)``.

Sources: about_Operators ("Format operator"), .NET's "Composite formatting", "Standard numeric format strings" and
    "Custom date
and time format strings"; of those the few that are listed here.
"""

from __future__ import annotations

import re
from datetime import datetime
from uuid import UUID

from tests.hyperv.pwsh.conversion import to_text
from tests.hyperv.pwsh.failure import OutsideSubset, failure

_ITEM = re.compile(r"\{\{|\}\}|\{(\d+)(?:,(-?\d+))?(?::([^{}]*))?\}")

#: Letters of custom formats of times, and what they are to strftime.
_TIME_PARTS = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def composed(template: str, values: list[object]) -> str:
    """Return what ``template -f values`` makes.

    Raises:
        Failure: There is no such value.
    """

    def item(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if int(match[1]) >= len(values):
            message = (
                "Error formatting a string: Index (zero based) must be greater than or equal to zero and less than the "
                "size of the argument list.."
            )
            raise failure("System.FormatException", message, "FormatError", "InvalidOperation")
        value = values[int(match[1])]
        text = formatted(value, match[3]) if match[3] else to_text(value)
        width = int(match[2] or 0)
        return text.ljust(-width) if width < 0 else text.rjust(width)

    if re.search(r"[{}]", _ITEM.sub("", template)):
        message = "Error formatting a string: Input string was not in a correct format.."
        raise failure("System.FormatException", message, "FormatError", "InvalidOperation")
    return _ITEM.sub(item, template)


def formatted(value: object, form: str) -> str:
    """Return a value in a format of .NET's.

    Raises:
        OutsideSubset: The format isn't known here.
    """
    if isinstance(value, datetime):
        return _time(value, form)
    if isinstance(value, UUID) and form.upper() in ("D", "N"):
        return value.hex if form.upper() == "N" else str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, form)
    if isinstance(value, str):
        return value
    raise OutsideSubset(f"the format {form!r} of a {type(value).__name__}")


def _number(value: float, form: str) -> str:
    match = re.fullmatch(r"([DdXxNnFfGg])(\d{0,2})", form)
    if match is None:
        if re.fullmatch(r"0+", form) and isinstance(value, int):
            return f"{value:0{len(form)}d}"
        raise OutsideSubset(f"the format {form!r} of a number")
    kind, digits = match[1], int(match[2] or 0)
    if kind in "DdXx":
        if not isinstance(value, int):
            raise failure("System.FormatException", "Format specifier was invalid.", "FormatError", "InvalidOperation")
        if kind in "Xx":
            return f"{value:0{digits}{kind}}"
        return f"{value:0{digits}d}"
    if kind in "Gg":
        return to_text(value)
    places = digits if match[2] else 2
    return f"{value:,.{places}f}" if kind in "Nn" else f"{value:.{places}f}"


def _time(value: datetime, form: str) -> str:
    if form == "o":
        zone = value.isoformat()[-6:].replace("+00:00", "Z") if value.tzinfo else ""
        return f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond * 10:07}{zone}"
    if form == "s":
        return f"{value:%Y-%m-%dT%H:%M:%S}"
    if form == "u":
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    left = re.sub(r"'[^']*'|yyyy|MM|dd|HH|mm|ss|[-_:/. TZ]", "", form)
    if left or len(form) == 1:
        raise OutsideSubset(f"the format {form!r} of a time")
    return re.sub(
        r"'([^']*)'|yyyy|MM|dd|HH|mm|ss",
        lambda match: value.strftime(_TIME_PARTS[match[0]]) if match[0] in _TIME_PARTS else match[1],
        form,
    )
