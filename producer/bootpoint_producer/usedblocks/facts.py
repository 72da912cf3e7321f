"""What a file system says of itself, and why its map of used blocks may not be believed.

Programs that print such a map don't look at everything: they take a file system whose journal holds what its maps
don't show yet (after a power cut) for a clean one. What is used then only after the journal is replayed would be
left out. So every file system is looked at here first, and what isn't known to be right counts as used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bootpoint_common.extent import Extent

#: Reads (offset, length) of the place that a file system has.
Read = Callable[[int, int], bytes]


class DoubtError(Exception):
    """Why everything in a place counts as used; its text is for people."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A file system whose map may be asked for.

    Attributes:
        size_bytes: Bytes that it takes, from its place's first one on.
        free_bytes: Free bytes as it counts them itself, the most that a map may name; None where it doesn't count.
        always_used: What is used whatever the map says, ascending, behind its first MiB and before its last one.
        logged: Whether a log has to be looked at as well (XFS).
    """

    size_bytes: int
    free_bytes: int | None = None
    always_used: tuple[Extent, ...] = ()
    logged: bool = False


def demand(condition: object, doubt: str) -> None:
    """Raise `DoubtError` where a condition doesn't hold."""
    if not condition:
        raise DoubtError(doubt)
