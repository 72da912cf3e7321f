"""What stands on which point, as rows: kept in step with what a host's journal shows.

A point is referred to (`store.reference`) as long as the standby runs on it or was reverted to it, or a test VM stands
on it. A standby that is off and follows the newest point refers to nothing: the next commit moves it on.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from bootpoint_common.errors import Code, error
from bootpoint_common.store import reference
from bootpoint_common.store.database import Connection, one, one_row, rows, run
from bootpoint_worker.targets.journal import Journal

#: A use of a point: kind of reference, and the VM's name.
Use = tuple[reference.Kind, str]


def uses(journal: Journal) -> dict[Use, UUID]:
    """Return which points are in use on a host, by whom."""
    found: dict[Use, UUID] = {}
    for stands in journal.standings:
        if stands.test_id is not None:
            found["test", stands.vm_name] = stands.point_id
        elif stands.held or journal.standby == "running":
            found["standby", stands.vm_name] = stands.point_id
    return found


def seen_now(connection: Connection) -> datetime:
    """Return the database's time: what is referred to after a journal was read isn't dropped for its sake."""
    at: datetime = one_row(connection, "SELECT clock_timestamp() AS at")["at"]
    return at


def refer(connection: Connection, point_id: UUID, use: Use, *, job: str, host: str) -> None:
    """Refer to a point before something is put on it, unless it is referred to already.

    A point that the database doesn't know, as after the restore of an older backup, is left to the host's journal.

    Raises:
        RefusedError: ``point_in_use``: it is being merged into its successor.
    """
    kind, holder = use
    if one(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", point_id) is None:
        return
    known = "SELECT 1 FROM reference WHERE point_id = %s AND kind = %s AND holder = %s AND until > now()"
    if one(connection, known, point_id, kind, holder) is not None:
        return
    if reference.take(connection, point_id, kind, holder, seconds=None) is None:
        raise error(
            Code.POINT_IN_USE,
            f"the boot point is being merged into its successor on host {host}",
            value=str(point_id),
            hint="choose a newer point",
            job=job,
            host=host,
        )


def keep(connection: Connection, replica_id: UUID, journal: Journal, seen: datetime) -> None:
    """Write down what a journal shows: the standby's state, where it is held, and the references that follow.

    Args:
        connection: A transaction that locks nothing yet: points are locked before the replica.
        replica_id: The replica.
        journal: What its host shows.
        seen: `seen_now`, before the journal was read.
    """
    wanted = uses(journal)
    found = rows(
        connection,
        "SELECT e.id, e.point_id, e.kind, e.holder, e.created_at < %s AS old FROM reference e"
        " JOIN boot_point p ON p.id = e.point_id WHERE p.replica_id = %s AND e.until > now()"
        " AND (e.kind = 'standby' OR e.kind = 'test' AND starts_with(e.holder, %s))",
        seen,
        replica_id,
        f"{journal.vm_name}-test-",
    )
    kept = set()
    for row in found:
        use = (row["kind"], row["holder"])
        if wanted.get(use) == row["point_id"]:
            kept.add(use)
        elif row["old"]:
            reference.drop(connection, row["id"])
    for (kind, holder), point_id in wanted.items():
        if (kind, holder) not in kept:
            reference.take(connection, point_id, kind, holder, seconds=None)
    stands = journal.standing
    run(
        connection,
        "UPDATE replica SET standby = %s, held = (SELECT id FROM boot_point WHERE id = %s),"
        " drift = CASE WHEN %s THEN NULL ELSE drift END WHERE id = %s",
        journal.standby,
        stands.point_id if stands is not None and stands.held else None,
        journal.drift is None,
        replica_id,
    )
