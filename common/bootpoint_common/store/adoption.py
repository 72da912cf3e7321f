"""Taking over what a host has and the database lacks: a replica's points, after the database came from a backup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.digest import SegmentTable
from bootpoint_common.errors import BootpointError
from bootpoint_common.identity import new_id

from . import outbox
from .database import Connection, Row, one, one_row, rows, run
from .point import WINDOW

#: Seconds after which the task of an unfinished adoption is sent again.
RESEND_SECONDS = 60.0

#: Why nothing is merged while a replica is taken over.
FROZEN = "adoption"


@dataclass(frozen=True, slots=True)
class Adoption:
    """A row of adoption.

    Attributes:
        id: Its id.
        host_id: The host.
        replica_id: The replica, as the host's journal has it.
        requested_by: Who.
        plan: The points' ids in the order in which they are taken over, the head first, each with its place.
        state: ``asked``, ``done`` or ``failed``.
    """

    id: UUID
    host_id: UUID
    replica_id: UUID
    requested_by: str
    plan: list[tuple[UUID, int]]
    state: str


@dataclass(frozen=True, slots=True)
class AdoptedDisk:
    """A disk of an adopted point: what the journal says, and what was read."""

    slot: str
    size_bytes: int
    layer: str
    stored_bytes: int
    root: bytes


@dataclass(frozen=True, slots=True)
class AdoptedPoint:
    """A point that is written as committed; fields as in the journal, ``sequence`` as planned."""

    id: UUID
    base: UUID | None
    name: str
    sequence: int
    instant: datetime
    kind: str
    consistency: str
    epoch: int
    disks: tuple[AdoptedDisk, ...]


def ask(
    connection: Connection,
    *,
    host_id: UUID,
    pool: str,
    replica_id: UUID,
    plan: Iterable[tuple[UUID, int]],
    requested_by: str,
) -> UUID:
    """Begin an adoption, or return the one of this replica that is under way."""
    known = one(connection, "SELECT id FROM adoption WHERE replica_id = %s AND state = 'asked'", replica_id)
    if known is not None:
        outbox.task(connection, pool, "adopt", known["id"])
        return UUID(str(known["id"]))
    made = new_id()
    run(
        connection,
        "INSERT INTO adoption (id, host_id, replica_id, requested_by, plan) VALUES (%s, %s, %s, %s, %s)",
        made,
        host_id,
        replica_id,
        requested_by,
        Jsonb([{"point_id": str(point_id), "sequence": sequence} for point_id, sequence in plan]),
    )
    outbox.task(connection, pool, "adopt", made)
    return made


def get(connection: Connection, adoption_id: UUID) -> Adoption | None:
    """Read an adoption."""
    row = one(connection, "SELECT * FROM adoption WHERE id = %s", adoption_id)
    if row is None:
        return None
    plan = [(UUID(entry["point_id"]), int(entry["sequence"])) for entry in row["plan"]]
    return Adoption(row["id"], row["host_id"], row["replica_id"], row["requested_by"], plan, row["state"])


def state(connection: Connection, adoption_id: UUID) -> Row:
    """Read how far an adoption is: ``state``, ``done`` (names), ``problem``, and ``left`` (points)."""
    return one_row(
        connection,
        "SELECT state, done, problem, jsonb_array_length(plan) - jsonb_array_length(done) AS left"
        " FROM adoption WHERE id = %s",
        adoption_id,
    )


def taken(connection: Connection, adoption_id: UUID) -> None:
    """Note that a worker works on it, so that nobody sends it again."""
    run(connection, "UPDATE adoption SET enqueued_at = now() WHERE id = %s", adoption_id)


def end(connection: Connection, adoption_id: UUID, problem: BootpointError | None = None) -> None:
    """Finish an adoption."""
    run(
        connection,
        "UPDATE adoption SET state = %s, problem = %s, ended_at = now() WHERE id = %s",
        "done" if problem is None else "failed",
        None if problem is None else Jsonb(problem.as_json()),
        adoption_id,
    )
    run(connection, "DELETE FROM adoption_segment WHERE adoption_id = %s", adoption_id)


def enqueue(connection: Connection) -> int:
    """Send on the adoptions that nobody works on; returns how many."""
    found = rows(
        connection,
        "UPDATE adoption a SET enqueued_at = now() FROM host h WHERE h.id = a.host_id AND a.state = 'asked'"
        " AND a.enqueued_at < now() - make_interval(secs => %s) RETURNING a.id, h.pool",
        RESEND_SECONDS,
    )
    for row in found:
        outbox.task(connection, row["pool"], "adopt", row["id"])
    return len(found)


# --- what was read so far


def keep_read(
    connection: Connection, adoption_id: UUID, point_id: UUID, slot: str, digests: Mapping[int, bytes]
) -> None:
    """Keep digests that were read, so that a task which ends goes on there."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO adoption_segment (adoption_id, point_id, slot, number, digest) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (adoption_id, point_id, slot, number) DO UPDATE SET digest = excluded.digest",
            [(adoption_id, point_id, slot, number, digest) for number, digest in digests.items()],
        )


def read_so_far(connection: Connection, adoption_id: UUID, point_id: UUID, slot: str) -> list[bytes]:
    """Return the digests that were read of a disk, from its first segment on."""
    found = rows(
        connection,
        "SELECT digest FROM adoption_segment WHERE adoption_id = %s AND point_id = %s AND slot = %s ORDER BY number",
        adoption_id,
        point_id,
        slot,
    )
    return [row["digest"] for row in found]


# --- points


def write(
    connection: Connection,
    replica_id: UUID,
    adopted: AdoptedPoint,
    digests: Mapping[str, Mapping[int, bytes]],
) -> int:
    """Write a point as committed, with a run of its own.

    Args:
        connection: A transaction that holds the replica's claim.
        replica_id: The replica; its job is known.
        adopted: The point.
        digests: By slot, the segment digests that aren't those of the point below.

    Returns:
        The run's number.
    """
    # A run that failed to commit it, as this database remembers, or a host that had lost it, was not the last word.
    run(
        connection,
        "DELETE FROM boot_point WHERE id = %s AND (state = 'aborted' OR consolidated_at IS NOT NULL)",
        adopted.id,
    )
    made = one_row(
        connection,
        "INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state, due_at, started_at,"
        " ended_at, consistency) SELECT %s, y.job_id, y.job_name, j.agent_id, y.pool, 'manual', 'adopt', 'succeeded',"
        " %s, %s, %s, %s FROM replica y JOIN job j ON j.id = y.job_id WHERE y.id = %s RETURNING uid, id",
        new_id(),
        adopted.instant,
        adopted.instant,
        adopted.instant,
        adopted.consistency,
        replica_id,
    )
    run(
        connection,
        "INSERT INTO run_target (run_uid, replica_id, host_id) SELECT %s, id, host_id FROM replica WHERE id = %s",
        made["uid"],
        replica_id,
    )
    run(
        connection,
        "INSERT INTO boot_point (id, replica_id, run_uid, sequence, name, state, kind, base, epoch, chain, consistency,"
        " instant, incarnation, committed_at, ended_at, verified_at)"
        " SELECT %s, id, %s, %s, %s, 'committed', %s, %s, %s, chain, %s, %s, %s, %s, now(), now()"
        " FROM replica WHERE id = %s",
        *(adopted.id, made["uid"], adopted.sequence, adopted.name, adopted.kind, adopted.base, adopted.epoch),
        *(adopted.consistency, adopted.instant, UUID(int=0), adopted.instant, replica_id),
    )
    for position, disk in enumerate(adopted.disks):
        disk_id = new_id()
        run(
            connection,
            "INSERT INTO boot_point_disk (id, point_id, slot, position, size_bytes, layer, window_bytes, stored_bytes,"
            " sealed_at, read_digest, reread_digest, stream_deleted_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now())",
            *(disk_id, adopted.id, disk.slot, position, disk.size_bytes, disk.layer, WINDOW, disk.stored_bytes),
            *(adopted.instant, disk.root, disk.root),
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO segment (point_disk_id, number, digest) VALUES (%s, %s, %s)",
                [(disk_id, number, digest) for number, digest in digests[disk.slot].items()],
            )
    return int(made["id"])


def places(connection: Connection, replica_id: UUID, wanted: Mapping[UUID, int]) -> list[tuple[UUID, int]]:
    """Give points of a journal, in their order, places among those that the database has.

    A place that is free is kept; where a failed run took one since, all of them go behind the last place.

    Args:
        connection: A transaction.
        replica_id: The replica.
        wanted: Places by point, as the journal has them, ascending.
    """
    used = {
        row["sequence"]: row["id"]
        for row in rows(connection, "SELECT id, sequence FROM boot_point WHERE replica_id = %s", replica_id)
    }
    if all(used.get(sequence, point_id) == point_id for point_id, sequence in wanted.items()):
        return list(wanted.items())
    first = max([*used, *wanted.values()], default=0) + 1
    return [(point_id, first + number) for number, point_id in enumerate(wanted)]


def freeze(connection: Connection, replica_id: UUID) -> None:
    """Let nobody merge points that the database doesn't know all neighbours of; a freeze for another reason stays."""
    run(
        connection,
        "UPDATE replica SET frozen = jsonb_build_object('reason', %s::text, 'at', now(), 'point', NULL)"
        " WHERE id = %s AND frozen IS NULL",
        FROZEN,
        replica_id,
    )


def thaw(connection: Connection, replica_id: UUID) -> None:
    """Take `freeze` back."""
    run(connection, "UPDATE replica SET frozen = NULL WHERE id = %s AND frozen->>'reason' = %s", replica_id, FROZEN)


def take_place_of(connection: Connection, old: UUID, new: UUID, definition: Mapping[str, Any]) -> None:
    """Give a job's replica that has no points the id that its host knows it by.

    Args:
        connection: A transaction.
        old: The row's id.
        new: The id in the host's journal.
        definition: The VM as the journal has it.
    """
    run(connection, "UPDATE replica SET id = %s, definition = %s WHERE id = %s", new, Jsonb(dict(definition)), old)


def table_below(digests: Mapping[int, bytes], size_bytes: int, below: SegmentTable | None) -> dict[int, bytes]:
    """Return those of a disk's digests that its point has to bring: all that the table below doesn't give."""
    known = SegmentTable(size_bytes) if below is None else below.grown(size_bytes)
    return {number: digest for number, digest in digests.items() if known[number] != digest}
