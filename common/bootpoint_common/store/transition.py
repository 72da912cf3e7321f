"""The moves of a boot point's state machine; each locks the point first and fails where the state has moved on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError, Fenced
from bootpoint_common.identity import new_id
from bootpoint_common.message import Base

from .database import Connection, one, run
from .point import UNDOABLE, Point, State, base_as_json, point_name


def create(
    connection: Connection,
    *,
    run_uid: UUID,
    replica_id: UUID,
    instant: datetime,
    consistency: str,
    incarnation: UUID,
    offered_base: Base | None,
    sizes: Sequence[tuple[str, int]],
    window_bytes: int,
) -> UUID:
    """Write an offered point with its disks.

    Args:
        connection: A transaction.
        run_uid: The run.
        replica_id: The replica.
        instant: What names it.
        consistency: What the snapshot reached.
        incarnation: The agent's.
        offered_base: What the agent holds of an earlier point.
        sizes: Slot and size in bytes of each disk, in order.
        window_bytes: Credit window of each stream.

    Returns:
        The point's id.

    Raises:
        psycopg.errors.UniqueViolation: Another point of the replica isn't finished.
    """
    point_id = new_id()
    replica = one(connection, "SELECT epoch, chain, head FROM replica WHERE id = %s FOR UPDATE", replica_id)
    if replica is None:
        raise Fenced
    run(
        connection,
        "INSERT INTO boot_point (id, replica_id, run_uid, sequence, name, state, kind, base, offered_base, epoch,"
        " chain, consistency, instant, incarnation) VALUES (%s, %s, %s,"
        " (SELECT coalesce(max(sequence), 0) + 1 FROM boot_point WHERE replica_id = %s),"
        " %s, 'offered', %s, %s, %s, %s, %s, %s, %s, %s)",
        point_id,
        replica_id,
        run_uid,
        replica_id,
        point_name(instant),
        "full" if replica["head"] is None else "increment",
        replica["head"],
        None if offered_base is None else Jsonb(base_as_json(offered_base)),
        replica["epoch"],
        replica["chain"],
        consistency,
        instant,
        incarnation,
    )
    for position, (slot, size) in enumerate(sizes):
        run(
            connection,
            "INSERT INTO boot_point_disk (id, point_id, slot, position, size_bytes, window_bytes)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            new_id(),
            point_id,
            slot,
            position,
            size,
            window_bytes,
        )
    return point_id


def opened(connection: Connection, point: Point, layers: Mapping[str, str], *, reason: str | None) -> bool:
    """Move a point from offered to open, and name the layers, before the first byte.

    Args:
        connection: A transaction that holds the replica's claim.
        point: The point.
        layers: Identity of each disk's layer, by slot.
        reason: Why the increment isn't the agent's own, such as ``base_lost``.

    Returns:
        False where the point has left the state meanwhile.
    """
    moved = run(
        connection,
        "UPDATE boot_point SET state = 'open', reason = %s, opened_at = now(), progress_at = now(), waits_for = NULL"
        " WHERE id = %s AND state = 'offered'",
        reason,
        point.id,
    )
    if not moved:
        return False
    for slot, identity in layers.items():
        run(
            connection,
            "UPDATE boot_point_disk SET layer = %s WHERE point_id = %s AND slot = %s",
            identity,
            point.id,
            slot,
        )
    return True


def waits_for(connection: Connection, point_id: UUID, code: str, *, states: Iterable[State]) -> bool:
    """Note what the next step of an unfinished point met, while it is tried again and the point is still there.

    Returns:
        Whether that is news.
    """
    return bool(
        run(
            connection,
            "UPDATE boot_point SET waits_for = %s WHERE id = %s AND waits_for IS DISTINCT FROM %s"
            " AND state = ANY(%s)",
            code,
            point_id,
            code,
            [str(state) for state in states],
        )
    )


def fence_disks(connection: Connection, point_id: UUID) -> None:
    """End every claim on a point's disks: their holders' next write finds a greater number."""
    run(
        connection,
        "UPDATE boot_point_disk SET writer = writer + 1, writer_until = '-infinity' WHERE point_id = %s",
        point_id,
    )


def committing(connection: Connection, point_id: UUID) -> bool:
    """Enter or re-enter the point of no return; False where the point isn't sealed or committing."""
    moved = run(
        connection,
        "UPDATE boot_point SET state = 'committing' WHERE id = %s AND state IN ('sealed', 'committing')",
        point_id,
    )
    if moved:
        fence_disks(connection, point_id)
    return moved == 1


def committed(connection: Connection, point: Point, stored: Mapping[str, int]) -> None:
    """Make the point the head; the caller writes the outbox rows in the same transaction.

    Raises:
        Fenced: The point isn't committing any more: somebody else finished it.
    """
    moved = run(
        connection,
        "UPDATE boot_point SET state = 'committed', committed_at = now(), ended_at = now(), waits_for = NULL"
        " WHERE id = %s AND state = 'committing'",
        point.id,
    )
    if moved != 1:
        raise Fenced
    for slot, size in stored.items():
        run(
            connection,
            "UPDATE boot_point_disk SET stored_bytes = %s WHERE point_id = %s AND slot = %s",
            size,
            point.id,
            slot,
        )
    run(connection, "UPDATE replica SET head = %s WHERE id = %s", point.id, point.replica_id)
    run(
        connection,
        "UPDATE run SET changed_bytes = greatest(changed_bytes, (SELECT sum(d.changed_bytes)::bigint"
        " FROM boot_point_disk d WHERE d.point_id = %s)) WHERE uid = %s",
        point.id,
        point.run_uid,
    )
    run(
        connection,
        "DELETE FROM sample s USING boot_point_disk d WHERE s.point_disk_id = d.id AND d.point_id = %s",
        point.id,
    )


def aborting(connection: Connection, point_id: UUID, problem: BootpointError, *, force: bool = False) -> bool:
    """Give a point up; ``force`` is for a committing one that the host has no trace of.

    Returns:
        False where it can't be given up any more (committing or final), or is being given up already.
    """
    states = [*UNDOABLE, State.COMMITTING] if force else list(UNDOABLE)
    moved = run(
        connection,
        "UPDATE boot_point SET state = 'aborting', problem = %s WHERE id = %s AND state = ANY(%s)",
        Jsonb(problem.as_json()),
        point_id,
        [str(state) for state in states],
    )
    if moved:
        fence_disks(connection, point_id)
    return moved == 1


def aborted(connection: Connection, point_id: UUID) -> None:
    """Record that the host has nothing left of the point.

    Raises:
        Fenced: Somebody else finished it.
    """
    moved = run(
        connection,
        "UPDATE boot_point SET state = 'aborted', ended_at = now(), waits_for = NULL"
        " WHERE id = %s AND state = 'aborting'",
        point_id,
    )
    if moved != 1:
        raise Fenced
    run(
        connection,
        "DELETE FROM segment s USING boot_point_disk d WHERE s.point_disk_id = d.id AND d.point_id = %s",
        point_id,
    )
    run(
        connection,
        "DELETE FROM sample s USING boot_point_disk d WHERE s.point_disk_id = d.id AND d.point_id = %s",
        point_id,
    )
