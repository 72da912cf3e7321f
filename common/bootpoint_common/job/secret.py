"""Finds secrets that stand in a job file in plain text: it lies in version control, and every revision in the database.

What is found is never repeated. It errs to the side of refusing; a path is never taken for a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

from bootpoint_common.errors import Code
from bootpoint_common.job.table import BadValue, has_login

#: Words that name a secret, as the end of a longer name too: ``DB_PASSWORD``, ``x-api-key``.
_WORD = r"(?:[\w-]*[_-])?(?:pass|password|passwd|passphrase|pwd|secret|token|(?:api|private|access)[_-]?key)"

#: Such a name with its value behind it: ``--password=…``, ``PGPASSWORD=…``, ``token: …``, ``--token …``.
_ASSIGNED = re.compile(
    rf"(?<![\w-])(?:-{{0,2}}(?:{_WORD}|\w*password)\s*[=:]\s*|-{{1,2}}{_WORD}\s+)(?P<value>\S+)", re.IGNORECASE
)

#: An option that takes the secret as the next argument.
_OPTION = re.compile(rf"-{{1,2}}{_WORD}", re.IGNORECASE)

#: What the HTTP header of that name carries.
_BEARER = re.compile(r"\bauthorization\s*[=:]\s*(?:bearer|basic)\s+\S", re.IGNORECASE)

#: A private key as PEM or as OpenSSH writes it.
_KEY_BLOCK = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY")

#: A URL with a password before its host, anywhere in a text; a name alone is an account.
_PASSWORD_IN_URL = re.compile(r"://[^/@\s:]*:[^/@\s]+@")

#: What a value is that only says where the secret lies.
_PATH = re.compile(r"@?/[\w.+@/-]*|\$\{?\w+\}?")

#: Parameters of a URL that carry a secret.
_PARAMETER = re.compile(rf"{_WORD}|sig|signature|key|auth|code", re.IGNORECASE)

#: The way out for a program's argument or any other text.
_FILE = "put it into a file that only the program's user may read, and give the program that file's path"


def in_url(url: str) -> bool:
    """Tell whether a URL holds a secret: a name or a password before its host, or one of its parameters."""
    try:
        query = urlsplit(url).query
    except ValueError:  # no URL at all
        return has_login(url)
    return has_login(url) or any(_PARAMETER.fullmatch(name) for name, _ in parse_qsl(query))


def in_text(text: str) -> str | None:
    """Return what kind of secret a text holds, for people; None where none is seen."""
    if _KEY_BLOCK.search(text):
        return "a private key"
    if _PASSWORD_IN_URL.search(text):
        return "a URL with a password"
    if _BEARER.search(text) or any(_PATH.fullmatch(found["value"]) is None for found in _ASSIGNED.finditer(text)):
        return "a password or a token"
    return None


def find(values: Mapping[str, object], text: str) -> Iterator[tuple[str, BadValue]]:
    """Walk through a job file.

    Args:
        values: Its tables.
        text: All of it, with the comments.

    Yields:
        The path of each value that holds a secret, with the error to report; an empty path for a private key that
        stands in none of them.
    """
    found = list(_find(values, ""))
    yield from found
    if not found and _KEY_BLOCK.search(text):
        yield "", _refused("a private key")


def _find(value: object, path: str) -> Iterator[tuple[str, BadValue]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _find(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        yield from _in_list(value, path)
    elif isinstance(value, str) and (kind := in_text(value)) is not None:
        yield path, _refused(kind)


def _in_list(values: Sequence[object], path: str) -> Iterator[tuple[str, BadValue]]:
    before: object = None
    for number, value in enumerate(values):
        place = f"{path}[{number}]"
        option = isinstance(before, str) and _OPTION.fullmatch(before) is not None
        if option and isinstance(value, str) and _PATH.fullmatch(value) is None:
            yield place, _refused("a password or a token")
        else:
            yield from _find(value, place)
        before = value


def _refused(kind: str) -> BadValue:
    return BadValue(f"{kind} must not stand here", hint=_FILE, code=Code.SECRET_IN_SPEC, hide=True)
