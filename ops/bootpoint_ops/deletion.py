"""Deleting a job: what speaks against it, what becomes of its replicas, and which replicas there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bootpoint_common.errors import BootpointError, Code, error, together
from bootpoint_common.store import disk, event, kept, trash
from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import Connection, one, present, rows, run
from bootpoint_common.store.job import Job, ReplicaRow
from bootpoint_common.store.shown import jsonable

#: How what uses a point is ended, by the kind of reference. A standby that is off goes with its replica, and a
#: verification ends when there is nothing left to be read.
_ENDS = {
    "test": "`bootpoint switch list` and `vm list HOST` show the test: end it",
    "check": "wait for the boot check, or end it: `bootpoint switch list`",
    "export": "wait for the export, or end it",
    "mount": "`bootpoint point umount DIR`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What became of a job's replicas.

    Attributes:
        trashed: Those that go into their hosts' trash.
        left: Those that stay on their hosts, without a job.
    """

    trashed: tuple[ReplicaRow, ...]
    left: tuple[ReplicaRow, ...]


def running(connection: Connection, found: Job) -> int | None:
    """Return the number of the job's run that is under way."""
    busy = one(connection, "SELECT id FROM run WHERE job_id = %s AND state IN ('waiting', 'running')", found.id)
    return None if busy is None else int(busy["id"])


def look(connection: Connection, name: str, *, replicas: bool, force: bool) -> Job:
    """Say whether a job can be deleted.

    Args:
        connection: A transaction.
        name: The job.
        replicas: Whether its replicas go with it.
        force: Whether a run that is under way is no reason against it.

    Raises:
        NotFoundError: ``no_such_job``.
        RefusedError: ``already_running``; ``standby_running``, ``point_in_use``: everything that uses a replica.
    """
    found = jobs.by_name(connection, name)
    number = running(connection, found)
    if number is not None and not force:
        raise error(
            Code.ALREADY_RUNNING,
            f"job {found.name} has run {number} under way",
            job=found.name,
            key="run",
            value=number,
            hint=f"wait for it, cancel it with `bootpoint run cancel {number}`, or say --force, which cancels it",
        )
    if replicas:
        problems = [problem for row in jobs.replicas(connection, found.id) for problem in _uses(connection, row)]
        if problems:
            raise together(problems)
    return found


def delete(connection: Connection, name: str, *, replicas: bool, actor: str, now: datetime | None = None) -> Deletion:
    """Delete a job; its replicas stay on their hosts, or are moved into their hosts' trash.

    Args:
        connection: A transaction.
        name: The job.
        replicas: Whether its replicas go with it.
        actor: Who.
        now: The instant, aware; None for this one.

    Raises:
        BootpointError: As `look` does.
        RetryableError: ``busy``: a worker has a replica in hand.
    """
    # The agent first, and points before their replica, as everywhere; whoever wants one of them from now on waits, and
    # finds it gone.
    found = jobs.by_name(connection, name)
    one(connection, "SELECT 1 FROM agent WHERE id = %s FOR NO KEY UPDATE", found.agent_id)
    one(connection, "SELECT 1 FROM job WHERE id = %s FOR UPDATE", found.id)
    for row in jobs.replicas(connection, found.id):
        run(connection, "SELECT 1 FROM boot_point WHERE replica_id = %s ORDER BY id FOR UPDATE", row.id)
    found = look(connection, name, replicas=replicas, force=False)
    trashed, left = [], []
    for row in jobs.replicas(connection, found.id):
        if row.definition is None:  # nothing was ever made on the host
            jobs.forget(connection, row.id)
        elif replicas:
            _refuse_busy(connection, row)
            trash.put(connection, row, by=actor, at=now or present(connection))
            trashed.append(row)
        else:
            left.append(row)
    run(connection, "DELETE FROM job WHERE id = %s", found.id)
    details = {"trash": [row.host for row in trashed], "left": [row.host for row in left]}
    text = f"job {found.name} deleted"
    event.record(connection, "job_deleted", text, actor=actor, job=found.name, details=details)
    disk.review(connection, found.agent_id, actor=actor)
    return Deletion(trashed=tuple(trashed), left=tuple(left))


def _uses(connection: Connection, row: ReplicaRow) -> Iterator[BootpointError]:
    """Yield what uses a replica."""
    if row.standby == "running":
        text = f"the standby of job {row.job_name} is running on {row.host}"
        yield error(Code.STANDBY_RUNNING, text, job=row.job_name, host=row.host)
    for point in kept.points(connection, row.id):
        if point.pinned is not None:
            hint = f"`bootpoint point unpin {row.job_name} {point.name}`"
            yield _in_use(row, point.name, f"pinned ({point.pinned['reason']})", hint)
        for use in point.used_by:
            kind, _, holder = use.partition(" ")
            if kind in _ENDS:
                yield _in_use(row, point.name, f"in use by {kind} {holder}", _ENDS[kind])


def _in_use(row: ReplicaRow, point: str, why: str, hint: str) -> BootpointError:
    text = f"{point} of job {row.job_name} on {row.host} is {why}"
    return error(Code.POINT_IN_USE, text, job=row.job_name, host=row.host, key="point", value=point, hint=hint)


def _refuse_busy(connection: Connection, row: ReplicaRow) -> None:
    """Refuse a replica that a worker has in hand, or of which a point is half merged."""
    busy = one(
        connection,
        "SELECT 1 FROM replica WHERE id = %s AND (writer_until >= now() OR consolidating IS NOT NULL)",
        row.id,
    )
    if busy is not None:
        text = f"a worker is at work on the replica of job {row.job_name} on {row.host}"
        raise error(Code.BUSY, text, job=row.job_name, host=row.host)


# --- replicas


def replica_list(connection: Connection) -> list[dict[str, Any]]:
    """Return every replica: of jobs, left behind by deleted jobs, and in the trash."""
    found = rows(
        connection,
        "SELECT y.job_name AS job, h.name AS host,"
        " CASE WHEN y.job_id IS NULL THEN 'left' ELSE y.state END AS state,"
        " y.definition->>'vm_name' AS vm, count(DISTINCT p.id) AS points,"
        " coalesce(sum(d.stored_bytes), 0)::bigint AS stored_bytes, NULL::text AS deleted_by,"
        " NULL::timestamptz AS deleted_at, NULL::timestamptz AS purge_at, NULL::jsonb AS problem"
        " FROM replica y JOIN host h ON h.id = y.host_id"
        " LEFT JOIN boot_point p ON p.replica_id = y.id AND p.state = 'committed' AND p.consolidated_at IS NULL"
        " LEFT JOIN boot_point_disk d ON d.point_id = p.id GROUP BY y.id, h.name"
        " UNION ALL SELECT t.job_name, h.name, CASE t.state WHEN 'resting' THEN 'trash' ELSE t.state END,"
        " t.definition->>'vm_name', t.points, t.stored_bytes, t.deleted_by, t.deleted_at, t.purge_at, t.problem"
        " FROM trash t JOIN host h ON h.id = t.host_id ORDER BY job, host, deleted_at NULLS FIRST",
    )
    return [jsonable(row) for row in found]


def forget(connection: Connection, job: str, host: str, *, actor: str) -> int:
    """Forget replicas that no job has any more; what is on the host is not touched, and stays.

    Returns:
        How many were forgotten.

    Raises:
        NotFoundError: ``no_such_vm``: there is none.
        RefusedError: ``point_in_use``: the job has the replica still.
    """
    kept_by = one(
        connection,
        "SELECT 1 FROM replica y JOIN host h ON h.id = y.host_id JOIN job j ON j.id = y.job_id"
        " WHERE j.name = %s AND h.name = %s AND y.state <> 'detached'",
        job,
        host,
    )
    gone = rows(
        connection,
        "SELECT y.id FROM replica y JOIN host h ON h.id = y.host_id WHERE y.job_name = %s AND h.name = %s"
        " AND (y.job_id IS NULL OR y.state = 'detached')",
        job,
        host,
    )
    deleted = [each for each in trash.listed(connection) if (each.job_name, each.host) == (job, host)]
    if not gone and not deleted:
        if kept_by is not None:
            hint = "take the target out of its job file and apply that, or delete the job"
            text = f"job {job} keeps a replica on {host}"
            raise error(Code.POINT_IN_USE, text, job=job, host=host, hint=hint)
        text, hint = f"there is no replica of {job} on {host}", "`bootpoint replica list` lists them"
        raise error(Code.NO_SUCH_VM, text, job=job, host=host, hint=hint)
    for row in gone:
        jobs.forget(connection, row["id"])
    for each in deleted:
        trash.drop(connection, each.id)
    text = f"the replica of {job} on {host} is forgotten; what is on the host stays there"
    event.record(connection, "replica_forgotten", text, actor=actor, job=job, host=host)
    return len(gone) + len(deleted)
