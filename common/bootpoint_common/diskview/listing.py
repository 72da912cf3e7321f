"""The table of disks: a line for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bootpoint_common.diskview.text import printable
from bootpoint_common.units import format_size

#: Titles of the columns; those that begin with ``>`` are set flush right.
COLUMNS = ("ID", "PATH", ">SIZE", ">USED", "TABLE", "ELIGIBLE", "SNAPSHOT", "TRACKER", "JOBS")


def lines(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the cells of each disk, one for each of `COLUMNS`; a dash where something isn't known.

    Args:
        found: A list of disks, as an agent told it.
    """
    return [_line(item) for item in found["items"]]


def _line(item: Mapping[str, Any]) -> tuple[str, ...]:
    cells = (
        item["id"],
        item["path"],
        format_size(item["size_bytes"]),
        format_size(item.get("used_bytes")),
        item.get("table"),
        "yes" if item["eligible"] else f"no: {item.get('reason')}",
        item.get("snapshot"),
        item.get("tracker"),
        ", ".join(item.get("protected_by") or ()),
    )
    return tuple(printable(cell) if cell else "-" for cell in cells)
