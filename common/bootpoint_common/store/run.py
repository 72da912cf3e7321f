"""Runs: one execution of a job, one snapshot, one boot point for each target."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.metric import RUN_SECONDS, RUNS

from . import count, event, notice, outbox, outcome, point, retry, transition
from .database import Connection, Row, one, one_row, rows, run
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


#: Failures that the history calls by a name of their own.
_FAILING = {Code.DEADLINE: "deadline"}

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


def end(
    connection: Connection,
    run_uid: UUID,
    problem: BootpointError,
    *,
    actor: str,
    origin: str | None = None,
    ending: str = "failed",
) -> bool:
    """Let a run fail or be cancelled: its points are given up, and when they are gone the run ends.

    Args:
        connection: A transaction.
        run_uid: The run.
        problem: Why.
        actor: Who.
        origin: From where.
        ending: ``failed`` or ``cancelled``.

    Returns:
        False where it is too late: the run has ended, or a point of it is being committed, or (for a cancel) all of
        its points are.
    """
    unfinished = rows(
        connection,
        "SELECT id, state FROM boot_point WHERE run_uid = %s AND state NOT IN ('committed', 'aborted')"
        " ORDER BY id FOR UPDATE",
        run_uid,
    )
    found = get(connection, run_uid, lock=True)
    if found is None or found.state not in ("waiting", "running"):
        return False
    if any(row["state"] == point.State.COMMITTING for row in unfinished):
        return False
    if ending == "cancelled" and not unfinished and found.ending is None and not _open_targets(connection, run_uid):
        return False
    if found.ending is None:
        _mark(connection, found, problem, ending)
        event.record(
            connection,
            "cancel_requested" if ending == "cancelled" else _FAILING.get(problem.code, "run_failing"),
            problem.message,
            actor=actor,
            origin=origin,
            job=found.job_name,
            run_number=found.id,
            agent=found.agent,
            code=str(problem.code),
        )
    for row in unfinished:
        give_up(connection, row["id"], problem)
    if not unfinished:
        told = message.Aborted(
            run=run_uid, replica_id=None, point_id=None, problem=problem_message(problem), job=found.job_name
        )
        outbox.tell(connection, found.agent, run_uid, told)
    settle(connection, run_uid)
    return True


def _mark(connection: Connection, found: Run, problem: BootpointError, ending: str) -> None:
    run(
        connection,
        "UPDATE run SET ending = %s, reason = %s, message = %s, hint = %s, retryable = %s WHERE uid = %s",
        ending,
        str(problem.code),
        problem.message,
        problem.hint,
        problem.retryable,
        found.uid,
    )


def give_up(connection: Connection, point_id: UUID, problem: BootpointError, *, force: bool = False) -> bool:
    """Move a point to aborting and enqueue the work; see `transition.aborting`."""
    found = point.get(connection, point_id, lock=True)
    if found is None or not transition.aborting(connection, point_id, problem, force=force):
        return False
    outbox.task(connection, found.pool, "abort", point_id)
    # There is no way back from here, so the source is released at once, however long the host takes to be reached.
    told = message.Aborted(
        run=found.run_uid, replica_id=found.replica_id, point_id=point_id, problem=problem_message(problem)
    )
    outbox.tell(connection, found.agent, point_id, told)
    current = get(connection, found.run_uid, lock=True)
    if current is not None and current.state == "running" and current.ending is None:
        _mark(connection, current, problem, "failed")
        event.of_point(
            connection, found, "point_given_up", problem.message, actor="worker", code=str(problem.code)
        )
    return True


def problem_message(problem: BootpointError) -> message.Problem:
    """Return an error as it travels."""
    value = None if problem.value is None else str(problem.value)
    return message.Problem(
        code=str(problem.code), message=problem.message, key=problem.key, value=value, hint=problem.hint
    )


def settle(connection: Connection, run_uid: UUID) -> bool:
    """End a run whose points are all final.

    Returns:
        Whether the run has ended (now or before).
    """
    found = get(connection, run_uid, lock=True)
    if found is None or found.state not in ("waiting", "running"):
        return True
    open_points = one_row(
        connection,
        "SELECT count(*) AS n FROM boot_point WHERE run_uid = %s AND state NOT IN ('committed', 'aborted')",
        run_uid,
    )
    if open_points["n"] or (found.ending is None and (_open_targets(connection, run_uid) or _unreported(found))):
        return False
    state = found.ending or "succeeded"
    ended = one_row(
        connection,
        "UPDATE run SET state = %s, ended_at = now(), line = NULL WHERE uid = %s"
        " RETURNING extract(epoch FROM ended_at - started_at)::double precision AS seconds",
        state,
        run_uid,
    )
    plan = outcome.measure(connection, run_uid) if state == "succeeded" else None
    event.record(
        connection,
        f"run_{state}",
        found.message or "run succeeded",
        actor="worker",
        job=found.job_name,
        run_number=found.id,
        agent=found.agent,
        code=found.reason,
        details=None if plan is None else {"plan": plan},
    )
    retry.follow(connection, found.uid)
    notice.run_ended(connection, found.id, found.spec)  # it says when the next attempt is
    count.add(connection, {(RUNS, (state, found.reason or "")): 1})
    if ended["seconds"] is not None:
        count.observe(connection, RUN_SECONDS, ended["seconds"])
    return True


def _open_targets(connection: Connection, run_uid: UUID) -> int:
    """Return for how many of its targets a run has no point yet."""
    row = one_row(
        connection,
        "SELECT count(*) AS n FROM run_target t WHERE t.run_uid = %s AND NOT EXISTS"
        " (SELECT 1 FROM boot_point p WHERE p.run_uid = t.run_uid AND p.replica_id = t.replica_id)",
        run_uid,
    )
    return int(row["n"])


def _unreported(found: Run) -> bool:
    """Tell whether a run's end still waits for the script after its point."""
    return found.reports and not any(script["stage"] == "after_point" for script in found.scripts)


def cancel(connection: Connection, number: int, *, actor: str, origin: str | None = None) -> Run:
    """Cancel a run.

    Args:
        connection: A transaction.
        number: The run's number.
        actor: Who.
        origin: From where: a command.

    Raises:
        NotFoundError: ``no_such_run``.
        RefusedError: ``too_late``: it has ended, or a point of it is being committed.
    """
    found = by_number(connection, number)
    problem = error(Code.CANCELLED, f"cancelled by {actor}")
    if not end(connection, found.uid, problem, actor=actor, origin=origin, ending="cancelled"):
        raise error(
            Code.TOO_LATE, f"run {number} can't be cancelled any more", job=found.job_name, key="run", value=number
        )
    return found


def leave_line(connection: Connection, job_id: int, why: str, *, actor: str) -> None:
    """Cancel the run of a job that waits, unless somebody asked for it by hand: the job is to run by itself no more.

    Args:
        connection: The transaction that pauses or disables the job.
        job_id: The job.
        why: What the run says of its end.
        actor: Who.
    """
    query = "SELECT uid, job_name FROM run WHERE job_id = %s AND state = 'waiting' AND trigger <> 'manual'"
    for row in rows(connection, query, job_id):
        problem = error(Code.CANCELLED, why, job=row["job_name"])
        end(connection, row["uid"], problem, actor=actor, ending="cancelled")


def add_scripts(connection: Connection, run_uid: UUID, results: list[message.ScriptResult]) -> None:
    """Keep what scripts of the job did, one result a stage; one that failed is an event, the first time it is told."""
    found = get(connection, run_uid, lock=True)
    if not results or found is None:
        return
    known = {script["stage"] for script in found.scripts}
    for result in results:
        if result.exit_code != 0 and result.stage not in known:
            _note_failure(connection, found, result)
    stages = [r.stage for r in results]
    objects = [
        {"stage": r.stage, "exit_code": r.exit_code, "duration_seconds": r.duration_seconds, "output": r.output}
        for r in results
    ]
    run(
        connection,
        "UPDATE run SET scripts = (SELECT coalesce(jsonb_agg(s), '[]') FROM jsonb_array_elements(scripts) s"
        " WHERE NOT s->>'stage' = ANY(%s)) || %s WHERE uid = %s",
        stages,
        Jsonb(objects),
        run_uid,
    )


def _note_failure(connection: Connection, found: Run, result: message.ScriptResult) -> None:
    how = "was ended" if result.exit_code is None else f"ended with exit code {result.exit_code}"
    event.record(
        connection,
        "script_failed",
        f"the script {result.stage} {how}",
        actor=f"agent {found.agent}",
        job=found.job_name,
        run_number=found.id,
        agent=found.agent,
        code=str(Code.SCRIPT_FAILED),
        details={"stage": result.stage, "exit_code": result.exit_code, "duration_seconds": result.duration_seconds},
    )
