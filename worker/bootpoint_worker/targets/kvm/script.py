"""The sh scripts that run on a host: kept as files beside this module, each with the prelude before it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

#: Exit codes of the prelude.
NO_REPLICA, STILL_RUNNING, VANISHED, BUSY, CHANGED, FENCED, GONE, STUCK = 70, 71, 72, 75, 76, 77, 78, 79


@cache
def script(name: str) -> str:
    """Return a script's text, ready to be run."""
    return bare("prelude") + bare(name)


@cache
def bare(name: str) -> str:
    """Return a script's text without the prelude: one that another script runs elsewhere."""
    return (files(__package__) / "scripts" / f"{name}.sh").read_text()
