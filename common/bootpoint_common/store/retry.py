"""What follows the end of a run by itself: another attempt after a failure that may pass, or none any more."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from bootpoint_common.job.timetable import read_rules

from . import due, event
from .database import Connection, Row, one
from .due import Kind

_ENDED = """
SELECT r.id, r.job_id, r.job_name, r.state, r.reason, r.attempt, r.retryable, r.last_breath, r.ended_at, j.spec,
    j.enabled AND (j.paused_until IS NULL OR j.paused_until <= r.ended_at) AS by_itself
FROM run r JOIN job j ON j.id = r.job_id WHERE r.uid = %s
"""


def follow(connection: Connection, run_uid: UUID) -> datetime | None:
    """Let another attempt follow a run that has ended, or take back what an earlier failure had coming.

    A failure is tried again ``run.retry.times`` times where it may pass by itself. A success needs no other attempt,
    and whoever cancels wants none. Neither does the last run of a machine that is off by then.

    Args:
        connection: The transaction that ends the run.
        run_uid: The run.

    Returns:
        When the next attempt starts; None when there is none.
    """
    found = one(connection, _ENDED, run_uid)
    if found is None:
        return None
    rules = read_rules(found["spec"]).retry
    if (
        found["state"] == "failed"
        and found["retryable"]
        and found["by_itself"]
        and not found["last_breath"]
        and found["attempt"] <= rules.times
    ):
        return _again(connection, found, rules.times, rules.wait_seconds)
    taken_back = due.forget(connection, found["job_id"], Kind.RETRY)
    if taken_back is not None:
        _tell(
            connection, found, "retry_dropped",
            f"attempt {taken_back['details']['attempt']} is not made: run {found['id']} {found['state']}",
        )  # fmt: skip
    return None


def _again(connection: Connection, found: Row, times: int, wait: float) -> datetime:
    at: datetime = found["ended_at"] + timedelta(seconds=wait)
    details = {"run": found["id"], "attempt": found["attempt"] + 1}
    due.put(connection, found["job_id"], Kind.RETRY, at, details=details)
    text = f"attempt {found['attempt'] + 1} of {times + 1} starts at {at:%Y-%m-%d %H:%M:%S} UTC"
    _tell(connection, found, "retry_planned", text)
    return at


def _tell(connection: Connection, found: Row, kind: str, text: str) -> None:
    event.record(
        connection, kind, text, actor="scheduler", job=found["job_name"], run_number=found["id"], code=found["reason"]
    )
