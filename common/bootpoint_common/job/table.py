"""Reading tables with every error reported: the machinery below the job file and the agent's configuration.

A `Table` hands out values by key, notes what is wrong under the key's full path, and goes on with a default,
so that a user meets all errors of a file at once. `Problems.close` raises them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import TypeVar

from bootpoint_common.errors import BootpointError, Code, UsageError, error, together
from bootpoint_common.near import nearest

T = TypeVar("T")

#: Names of keys that would hold a secret in clear.
_SECRET_KEY = re.compile(r"(?:.*_)?(?:pass|password|passwd|passphrase|secret|token|api_?key|private_key|credentials?)")

#: What stands before the host in a URL: a name, a password, or a token alone.
_URL_LOGIN = re.compile(r"://[^/@\s]*@")

#: Characters of a wrong value that a message repeats.
_SHOWN = 80


class BadValue(ValueError):  # noqa: N818 - the value is at fault
    """A value that can't be taken.

    Args:
        message: What is wrong with it, without the key.
        hint: The way out.
        code: The code, by default `Code.SPEC_INVALID`.
        hide: Whether the value may not be repeated, because it could be a secret.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, code: Code = Code.SPEC_INVALID, hide: bool = False
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
        self.hide = hide


class SpecError(UsageError):
    """A file with errors; code, key, value and hint are those of the first.

    Args:
        problems: Every error in the file, at least one.
    """

    def __init__(self, problems: list[BootpointError]) -> None:
        whole = together(problems)
        super().__init__(whole.code, whole.message, key=whole.key, value=whole.value, hint=whole.hint, job=whole.job)
        self.problems = tuple(problems)


class Problems:
    """Collects what is wrong with one file.

    Args:
        origin: What the messages call the file.
        hint: The way out where a problem names no other.
    """

    def __init__(self, origin: str, *, hint: str | None = None) -> None:
        self._origin = origin
        self._hint = hint
        self._found: list[BootpointError] = []

    def add(self, path: str, problem: ValueError, value: object = None) -> None:
        """Note a problem; ``path`` is the key's, empty for the whole file."""
        code, hint, hide = Code.SPEC_INVALID, self._hint, False
        if isinstance(problem, BadValue):
            code, hint, hide = problem.code, problem.hint or self._hint, problem.hide
        place = f"{self._origin}: {path}" if path else self._origin
        shown_value = None if hide else shown(value)
        self._found.append(error(code, f"{place}: {problem}", key=path or None, value=shown_value, hint=hint))

    def close(self) -> None:
        """Raise what was found.

        Raises:
            SpecError: There were problems.
        """
        if self._found:
            raise SpecError(self._found)


class Table:
    """One table of a file; every key that is asked for is known, and `end` reports all others.

    Args:
        values: The table; null counts as absent.
        path: Its key path, empty for the file itself.
        problems: Where problems go.
    """

    def __init__(self, values: Mapping[str, object], path: str, problems: Problems) -> None:
        self._values = values
        self._path = path
        self._problems = problems
        self._known: set[str] = set()

    def key(self, name: str) -> str:
        """Return the full path of a key."""
        return f"{self._path}.{name}" if self._path else name

    def has(self, name: str) -> bool:
        """Say whether a key is given."""
        self._known.add(name)
        return self._values.get(name) is not None

    def take(self, name: str, read: Callable[[object], T], default: T) -> T:
        """Read a value; a problem is noted and answered with the default."""
        if not self.has(name):
            return default
        value = self._values[name]
        try:
            return read(value)
        except ValueError as problem:
            self._problems.add(self.key(name), problem, value)
            return default

    def require(self, name: str, read: Callable[[object], T], stand_in: T) -> T:
        """Read a value that must be there; the stand-in lets the reading go on where it isn't."""
        if not self.has(name):
            self.problem(name, "is missing", hint=f"add {self.key(name)}")
        return self.take(name, read, stand_in)

    def table(self, name: str) -> Table:
        """Return a table below this one; an empty one where it is absent."""
        values: Mapping[str, object] = self.take(name, _table, {})
        return Table(values, self.key(name), self._problems)

    def tables(self, name: str) -> list[Table]:
        """Return a list of tables; empty where it is absent."""
        found: list[Table] = []
        entries: list[object] = self.take(name, _list, [])
        for number, values in enumerate(entries):
            path = f"{self.key(name)}[{number}]"
            try:
                found.append(Table(_table(values), path, self._problems))
            except ValueError as problem:
                self._problems.add(path, problem, values)
        return found

    def items(
        self, name: str, read: Callable[[object], T], *, filled: bool = True, unique: bool = True
    ) -> tuple[T, ...]:
        """Read a list item by item: with at least one if it must be ``filled``, without doubles if ``unique``."""
        values: list[object] = self.take(name, _list, [])
        items: list[T] = []
        for number, value in enumerate(values):
            path = f"{self.key(name)}[{number}]"
            try:
                item = read(value)
                if unique and item in items:
                    raise BadValue(f"{shown(value)!r} stands there twice", hint="remove one of them")
                items.append(item)
            except ValueError as problem:
                self._problems.add(path, problem, value)
        if filled and not values and self.has(name):
            self.problem(name, "the list is empty", hint="name at least one, or leave the key out")
        return tuple(items)

    def problem(self, name: str, message: str, *, hint: str | None = None, value: object = None) -> None:
        """Note a problem with a key; with an empty name, of the table. Unless a value is said, it is the key's."""
        path = self.key(name) if name else self._path
        self._problems.add(path, BadValue(message, hint=hint), self._values.get(name) if value is None else value)

    def end(self) -> None:
        """Report the keys that nobody asked for."""
        for name in self._values:
            if name not in self._known:
                self._problems.add(self.key(str(name)), self._unknown(str(name)))

    def _unknown(self, name: str) -> BadValue:
        if _SECRET_KEY.fullmatch(name.lower()):
            way = "keep a host's credentials with `bootpoint host set`"
            if "secret_file" in self._known:
                way = "put it into a file that only bootpoint may read, and name that with secret_file"
            return BadValue("a secret must not stand here", hint=way, code=Code.SECRET_IN_SPEC, hide=True)
        near = nearest(name, self._known)
        if near is not None:
            return BadValue(f"is no known key; did you mean {near!r}?", hint=f"write {near}")
        known = ", ".join(sorted(self._known))
        return BadValue("is no known key", hint=f"remove it; the keys here are {known}")


def shown(value: object) -> str | int | float | bool | None:
    """Return what a message may repeat of a value: never a password, never a whole table."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        if not all(isinstance(item, str | int) for item in value):
            return "a list"
        value = json.dumps(value, ensure_ascii=False)
    text = value.isoformat() if isinstance(value, date) else str(value)
    text = _URL_LOGIN.sub("://***@", text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def has_login(url: str) -> bool:
    """Say whether a URL carries a name or a password before its host."""
    return _URL_LOGIN.search(url) is not None


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise BadValue("must be a table", hide=True)
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise BadValue("must be a list, such as [ … ]", hide=True)
    return value
