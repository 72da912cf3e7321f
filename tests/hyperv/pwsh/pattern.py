"""Wildcards and regular expressions, of .NET's where Python's differ."""

from __future__ import annotations

import re
from functools import lru_cache

from tests.hyperv.pwsh.failure import OutsideSubset

#: Constructs of .NET's expressions that Python's lack or mean otherwise, sets within sets among them.
_FOREIGN = re.compile(r"\(\?<[=!]?|\\[pPGzZA]|\(\?\(|\[[^\]]*(\[|--|&&|~~|\|\|)")


@lru_cache(maxsize=256)
def like(text: str, pattern: str, *, cased: bool = False) -> bool:
    """Tell whether a text matches a pattern with wildcards as a whole (about_Wildcards).

    Raises:
        OutsideSubset: It is no pattern.
    """
    flags = re.DOTALL if cased else re.DOTALL | re.IGNORECASE
    try:
        return re.fullmatch(_translated(pattern), text, flags) is not None
    except re.error as wrong:
        raise OutsideSubset(f"the pattern {pattern!r}: {wrong}") from wrong


def has_wildcard(text: str) -> bool:
    """Tell whether a text has characters that mean more than themselves in a pattern."""
    return any(letter in text for letter in "*?[")


def _translated(pattern: str) -> str:
    parts = re.findall(r"`.|\[[^\]]+\]|.", pattern, re.DOTALL)
    return "".join(_piece(part) for part in parts)


def _piece(part: str) -> str:
    if part in ("*", "?"):
        return "." + part.replace("?", "")
    if part.startswith("[") and len(part) > 1:
        return "[" + re.sub(r"[\\^\[&~|]", r"\\\g<0>", part[1:-1]) + "]"
    return re.escape(part[-1])


@lru_cache(maxsize=256)
def regex(pattern: str, *, cased: bool = False) -> re.Pattern[str]:
    """Return Python's expression for one of .NET.

    Raises:
        OutsideSubset: It has what Python's expressions lack, or is none.
    """
    python = re.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", pattern).replace("\\k<", "(?P=")
    if _FOREIGN.search(re.sub(r"\(\?<[=!]", "", python)) or "(?P=" in python:
        raise OutsideSubset(f"the regular expression {pattern!r}")
    try:
        return re.compile(python, 0 if cased else re.IGNORECASE)
    except re.error as wrong:
        raise OutsideSubset(f"the regular expression {pattern!r}: {wrong}") from wrong


def replaced(text: str, pattern: str, new: str, *, cased: bool = False) -> str:
    """Return a text with each match replaced; ``$1``, ``${name}`` and ``$$`` in the new text are what they are in
    .NET."""
    found = regex(pattern, cased=cased)
    template = re.sub(r"\$(\$|\d+|\{\w+\}|&)?", _reference, new.replace("\\", r"\\"))
    try:
        return found.sub(template, text)
    except (re.error, IndexError) as wrong:
        raise OutsideSubset(f"the replacement {new!r} for {pattern!r}: {wrong}") from wrong


def _reference(match: re.Match[str]) -> str:
    named = match[1]
    if named is None or named == "$":
        return "$"
    return r"\g<0>" if named == "&" else rf"\g<{named.strip('{}')}>"
