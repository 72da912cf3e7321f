"""How runs end: they fail, are cancelled, or are over once all of their points are final."""

from __future__ import annotations

from uuid import UUID

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.metric import RUN_SECONDS, RUNS

from . import count, event, notice, outbox, outcome, point, retry, transition
from .database import Connection, one_row, rows, run
from .run import Run, by_number, get

#: Failures that the history calls by a name of their own.
_FAILING = {Code.DEADLINE: "deadline"}


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
            run=run_uid, replica_id=None, point_id=None, problem=message.Problem.of(problem), job=found.job_name
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
        run=found.run_uid, replica_id=found.replica_id, point_id=point_id, problem=message.Problem.of(problem)
    )
    outbox.tell(connection, found.agent, point_id, told)
    current = get(connection, found.run_uid, lock=True)
    if current is not None and current.state == "running" and current.ending is None:
        _mark(connection, current, problem, "failed")
        event.of_point(
            connection, found, "point_given_up", problem.message, actor="worker", code=str(problem.code)
        )
    return True


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
