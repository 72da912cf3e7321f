"""Runs: one execution of a job, one snapshot, one boot point for each target."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import Code, error

from .database import Connection, Row, one, one_row
from .start import Wanted, start


@dataclass(frozen=True, slots=True)
class Run:
    """A row of run with its job and agent."""

    uid: UUID
    id: int
    job_id: int | None
    job_name: str
    agent_id: UUID
    agent: str
    pool: str
    state: str
    ending: str | None
    reason: str | None
    message: str | None
    hint: str | None
    scripts: list[dict[str, Any]]
    trigger: str
    attempt: int
    retryable: bool | None
    last_breath: bool
    due_at: datetime
    begin_by: datetime | None
    expires_at: datetime | None
    reports: bool
    spec: dict[str, Any] | None
    revision: int | None


_RUN = """
SELECT r.*, a.name AS agent, j.spec, j.revision FROM run r JOIN agent a ON a.id = r.agent_id
LEFT JOIN job j ON j.id = r.job_id
"""


def _run(row: Row) -> Run:
    return Run(**{name: row[name] for name in Run.__slots__})


def get(connection: Connection, uid: UUID, *, lock: bool = False) -> Run | None:
    """Read a run; with ``lock`` it stays locked until the transaction ends."""
    if lock:
        one(connection, "SELECT 1 FROM run WHERE uid = %s FOR UPDATE", uid)
    row = one(connection, _RUN + "WHERE r.uid = %s", uid)
    return None if row is None else _run(row)


def by_number(connection: Connection, number: int) -> Run:
    """Read a run by its number.

    Raises:
        NotFoundError: ``no_such_run``.
    """
    row = one(connection, _RUN + "WHERE r.id = %s", number)
    if row is None:
        raise error(Code.NO_SUCH_RUN, f"there is no run {number}", key="run", value=number)
    return _run(row)


def create(
    connection: Connection,
    job_id: int,
    *,
    trigger: str,
    requested_by: str,
    attempt: int = 1,
    last_breath: bool = False,
    begin_by: datetime | None = None,
    origin: str | None = None,
) -> Run:
    """Make a run that waits for its admission; many at a time are made by `start.start`.

    Args:
        connection: A transaction.
        job_id: The job.
        trigger: ``schedule``, ``event``, ``manual``, ``catch_up`` or ``retry``.
        requested_by: Who asked for it.
        attempt: 1, or which retry it is.
        last_breath: The machine is about to stop: it goes to the head of the line.
        begin_by: It isn't begun after this instant (``deadline``).
        origin: From where it was asked for.

    Returns:
        The run.

    Raises:
        RefusedError: ``already_running``.
        NotFoundError: ``no_such_job``.
    """
    wanted = Wanted(
        job_id=job_id,
        trigger=trigger,
        requested_by=requested_by,
        attempt=attempt,
        last_breath=last_breath,
        begin_by=begin_by,
        origin=origin,
    )
    uid = start(connection, [wanted]).get(job_id)
    if uid is not None:
        return _run(one_row(connection, _RUN + "WHERE r.uid = %s", uid))
    job = one(connection, "SELECT name FROM job WHERE id = %s", job_id)
    if job is None:
        raise error(Code.NO_SUCH_JOB, f"there is no job {job_id}", key="job", value=job_id)
    busy = under_way(connection, job_id)
    number = busy if busy is not None else "?"
    raise error(
        Code.ALREADY_RUNNING,
        f"job {job['name']} has run {number} under way",
        job=job["name"],
        key="run",
        value=number,
    )


def under_way(connection: Connection, job_id: int) -> int | None:
    """Return the number of a job's run that waits or runs."""
    row = one(connection, "SELECT id FROM run WHERE job_id = %s AND state IN ('waiting', 'running')", job_id)
    return None if row is None else int(row["id"])
