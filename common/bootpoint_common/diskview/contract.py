"""The keys of ``disk list`` as JSON. An agent tells more, for the drawing; that may change, these may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Keys of the answer, of a disk, of a partition, and of what lies on a partition.
ANSWER = ("agent", "read_at", "machine", "items")
ITEM = (
    "id", "path", "size_bytes", "logical_sector_bytes", "physical_sector_bytes", "table", "eligible", "reason",
    "protected_by", "snapshot", "tracker", "used_bytes", "partitions",
)  # fmt: skip
PARTITION = ("number", "path", "start_bytes", "size_bytes", "fs", "label", "uuid", "mount", "used_bytes", "holds")
HELD = ("kind", "path", "fs", "size_bytes", "mount", "used_bytes")


def public(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a list of disks with the public keys, all of them: what isn't known is null.

    Args:
        found: What an agent told, of any version.
    """
    items = [{**_some(item, ITEM), "partitions": _partitions(item)} for item in found.get("items") or ()]
    return {**_some(found, ANSWER), "items": items}


def _partitions(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**_some(part, PARTITION), "holds": [_some(held, HELD) for held in part.get("holds") or ()]}
        for part in item.get("partitions") or ()
    ]


def _some(value: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value.get(key) for key in keys}
