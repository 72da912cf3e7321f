"""What takes long to make, or comes from afar, and is made once on a machine: it is kept in the cache."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from bootpoint_ops.guest_tree import cache_directory


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return a directory of the cache, made now when it isn't there.

    Args:
        name: Its name, which tells what it is made from.
        make: Fills a directory; what it leaves half done isn't kept.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            unfinished = place.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(place)
    return place
