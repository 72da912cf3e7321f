"""The parent locator of a differencing VHDX: which file its parent is ([MS-VHDX] 2.6.2.6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from bootpoint_worker.vhdx.fault import malformed

#: Type of the locator of a parent that is a VHDX (2.6.2.6.3).
VHDX_PARENT = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")

#: Most entries of a locator that are read: the format has five keys.
MOST_ENTRIES = 64

#: Type, reserved, number of entries.
_HEADER = struct.Struct("<16sHH")

#: Offsets of key and value within the item, and their lengths; text is UTF-16.
_ENTRY = struct.Struct("<IIHH")


@dataclass(frozen=True, slots=True)
class ParentLink:
    """Which file a parent is.

    Attributes:
        linkage: The parent's data write id when the child was made.
        other_linkage: A second id that the parent may have, while the host changes the chain; else None.
        relative_path: The parent's path from the child's folder; None when it isn't said.
        volume_path: The parent's path by its volume's id; None when it isn't said.
        absolute_path: The parent's path with a drive letter; None when it isn't said.
    """

    linkage: UUID
    other_linkage: UUID | None = None
    relative_path: str | None = None
    volume_path: str | None = None
    absolute_path: str | None = None

    def names(self, data_write_id: UUID) -> bool:
        """Tell whether a file with that data write id is the parent, as it was when the child was made."""
        return data_write_id in (self.linkage, self.other_linkage)


def parse_locator(name: str, item: bytes) -> ParentLink:
    """Read a locator.

    Args:
        name: The file, for messages.
        item: The metadata item.

    Raises:
        BootpointError: ``target_check_failed``.
    """
    try:
        kind, _, count = _HEADER.unpack_from(item)
        if UUID(bytes_le=kind) != VHDX_PARENT or count > MOST_ENTRIES:
            raise malformed(name, f"its parent locator is of type {UUID(bytes_le=kind)} with {count} entries")
        said = dict(_entry(item, number) for number in range(count))
        other = said.get("parent_linkage2")
        return ParentLink(
            linkage=UUID(said["parent_linkage"]),
            other_linkage=UUID(other) if other else None,
            relative_path=said.get("relative_path"),
            volume_path=said.get("volume_path"),
            absolute_path=said.get("absolute_win32_path"),
        )
    except (struct.error, ValueError, KeyError) as exc:
        raise malformed(name, f"its parent locator can't be read: {exc}") from exc


def _entry(item: bytes, number: int) -> tuple[str, str]:
    key_at, value_at, key_bytes, value_bytes = _ENTRY.unpack_from(item, _HEADER.size + number * _ENTRY.size)
    if max(key_at + key_bytes, value_at + value_bytes) > len(item):
        raise ValueError(f"entry {number} lies outside")
    key, value = item[key_at : key_at + key_bytes], item[value_at : value_at + value_bytes]
    return key.decode("utf-16-le"), value.decode("utf-16-le")
