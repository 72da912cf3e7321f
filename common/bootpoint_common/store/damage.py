"""Damage: which segments of committed points don't read back as the source was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from bootpoint_common.digest import SEGMENT
from bootpoint_common.units import GRAIN

from .database import Connection, rows, run


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged segment of a point.

    Attributes:
        point_id: The point.
        slot: The disk.
        segment: The segment's number.
        grains: Which grains differ, counted from the disk's start; None where that isn't known.
    """

    point_id: UUID
    slot: str
    segment: int
    grains: tuple[int, ...] | None = None

    @property
    def text(self) -> str:
        """What people are told: ``disk system segment 3 grains 771, 775 (bytes 50528256 to 50855936)``."""
        first, end = self.segment * SEGMENT, (self.segment + 1) * SEGMENT
        named = ""
        if self.grains:
            first, end = self.grains[0] * GRAIN, (self.grains[-1] + 1) * GRAIN
            named = f" grain{'s' if len(self.grains) > 1 else ''} {_ranges(self.grains)}"
        return f"disk {self.slot} segment {self.segment}{named} (bytes {first} to {end})"

    def as_json(self) -> dict[str, object]:
        """Return it for events and for ``point show``."""
        grains = None if self.grains is None else list(self.grains)
        return {"slot": self.slot, "segment": self.segment, "grains": grains}


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers: ``4, 7 to 12``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in parts)


def _damage(row: dict[str, object]) -> Damage:
    grains = row["grains"]
    return Damage(
        row["point_id"],  # type: ignore[arg-type]  # a row's values have no types
        str(row["slot"]),
        int(str(row["segment"])),
        None if grains is None else tuple(grains),  # type: ignore[arg-type]  # likewise
    )


_SELECT = "SELECT point_id, slot, segment, grains FROM damage "


def keep(connection: Connection, found: Iterable[Damage]) -> None:
    """Record damage, and mark its points; what was known before keeps its grains where none are named now."""
    points = set()
    for one in found:
        points.add(one.point_id)
        run(
            connection,
            "INSERT INTO damage (point_id, slot, segment, grains) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (point_id, slot, segment) DO UPDATE"
            " SET grains = coalesce(excluded.grains, damage.grains), found_at = now()",
            one.point_id,
            one.slot,
            one.segment,
            None if one.grains is None else list(one.grains),
        )
    mark(connection, points)


def mark(connection: Connection, points: Iterable[UUID]) -> None:
    """Mark committed points as damaged, later than whatever proved them."""
    run(
        connection,
        "UPDATE boot_point SET damaged_at = greatest(now(), verified_at) WHERE id = ANY(%s) AND state = 'committed'",
        sorted(points),
    )


def of_point(connection: Connection, point_id: UUID, *, limit: int | None = None) -> list[Damage]:
    """Read what is known to be damaged of a point, in the order of its disks."""
    query = _SELECT + "WHERE point_id = %s ORDER BY slot, segment LIMIT %s"
    return [_damage(row) for row in rows(connection, query, point_id, limit)]


def unsaid(connection: Connection, point_id: UUID) -> list[Damage]:
    """Read what was found of a point and isn't in the history yet."""
    query = _SELECT + "WHERE point_id = %s AND NOT said ORDER BY slot, segment"
    return [_damage(row) for row in rows(connection, query, point_id)]


def say(connection: Connection, points: Iterable[UUID]) -> None:
    """Note that the history has all that is known of some points."""
    run(connection, "UPDATE damage SET said = true WHERE point_id = ANY(%s) AND NOT said", sorted(points))


def forget(connection: Connection, point_id: UUID, *, before: datetime | None = None) -> None:
    """Drop what is known of a point: all of it, or what was found before an instant."""
    query = "DELETE FROM damage WHERE point_id = %s AND (%s::timestamptz IS NULL OR found_at < %s)"
    run(connection, query, point_id, before, before)


def head_segments(connection: Connection, replica_id: UUID) -> dict[str, list[int]]:
    """Return the damaged segments of a replica's head, by slot: what the next point must bring again."""
    found: dict[str, list[int]] = {}
    query = (
        "SELECT g.slot, g.segment FROM replica y JOIN damage g ON g.point_id = y.head WHERE y.id = %s"
        " ORDER BY g.slot, g.segment"
    )
    for row in rows(connection, query, replica_id):
        found.setdefault(row["slot"], []).append(row["segment"])
    return found
