"""Whether a new point brought right content where the one below it is damaged.

The opening asked the agent for those segments (`Ready.resend`). Before the commit they are read back, for an agent that
doesn't know the word leaves them as they are, and damage that was found since the opening wasn't asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bootpoint_common.digest import SEGMENT, SegmentTable, grain_digests, segment_digest
from bootpoint_common.store import damage, event, segment, verification
from bootpoint_common.store.damage import Damage
from bootpoint_common.store.database import Connection, one, rows
from bootpoint_common.store.point import Point, PointDisk
from bootpoint_common.units import MiB

from .targets.base import LayerWriter

#: Segments that are read back before a commit at most, 1 GiB; a verification reads the rest.
READ_BACK = 64

#: Damaged segments that an event's text names.
_IN_TEXT = 10


def below(connection: Connection, found: Point) -> dict[str, list[int]]:
    """Return the damaged segments of what a point stands on, by slot."""
    return damage.head_segments(connection, found.replica_id) if found.base is not None else {}


def expected(connection: Connection, found: Point, disk: PointDisk) -> SegmentTable:
    """Return what a disk of a point that isn't committed yet has to read as."""
    table = SegmentTable(disk.size_bytes)
    row = None if found.base is None else one(connection, _BASE, found.base, disk.slot)
    if row is not None:
        before = segment.segments(connection, found.replica_id, disk.slot, row["size_bytes"], upto=row["sequence"])
        table = before.grown(disk.size_bytes)
    table.update(segment.own_segments(connection, disk.id))
    return table


_BASE = """
SELECT p.sequence, d.size_bytes FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id
WHERE p.id = %s AND d.slot = %s
"""


def still_damaged(
    writer: LayerWriter, found: Point, disk: PointDisk, numbers: Sequence[int], table: SegmentTable
) -> list[Damage]:
    """Read segments through the commit's own hold; returns those that don't read as they must."""
    wrong = []
    for number in numbers[:READ_BACK]:
        start, end = number * SEGMENT, min((number + 1) * SEGMENT, disk.size_bytes)
        entries = b"".join(grain_digests(writer.read(at, min(MiB, end - at))) for at in range(start, end, MiB))
        if segment_digest(entries) != table[number]:
            wrong.append(Damage(found.id, disk.slot, number))
    return wrong


def keep(connection: Connection, found: Point, wrong: Sequence[Damage]) -> None:
    """Record, before the commit, what the point won't have repaired; an earlier attempt's record is replaced."""
    damage.forget(connection, found.id)
    damage.keep(connection, wrong)


def committed(connection: Connection, found: Point, before: Mapping[str, Sequence[int]]) -> None:
    """Say what a commit did to damage, in its transaction: repaired, left, or to be looked at.

    Args:
        connection: The transaction in which the point became the head.
        found: The point.
        before: The damaged segments of what it stands on.
    """
    if not before:
        return
    left = damage.of_point(connection, found.id)
    # Found after the seal, it may have come too late to be read back.
    late = {(row["slot"], row["segment"]) for row in rows(connection, _LATE, found.id)}
    untold = late | {(each.slot, each.segment) for each in left}
    fine = [
        Damage(found.id, slot, number)
        for slot, numbers in before.items()
        for number in numbers
        if (slot, number) not in untold
    ]
    if left:
        damage.mark(connection, {found.id})
        damage.say(connection, {found.id})
        _say(connection, found, "point_damaged", "still shows what is damaged below it:", left)
    if fine:
        _say(connection, found, "damage_repaired", "brought right content for what is damaged below it:", fine)
    if late or any(len(numbers) > READ_BACK for numbers in before.values()):
        verification.ask(connection, found.id, requested_by="worker", budgeted=False)


_LATE = """
SELECT g.slot, g.segment FROM boot_point p JOIN damage g ON g.point_id = p.base
WHERE p.id = %s AND g.found_at >= p.sealed_at
"""


def _say(connection: Connection, found: Point, kind: str, what: str, damages: Sequence[Damage]) -> None:
    named = "; ".join(each.text for each in damages[:_IN_TEXT])
    more = f"; and {len(damages) - _IN_TEXT} more segments" if len(damages) > _IN_TEXT else ""
    event.of_point(
        connection, found, kind, f"{found.name} {what} {named}{more}", actor="worker",
        details={"segments": len(damages)},
    )  # fmt: skip
