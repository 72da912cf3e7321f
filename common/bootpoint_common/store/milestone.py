"""Milestones in the sorted history: which event stands at every twenty-thousandth place, so that none is walked to.

An index finds a value at once, but a place only by counting. Events are never changed and those of hours that are over
never get more, so their places stay as they are::

    sorted by kind   a a a b b b b b c c c c d d d ...
                     |         |         |              milestones, made up to an hour
                         +            +      +          events since then: few, counted when asked

The n-th event is found from the milestone before it: its place, and how many newer events sort before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from .database import Connection, one, one_row, run

#: Places between two milestones: as many index entries as are walked in a few milliseconds.
STEP = 20_000

#: Share of newer events from which on milestones are made anew: so each event is passed over some fifty times at most.
_NEWER = 0.02

#: Advisory lock of whoever makes them ("mileston" as a number): others needn't.
_LOCK = 0x6D696C6573746F6E

#: Types of the columns that lead a sort, where it isn't text.
_TYPES = {"id": "bigint", "at": "timestamptz", "run": "bigint"}


@dataclass(frozen=True, slots=True)
class Milestone:
    """An event whose place is known.

    Attributes:
        place: How many events sort before it.
        rest: Query of it and of what comes after it, at least up to the page, by the columns of the sort.
        values: Of the query.
    """

    place: int
    rest: str
    values: tuple[object, ...]


def near(connection: Connection, sort: str, columns: Sequence[str], place: int, size: int) -> Milestone | None:
    """Return a milestone that is not far before a place.

    Args:
        connection: A transaction.
        sort: Name of the sort.
        columns: Its columns.
        place: How many events sort before the first one that is wanted, from the smallest on.
        size: How many are wanted.

    Returns:
        It; None where there is none.
    """
    made = one(connection, "SELECT max(until) AS until FROM event_milestone WHERE sort = %s", sort)
    if made is None or made["until"] is None:
        return None
    found = one(
        connection,
        "SELECT place, value, at, id FROM event_milestone WHERE sort = %s AND place <= %s ORDER BY place DESC LIMIT 1",
        *(sort, place - newer(connection, made["until"])),
    )
    if found is None:
        return None
    lead, words = columns[0], ", ".join(columns)
    if lead not in ("id", "at") and found["value"] is None:
        # What is newer comes later among those without a value. Each of the two pieces is an index from a place on, and
        # no longer than needed, for they are sorted once more together.
        most = place - found["place"] + size
        rest = f"(SELECT {words} FROM event WHERE {lead} IS NULL AND (at, id) >= (%s, %s) ORDER BY at, id LIMIT %s)"
        rest += f" UNION ALL (SELECT {words} FROM event WHERE {lead} IS NOT NULL ORDER BY {_order(columns)} LIMIT %s)"
        return Milestone(found["place"], rest, (found["at"], found["id"], most, most))
    values = tuple(found[column] if column in ("at", "id") else found["value"] for column in columns)
    key = ", ".join(f"%s::{_TYPES.get(column, 'text')}" for column in columns)
    before = one_row(
        connection,
        f"SELECT count(*) AS n FROM event WHERE at >= %s AND ({lead} IS NULL OR ({words}) < ({key}))",
        *(made["until"], *values),
    )
    rest = f"SELECT {words} FROM event WHERE ({words}) >= ({key})"
    return Milestone(found["place"] + before["n"], rest, values)


def _order(columns: Sequence[str]) -> str:
    """Return the order of a sort from its smallest on, as its index has it."""
    lead = columns[0] if columns[0] in ("id", "at") else f"{columns[0]} NULLS FIRST"
    return ", ".join([lead, *columns[1:]])


def newer(connection: Connection, until: datetime) -> int:
    """Count the events from an instant on."""
    return int(one_row(connection, "SELECT count(*) AS n FROM event WHERE at >= %s", until)["n"])


def make(
    connection: Connection, sorts: Mapping[str, Sequence[str]], until: datetime, total: int, *, step: int = STEP
) -> bool:
    """Make the milestones anew where too many events are newer; any number of processes may call it.

    Args:
        connection: A transaction.
        sorts: The columns of each sort, by its name.
        until: The end of an hour that gets no more events.
        total: How many events there are.
        step: Places between two.

    Returns:
        Whether they were.
    """
    made = one_row(connection, "SELECT max(until) AS until FROM event_milestone")["until"]
    fresh = total if made is None else newer(connection, made)
    if fresh < max(step, total * _NEWER):
        return False
    if not one_row(connection, "SELECT pg_try_advisory_xact_lock(%s) AS ours", _LOCK)["ours"]:
        return False
    run(connection, "DELETE FROM event_milestone")
    for sort, columns in sorts.items():
        lead, words = columns[0], ", ".join(columns)
        run(
            connection,
            "INSERT INTO event_milestone (sort, place, value, at, id, until)"
            f" SELECT %s, place, {lead}::text, at, id, %s FROM (SELECT {words}{'' if 'at' in columns else ', at'},"
            f" row_number() OVER (ORDER BY {_order(columns)}) - 1 AS place FROM event WHERE at < %s) AS e"
            " WHERE place %% %s = 0",
            *(sort, until, until, step),
        )
    return True
