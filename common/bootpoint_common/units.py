"""Sizes in bytes, durations in seconds, and their spelling for people.

Sizes are integers of bytes everywhere; durations are floats of seconds. Text forms are those of the
job file: ``"16GiB"`` and ``"30m"``.
"""

from __future__ import annotations

import re

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

#: Bytes of a grain, the unit of change tracking, of the block map and of extents. 64 KiB is qcow2's
#: default cluster, so a grain never splits a cluster of a replica.
GRAIN = 64 * KiB

#: Bytes of the smallest addressable part of a disk.
SECTOR = 512

_SIZE_UNITS = {"": 1, "B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": TiB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]iB|B|)")
_DURATION_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")


def parse_size(text: str) -> int:
    """Read a size such as ``"16GiB"`` or ``"512MiB"``.

    Returns:
        The size in bytes.

    Raises:
        ValueError: The text is no size; the message says which forms are.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: write a number and KiB, MiB, GiB or TiB, such as '16GiB'")
    return round(float(match[1]) * _SIZE_UNITS[match[2]])


def parse_duration(text: str) -> float:
    """Read a duration such as ``"30m"``, ``"60s"``, ``"12h"`` or ``"7d"``.

    Returns:
        The duration in seconds.

    Raises:
        ValueError: The text is no duration; the message says which forms are.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration: write a number and s, m, h or d, such as '30m'")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def format_size(size: int | None) -> str:
    """Write a size in bytes for people: ``1.5 GiB``; a dash where it is unknown."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_duration(seconds: float | None) -> str:
    """Write a duration in seconds for people: ``41 s``, ``3 min 5 s``, ``2 h 4 min``, ``3 d 1 h``."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, big_name, small_name in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big} {big_name} {rest} {small_name}" if rest else f"{whole // big} {big_name}"
    return f"{whole} s"


def round_up(value: int, step: int) -> int:
    """Round ``value`` up to a multiple of ``step``."""
    return -(-value // step) * step
