"""What follows from damage: its grains are named, the other points that show it are marked, and the history has it."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

from bootpoint_common.digest import ENTRY, SEGMENT_GRAINS, SegmentTable, segment_digest
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import damage, event, point, request, segment
from bootpoint_common.store.damage import Damage
from bootpoint_common.store.database import Connection, one
from bootpoint_common.store.point import Point

from .context import Context
from .neighbour import shown_by
from .reading import read_segment
from .targets.base import Target
from .targets.replica import Replica

#: Damaged segments of a report whose grains are named; of the rest the segments are.
NAMED = 64

#: Segments that an agent is asked about at once: 4 KiB of entries each, and a message stays small.
ASKED = 16

#: Seconds that all answers together may take.
ANSWER_SECONDS = 30.0

#: Damaged segments that the text of an event names, and that its details list.
_IN_TEXT, _IN_DETAILS = 10, 200


@dataclass(slots=True)
class _Report:
    """What is put together for one event.

    Attributes:
        found: The point that was read.
        damages: What is damaged of it.
        others: What is damaged of other points, by their names.
        why: Why grains aren't named; None where they are.
        read_bytes: Bytes that were read of the host for it.
    """

    found: Point
    damages: list[Damage]
    others: dict[str, list[Damage]] = field(default_factory=dict)
    why: str | None = None
    read_bytes: int = 0


def report(context: Context, target: Target | None, replica: Replica, found: Point) -> int:
    """Say what was found of a point and isn't in the history yet; nothing where there is nothing.

    Args:
        context: What the actor works with.
        target: The host; None when it can't be asked for more.
        replica: The replica.
        found: The point.

    Returns:
        Bytes that were read of the host.
    """
    with context.database.transaction() as connection:
        made = _Report(found, damage.unsaid(connection, found.id))
        sizes = {disk.slot: disk.size_bytes for disk in point.disks(connection, found.id)}
        tables = {
            slot: segment.segments(connection, found.replica_id, slot, sizes[slot], upto=found.sequence)
            for slot in {known.slot for known in made.damages}
        }
    if not made.damages:
        return 0
    if target is None:
        made.why = "the host doesn't answer any more"
    else:
        try:
            _name_grains(context, target, replica, made, tables)
            made.others, read_bytes = shown_by(context, target, replica, found, damages=made.damages, tables=tables)
            made.read_bytes += read_bytes
        except BootpointError as problem:
            made.why = problem.message  # what is known already must be said all the same
    with context.database.transaction() as connection:
        _say(connection, made)
    return made.read_bytes


def _say(connection: Connection, made: _Report) -> None:
    found = made.found
    point.get(connection, found.id, lock=True)
    damage.keep(connection, made.damages)
    for damages in made.others.values():
        damage.keep(connection, damages)
    damage.say(connection, {found.id, *(known.point_id for all_of in made.others.values() for known in all_of)})
    named = "; ".join(known.text for known in made.damages[:_IN_TEXT])
    more = f"; and {len(made.damages) - _IN_TEXT} more segments" if len(made.damages) > _IN_TEXT else ""
    shown = f". The same is shown by {', '.join(made.others)}" if made.others else ""
    why = f". Grains aren't named: {made.why}" if made.why else ""
    event.of_point(
        connection,
        found,
        "point_damaged",
        f"{found.name} is damaged: {named}{more}{shown}{why}",
        actor="worker",
        details={
            "damage": [known.as_json() for known in made.damages[:_IN_DETAILS]],
            "segments": len(made.damages),
            "also": {name: len(damages) for name, damages in made.others.items()},
        },
    )


# --- which grains


def grains_that_differ(number: int, entries: bytes, expected: bytes) -> tuple[int, ...]:
    """Return the grains of a segment, counted from the disk's start, whose entries aren't the expected ones."""
    return tuple(
        number * SEGMENT_GRAINS + at // ENTRY
        for at in range(0, len(expected), ENTRY)
        if entries[at : at + ENTRY] != expected[at : at + ENTRY]
    )


def _name_grains(
    context: Context, target: Target, replica: Replica, made: _Report, tables: Mapping[str, SegmentTable]
) -> None:
    """Ask the agent what the damaged segments' grains were, and put the numbers of those that differ in."""
    until = time.monotonic() + ANSWER_SECONDS
    named: list[Damage] = []
    for slot, table in tables.items():
        wanted = [known.segment for known in made.damages if known.slot == slot][: NAMED - len(named)]
        if not wanted:
            continue
        with closing(target.open_reader(replica, made.found.id, slot)) as reader:
            for start in range(0, len(wanted), ASKED):
                some = {number: table[number] for number in wanted[start : start + ASKED]}
                answered, why = entries_of(context, made.found, slot, some, seconds=until - time.monotonic())
                made.why = made.why or why
                for number, expected in answered.items():
                    read = read_segment(reader, number)
                    made.read_bytes += read.read_bytes
                    grains = grains_that_differ(number, read.entries, expected)
                    named.append(Damage(made.found.id, slot, number, grains))
    known_now = {(known.slot, known.segment): known for known in named}
    made.damages = [known_now.get((known.slot, known.segment), known) for known in made.damages]
    if made.why is None and len(named) < len(made.damages):
        made.why = f"only those of {NAMED} segments are looked up"


def entries_of(
    context: Context, found: Point, slot: str, wanted: Mapping[int, bytes], *, seconds: float
) -> tuple[dict[int, bytes], str | None]:
    """Ask a point's agent for the entries of some segments, and keep those that give the digests they must give.

    Args:
        context: What the actor works with.
        found: The point.
        slot: The disk.
        wanted: Number and digest of each segment; at most `ASKED`.
        seconds: How long to wait.

    Returns:
        The entries by number, and why some are missing; None when none is.
    """
    nobody = error(Code.AGENT_OFFLINE, f"agent {found.agent} did not answer", key="agent", value=found.agent)
    try:
        with context.database.transaction() as connection:
            alive = one(
                connection,
                "SELECT 1 FROM agent WHERE name = %s AND last_seen_at > now() - interval '30 seconds'",
                found.agent,
            )
            if alive is None or seconds <= 0:
                raise nobody
            arguments = {
                "replica": str(found.replica_id),
                "slot": slot,
                "segments": {str(number): digest.hex() for number, digest in wanted.items()},
            }
            asked = request.ask_agent(
                connection, found.agent, "entries", arguments, requested_by="worker", seconds=seconds
            )
        answer = request.wait(context.database, asked, seconds=seconds, nobody=nobody)
    except BootpointError as problem:
        return {}, problem.message
    entries = {number: got for number, digest in wanted.items() if (got := _checked(answer, number, digest))}
    missing = len(wanted) - len(entries)
    return entries, f"agent {found.agent} no longer has the block map of that time" if missing else None


def _checked(answer: Mapping[str, object], number: int, digest: bytes) -> bytes | None:
    """Return a segment's entries if the agent told the truth; it is no authority, the stored digest is."""
    told = answer.get("entries")
    text = told.get(str(number)) if isinstance(told, dict) else None
    if not isinstance(text, str):
        return None
    try:
        entries = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return entries if segment_digest(entries) == digest else None
