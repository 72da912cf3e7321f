"""Processes whose clock is wrong."""

from __future__ import annotations

from pathlib import Path

from tests.service.process import run


def wrong_clock(directory: Path, seconds: int) -> dict[str, str]:
    """Return the environment of a process whose clock is ahead of ours.

    Args:
        directory: Where the library is that does it; compiled now when it isn't there.
        seconds: By how much.
    """
    library = directory / "wrongclock.so"
    if not library.exists():
        run(["clang", "-shared", "-fPIC", "-O2", "-o", str(library), str(Path(__file__).with_name("wrongclock.c"))])
    return {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(seconds)}
