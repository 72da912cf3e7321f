"""What lies where on a disk: its table's partitions, and what each of them holds.

What isn't returned (tables, gaps between partitions, containers of logical partitions, unknown content) is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from bootpoint_common.units import SECTOR
from bootpoint_producer.probe import ask_json, signature
from bootpoint_producer.usedblocks.facts import DoubtError, demand

#: Types of an MBR's partition that hold the logical ones; the tables of those lie between them.
_CONTAINERS = frozenset({"5", "f", "85"})
#: The first number that a logical partition can have.
_FIRST_LOGICAL = 5


@dataclass(frozen=True, slots=True)
class Place:
    """A range of the disk that holds one thing.

    Attributes:
        start: Its first byte.
        size: Its bytes.
        kind: What blkid calls what is there; None where it knows nothing, or several things.
    """

    start: int
    size: int
    kind: str | None

    @property
    def end(self) -> int:
        """The byte after the last one."""
        return self.start + self.size


def places(path: str, size: int) -> list[Place]:
    """Return what lies on a disk, ascending.

    Args:
        path: The still picture.
        size: Its bytes.

    Raises:
        DoubtError: The disk as a whole isn't understood.
    """
    table = (ask_json("sfdisk", "--json", path) or {}).get("partitiontable")
    whole = signature(path)
    demand(table is not None or "PTTYPE" not in whole, "its partition table can't be read")
    # The boot sector of FAT and the like has the signature of an MBR as well.
    if table is None or not table.get("partitions"):
        return [Place(0, size, whole.get("TYPE"))]
    demand("TYPE" not in whole, f"there is a partition table, and {whole.get('TYPE')} over the whole disk")
    sector = int(table.get("sectorsize", SECTOR))
    found, containers = [], []
    for part in table["partitions"]:
        start, length = int(part["start"]) * sector, int(part["size"]) * sector
        demand(start > 0 and length > 0 and start + length <= size, "a partition reaches beyond the disk")
        if table["label"] == "dos" and part["type"].lower() in _CONTAINERS:
            containers.append(Place(start, length, None))
            continue
        digits = part["node"].removeprefix(path).lstrip("p")
        found.append((int(digits) if digits.isdigit() else 0, start, length))
    _demand_apart(found, containers)
    return sorted(
        (Place(start, length, signature(path, start, length).get("TYPE")) for _, start, length in found),
        key=lambda place: place.start,
    )


def _demand_apart(found: list[tuple[int, int, int]], containers: list[Place]) -> None:
    """Raise where partitions overlap: free in the one may be used in the other."""
    end = 0
    for number, start, length in sorted(found, key=lambda part: part[1]):
        demand(start >= end, "partitions overlap")
        end = start + length
        for container in containers:
            apart = end <= container.start or container.end <= start
            within = number >= _FIRST_LOGICAL and container.start < start and end <= container.end
            if not (apart or within):
                raise DoubtError("partitions overlap")
