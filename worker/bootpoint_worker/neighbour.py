"""Which other points of a chain show the damage of one.

The layer that holds a damaged segment may belong to an older point than the one that was verified, and later points
look through to it, until one wrote there. That is found by reading the segment of each point. Beyond `READINGS` the
digests have to do: points beside the damaged one that must read like it, one next to the other, do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from bootpoint_common.digest import SegmentTable
from bootpoint_common.store import damage, point, reference, segment
from bootpoint_common.store.damage import Damage
from bootpoint_common.store.database import Connection, rows
from bootpoint_common.store.point import Point

from .context import Context
from .reading import read_segment
from .targets.base import Target
from .targets.replica import Replica

#: Segments of other points that are read for one report: 2 GiB at most.
READINGS = 128

#: Seconds that another point is referred to while some of its segments are read.
_REFERENCE_SECONDS = 300.0

#: What the disks of a point must read as, by slot.
Tables = Mapping[str, SegmentTable]


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """Another committed point of the chain.

    Attributes:
        id: Its id.
        name: Its name.
        sequence: Its place.
        tables: What the disks in question must read as, as far as it has them.
        known: What is known of it: slot and segment.
    """

    id: UUID
    name: str
    sequence: int
    tables: Tables
    known: frozenset[tuple[str, int]]

    def digest(self, like: Damage) -> bytes | None:
        """Return what a segment must give; None where the disk doesn't reach that far."""
        table = self.tables.get(like.slot)
        return table[like.segment] if table is not None and like.segment < len(table) else None


def shown_by(
    context: Context, target: Target, replica: Replica, found: Point, *, damages: Sequence[Damage], tables: Tables
) -> tuple[dict[str, list[Damage]], int]:
    """Find what other points show of a point's damage, the newest first: the next run stands on that one.

    Args:
        context: What the actor works with.
        target: The host.
        replica: The replica.
        found: The point that was read.
        damages: What is damaged of it.
        tables: What its disks must read as.

    Returns:
        The damage of others by their names, as far as it wasn't known; and the bytes that were read of the host.
    """
    with context.database.transaction() as connection:
        neighbours = _neighbours(connection, found, set(tables))
    others: dict[str, list[Damage]] = {}
    left, read_bytes = READINGS, 0
    for neighbour in neighbours:
        wanted = [d for d in damages if (d.slot, d.segment) not in neighbour.known and neighbour.digest(d)]
        now, unread = wanted[:left], wanted[left:]
        left -= len(now)
        holder = f"{context.worker}, beside {found.name}"
        with _referred(context, neighbour, holder) as held:
            # One that is being merged will be read as the point that it becomes.
            shown, size = _read(target, replica, neighbour, now, tables) if held and now else ([], 0)
        read_bytes += size
        shown += [_like(d, neighbour, tables) for d in unread if _alike(d, neighbour, found, neighbours, tables)]
        if shown:
            others[neighbour.name] = shown
    return others, read_bytes


def _neighbours(connection: Connection, found: Point, slots: set[str]) -> list[_Neighbour]:
    query = (
        "SELECT id, name, sequence FROM boot_point WHERE replica_id = %s AND chain = %s AND state = 'committed'"
        " AND consolidated_at IS NULL AND id <> %s ORDER BY sequence DESC"
    )
    made = []
    for row in rows(connection, query, found.replica_id, found.chain, found.id):
        tables = {
            disk.slot: segment.segments(connection, found.replica_id, disk.slot, disk.size_bytes, upto=row["sequence"])
            for disk in point.disks(connection, row["id"])
            if disk.slot in slots
        }
        known = frozenset((d.slot, d.segment) for d in damage.of_point(connection, row["id"]))
        made.append(_Neighbour(row["id"], row["name"], row["sequence"], tables, known))
    return made


@contextmanager
def _referred(context: Context, neighbour: _Neighbour, holder: str) -> Iterator[bool]:
    """Keep a point from being merged; false where that is too late."""
    with context.database.transaction() as connection:
        held = reference.take(connection, neighbour.id, "verify", holder, seconds=_REFERENCE_SECONDS)
    try:
        yield held is not None
    finally:
        if held is not None:
            with context.database.transaction() as connection:
                reference.drop(connection, held)


def _read(
    target: Target, replica: Replica, neighbour: _Neighbour, wanted: Sequence[Damage], tables: Tables
) -> tuple[list[Damage], int]:
    """Read segments of a neighbour; returns those that don't read as they must, and how many bytes that took."""
    shown: list[Damage] = []
    read_bytes = 0
    for slot in dict.fromkeys(d.slot for d in wanted):
        with closing(target.open_reader(replica, neighbour.id, slot)) as reader:
            for like in (d for d in wanted if d.slot == slot):
                read = read_segment(reader, like.segment)
                read_bytes += read.read_bytes
                if read.digest != neighbour.digest(like):
                    shown.append(_like(like, neighbour, tables))
    return shown, read_bytes


def _like(like: Damage, neighbour: _Neighbour, tables: Tables) -> Damage:
    """Return a neighbour's damage; its grains are those of the point where both must read alike."""
    same = neighbour.digest(like) == tables[like.slot][like.segment]
    return replace(like, point_id=neighbour.id, grains=like.grains if same else None)


def _alike(like: Damage, neighbour: _Neighbour, found: Point, neighbours: Sequence[_Neighbour], tables: Tables) -> bool:
    """Tell whether a neighbour and everybody between it and the point must read like the point."""
    low, high = sorted((neighbour.sequence, found.sequence))
    must = tables[like.slot][like.segment]
    return all(other.digest(like) == must for other in neighbours if low <= other.sequence <= high)
