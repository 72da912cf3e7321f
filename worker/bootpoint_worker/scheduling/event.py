"""Runs that an event of the source starts: its machine goes down, or came up again."""

from __future__ import annotations

from datetime import timedelta

from bootpoint_common.errors import Code, error
from bootpoint_common.store import due as dues
from bootpoint_common.store import event as history
from bootpoint_common.store import run as runs
from bootpoint_common.store import start as making
from bootpoint_common.store.database import Connection, Row, one, present, run
from bootpoint_common.store.due import Kind
from bootpoint_common.store.run import Run

#: Share of a shutdown's deadline within which a place must be free, else the run isn't begun.
PLACE_SHARE = 0.25

#: The event after which the machine is gone.
SHUTDOWN = "shutdown"


def start(
    connection: Connection, job_id: int, *, event: str, deadline_seconds: float | None, actor: str, origin: str | None
) -> Run | None:
    """Start the run of an event, or let it wait behind the run that the job has.

    A run that only stands in the line takes over the event's haste: what it copies is the same. One that has begun is
    waited for, as long as the deadline allows; the newest event of a job counts.

    Args:
        connection: A transaction.
        job_id: The job; whether it wants a run for this event is the caller's to know.
        event: ``shutdown`` or ``restart``.
        deadline_seconds: After so many seconds the machine is gone; None: it stays.
        actor: Who says so.
        origin: From where.

    Returns:
        The run; None where it waits for the end of another one, or where the job doesn't run by itself at the moment.

    Raises:
        NotFoundError: ``no_such_job``.
    """
    job = one(
        connection,
        "SELECT name, enabled AND (paused_until IS NULL OR paused_until <= now()) AS by_itself FROM job WHERE id = %s",
        job_id,
    )
    if job is None:
        raise error(Code.NO_SUCH_JOB, f"there is no job {job_id}", key="job", value=job_id)
    if not job["by_itself"]:
        text = f"no run for the {event}: job {job['name']} is disabled or paused"
        history.record(connection, "event_dropped", text, actor=actor, origin=origin, job=job["name"])
        return None
    now = present(connection)
    until = None if deadline_seconds is None else now + timedelta(seconds=deadline_seconds * PLACE_SHARE)
    wanted = making.Wanted(
        job_id=job_id,
        trigger="event",
        requested_by=actor,
        origin=origin,
        last_breath=event == SHUTDOWN,
        begin_by=until,
    )
    made = making.start(connection, [wanted]).get(job_id)
    if made is not None:
        dues.forget(connection, job_id, Kind.EVENT)
        return runs.get(connection, made)
    # Also a run that somebody makes at the same moment: it was waited for just now.
    busy = one(
        connection,
        "SELECT uid, id, state FROM run WHERE job_id = %s AND state IN ('waiting', 'running') FOR UPDATE",
        job_id,
    )
    number = None if busy is None else busy["id"]
    if busy is not None and busy["state"] == "waiting":
        _take_over(connection, busy, wanted)
        text = f"run {busy['id']}, which stood in the line, serves the {event}"
    else:
        details = {"event": event, "last_breath": wanted.last_breath, "actor": actor, "origin": origin}
        dues.put(connection, job_id, Kind.EVENT, now, until=until, details=details)
        text = f"the run for the {event} waits for the end of {'another run' if busy is None else f'run {number}'}"
    history.record(connection, "event_waits", text, actor=actor, origin=origin, job=job["name"], run_number=number)
    return runs.get(connection, busy["uid"]) if busy is not None and busy["state"] == "waiting" else None


def _take_over(connection: Connection, waiting: Row, wanted: making.Wanted) -> None:
    """Give a run that stands in the line the haste of an event."""
    run(
        connection,
        "UPDATE run SET last_breath = %s, begin_by = %s, line = NULL, look_at = NULL WHERE uid = %s",
        *(wanted.last_breath, wanted.begin_by, waiting["uid"]),
    )
