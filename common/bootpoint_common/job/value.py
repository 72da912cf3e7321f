"""Readers of single values of a job file; each returns the value or raises `BadValue` with the allowed forms."""

from __future__ import annotations

import enum
import re
import zoneinfo
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from bootpoint_common import units
from bootpoint_common.errors import Code
from bootpoint_common.job.schedule import DAY_MINUTES, LAST_DAY
from bootpoint_common.job.table import BadValue, shown
from bootpoint_common.near import did_you_mean, nearest

E = TypeVar("E", bound=enum.StrEnum)

#: Longest duration, in seconds: ten years; a longer one is a slip.
LONGEST = 3650 * 86400.0

#: Days of the week as the job file names them; Monday is 0.
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_CLOCK = re.compile(r"(\d\d):(\d\d)")
_DISK_ID = re.compile(r"serial:\S(?:.*\S)?|wwn:[0-9A-Za-z.\-]{8,}|path:\S+|file:/\S(?:.*\S)?")

#: Schemes of a disk's id.
_DISK_SCHEMES = ("serial:", "wwn:", "path:", "file:")

_NO_ZONES = ("localtime", "posixrules", "Factory", "posix/", "right/")


def text(value: object) -> str:
    """Read a text of one line that isn't empty."""
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)!r} must be a text in quotes")
    if not value or value != value.strip() or not value.isprintable():
        raise BadValue(f"{shown(value)!r} must be one line of text without spaces around it")
    return value


def argument(value: object) -> str:
    """Read a program's argument: any text that the operating system takes."""
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)!r} must be a text in quotes")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise BadValue("holds a character that no argument can hold")
    return value


def matching(pattern: str, form: str) -> Callable[[object], str]:
    """Make a reader of texts that match ``pattern`` as a whole; ``form`` says it in words."""
    expression = re.compile(pattern, re.ASCII)

    def read(value: object) -> str:
        if not isinstance(value, str) or expression.fullmatch(value) is None:
            raise BadValue(f"{shown(value)!r} is not {form}")
        return value

    return read


def member(kind: type[E]) -> Callable[[object], E]:
    """Make a reader of one of the members of an enumeration."""
    one_of = choice([option.value for option in kind])
    return lambda value: kind(one_of(value))


def choice(options: Sequence[str]) -> Callable[[object], str]:
    """Make a reader of one of some texts."""

    def read(value: object) -> str:
        if value not in options:
            listed = ", ".join(f"{option!r}" for option in options)
            near = nearest(value, options)
            raise BadValue(
                f"{shown(value)!r} is none of {listed}{did_you_mean(value, options)}",
                hint=f'write "{near}"' if near else f"write one of {listed}",
            )
        return str(value)

    return read


def boolean(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise BadValue(f"{shown(value)!r} must be true or false, without quotes")
    return value


def integer(lowest: int, highest: int) -> Callable[[object], int]:
    """Make a reader of whole numbers from ``lowest`` to ``highest``."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise BadValue(f"{shown(value)!r} must be a whole number from {lowest} to {highest}")
        return value

    return read


def size(lowest: int, highest: int) -> Callable[[object], int]:
    """Make a reader of sizes such as ``"16GiB"``, in bytes."""

    def read(value: object) -> int:
        if not isinstance(value, str):
            raise BadValue(f'{shown(value)!r} must be a size in quotes, such as "16GiB"')
        found = units.parse_size(value)
        if not lowest <= found <= highest:
            raise BadValue(f"{shown(value)!r} must lie between {size_text(lowest)} and {size_text(highest)}")
        return found

    return read


def duration(lowest: float, highest: float = LONGEST) -> Callable[[object], float]:
    """Make a reader of durations such as ``"30m"``, in seconds, exact to the millisecond."""

    def read(value: object) -> float:
        if not isinstance(value, str):
            raise BadValue(f'{shown(value)!r} must be a duration in quotes, such as "30m"')
        found = round(units.parse_duration(value), 3)
        if not lowest <= found <= highest:
            raise BadValue(f"{shown(value)!r} must lie between {duration_text(lowest)} and {duration_text(highest)}")
        return found

    return read


def interval(value: object) -> float | None:
    """Read how often a check is made: a duration, or ``"never"``."""
    if value == "never":
        return None
    try:
        return duration(60.0)(value)
    except ValueError as problem:
        text = f"{problem}, or 'never'{did_you_mean(value, ['never'])}"
        raise BadValue(text, hint='write a duration such as "7d", or "never"') from problem


def size_text(value: int) -> str:
    """Write a size exactly, such as ``"16GiB"``."""
    for name, unit in (("TiB", units.TiB), ("GiB", units.GiB), ("MiB", units.MiB), ("KiB", units.KiB)):
        if value and value % unit == 0:
            return f"{value // unit}{name}"
    return f"{value}B"


def duration_text(seconds: float) -> str:
    """Write a duration exactly, such as ``"30m"``."""
    for name, unit in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % unit == 0:
            return f"{int(seconds // unit)}{name}"
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds!r}s"


def instant(value: object) -> datetime:
    """Read a date and time of the job's time zone: no offset, whole seconds."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if len(value) >= len("2026-12-01T00:00") else None
        except ValueError:
            value = None
    if not isinstance(value, datetime) or value.microsecond:
        raise BadValue("must be a date with a time, such as 2026-12-01T22:00:00")
    if value.tzinfo is not None:
        raise BadValue("must have no offset: instants are local to time_zone", hint="remove the Z or the offset")
    return value


def period(value: object) -> tuple[datetime, datetime]:
    """Read two instants, the first earlier."""
    if not isinstance(value, list) or len(value) != 2:
        raise BadValue("must be two instants: [from, to]")
    start, end = instant(value[0]), instant(value[1])
    if start >= end:
        raise BadValue(f"must end after it begins: {start} is not before {end}")
    return start, end


def clock(value: object) -> int:
    """Read a time of day such as ``"07:00"``, in minutes since midnight; ``"24:00"`` is the day's end."""
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[2]) > 59 or int(match[1]) * 60 + int(match[2]) > DAY_MINUTES:
        raise BadValue(f'{shown(value)!r} is no time of day: write HH:MM, such as "07:00"')
    return int(match[1]) * 60 + int(match[2])


def clock_text(minutes: int) -> str:
    """Write a time of day."""
    return f"{minutes // 60:02}:{minutes % 60:02}"


def month_day(value: object) -> int:
    """Read a day of the month: 1 to 31, or ``"last"``."""
    if value == "last":
        return LAST_DAY
    if isinstance(value, str):
        text = f"{shown(value)!r} is no day of the month: 1 to 31 without quotes, or 'last'"
        raise BadValue(text + did_you_mean(value, ["last"]), hint='write a number from 1 to 31, or "last"')
    return integer(1, 31)(value)


def weekday(value: object) -> int:
    """Read a day of the week; Monday is 0."""
    return WEEKDAYS.index(choice(WEEKDAYS)(value))


def time_zone(value: object) -> str:
    """Read the name of a time zone in the IANA database."""
    name = text(value)
    try:
        if name.startswith(_NO_ZONES):
            raise KeyError(name)
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # a directory of the database ("Europe") is an OSError
        raise _no_zone(name) from None
    return name


def _no_zone(name: str) -> BadValue:
    near = nearest(name, zoneinfo.available_timezones())
    way = f'write "{near}"' if near else 'write it as in "Europe/Rome"'
    text = f"{shown(name)!r} is no time zone of the IANA database" + (f"; did you mean {near!r}?" if near else "")
    return BadValue(text, hint=way)


def disk_id(value: object) -> str:
    """Read what names a disk for good."""
    found = text(value)
    if _DISK_ID.fullmatch(found) is None or "/../" in f"{found}/":
        scheme, colon, _ = found.partition(":")
        near = did_you_mean(scheme + colon, _DISK_SCHEMES) if colon and scheme + colon not in _DISK_SCHEMES else ""
        raise BadValue(
            f"{shown(value)!r} names no disk; the forms are serial:…, wwn:…, path:… and file:/absolute/path{near}",
            hint="`bootpoint disk list AGENT` shows the ids",
        )
    return found


def absolute_path(value: object) -> str:
    """Read an absolute path."""
    found = text(value)
    if not found.startswith("/") or ".." in found.split("/"):
        raise BadValue(f"{shown(found)!r} is no absolute path")
    return found


def secret_path(value: object) -> str:
    """Read the path of a file with a secret; what isn't a path may be the secret itself, and is never shown."""
    try:
        return absolute_path(value)
    except BadValue:
        raise BadValue(
            "must be the absolute path of a file that holds the secret, never the secret itself",
            hint="put the secret into a file that only bootpoint may read, and write that file's path",
            code=Code.SECRET_IN_SPEC,
            hide=True,
        ) from None


def relative_folder(value: object) -> str:
    """Read a folder below a storage; empty for the storage itself."""
    if value == "":
        return ""
    found = text(value)
    if found.startswith("/") or any(part in ("", ".", "..") for part in found.split("/")):
        raise BadValue(f"{shown(found)!r} must be a folder below the storage, without a leading / and without ..")
    return found
