"""Entropy watch: an increment far above the usual that doesn't compress is what encryption of a machine looks like.

It is looked at when its point is committed, before anything could go for it: the last quiet point is pinned, nothing of
the replica goes any more, and the history says so. A person decides: `bootpoint point unpin` of that pin ends it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.store import event, kept
from bootpoint_common.store.database import Connection, one_row, rows
from bootpoint_common.store.point import Point
from bootpoint_common.units import MiB, format_size

#: Who pins.
USER = "entropy-watch"

#: How many times the usual: whoever encrypts a machine rewrites all of it, and what changes between two runs is some
#: percent of it. A busy day is a few times a quiet one.
FACTOR = 10

#: Increments that say what is usual: two weeks of daily runs, and as many as a job keeps points by default.
USUAL = 14

#: Fewer increments than this say nothing about what is usual.
FEWEST = 3

#: Bytes below which no increment is suspicious: on a quiet machine ten times the usual is soon reached.
FLOOR = 64 * MiB

#: Wire bytes / changed bytes from which on content counts as incompressible: random bytes come to a little more than 1,
#: with their frames and encryption. Copies of archives and films do so as well; a large one alerts, and is no harm.
INCOMPRESSIBLE = 0.95


@dataclass(frozen=True, slots=True)
class Increment:
    """What an increment brought, in bytes."""

    changed_bytes: int
    wire_bytes: int


def suspicious(now: Increment, before: Sequence[Increment]) -> bool:
    """Tell whether an increment is far above the usual and incompressible.

    Args:
        now: The increment.
        before: Those before it, in any order; the last `USUAL` of them.
    """
    if len(before) < FEWEST or now.changed_bytes < FLOOR:
        return False
    usual = statistics.median(increment.changed_bytes for increment in before)
    return now.changed_bytes > FACTOR * usual and now.wire_bytes >= INCOMPRESSIBLE * now.changed_bytes


def watch(connection: Connection, found: Point) -> None:
    """Look at the increment of a point that is being committed, in that transaction."""
    if found.kind != "increment" or found.base is None:
        return
    newest = rows(
        connection,
        "SELECT p.id, sum(d.changed_bytes)::bigint AS changed_bytes, sum(d.wire_bytes)::bigint AS wire_bytes"
        " FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id WHERE p.replica_id = %s"
        " AND p.state = 'committed' AND p.kind = 'increment' AND p.sequence <= %s"
        " GROUP BY p.id ORDER BY p.sequence DESC LIMIT %s",
        found.replica_id,
        found.sequence,
        USUAL + 1,
    )
    known = [Increment(row["changed_bytes"] or 0, row["wire_bytes"] or 0) for row in newest]
    if newest and newest[0]["id"] == found.id and suspicious(known[0], known[1:]):
        _alert(connection, found, found.base, known[0], known[1:])


def _alert(connection: Connection, found: Point, quiet: UUID, now: Increment, before: Sequence[Increment]) -> None:
    usual = int(statistics.median(increment.changed_bytes for increment in before))
    why = (
        f"{found.name} changed {format_size(now.changed_bytes)}, {format_size(usual)} is usual, and what changed does"
        " not compress, as encrypted data does not"
    )
    if not kept.freeze(connection, found.replica_id, quiet, why):
        return
    row = one_row(
        connection,
        "SELECT name, coalesce((pinned->>'until')::timestamptz > now(), pinned IS NOT NULL) AS held"
        " FROM boot_point WHERE id = %s",
        quiet,
    )
    if not row["held"]:  # the pin of a person stays as it is
        kept.pin(connection, quiet, reason=why, user=USER, until=None)
    event.of_point(
        connection,
        found,
        "entropy_alert",
        f"{why}: {row['name']} is pinned, and no boot point of this replica goes until it is unpinned",
        actor=USER,
        details={"changed_bytes": now.changed_bytes, "usual_bytes": usual, "wire_bytes": now.wire_bytes},
    )
