"""Pauses of jobs: until when one doesn't run by itself, why, and who said so."""

from __future__ import annotations

from datetime import UTC, datetime

from bootpoint_common.errors import Code, error
from bootpoint_common.store import due, ending, event
from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import Connection, Row, one, one_row
from bootpoint_common.store.job import Job


def pause(connection: Connection, name: str, *, until: datetime, reason: str, actor: str) -> Job:
    """Keep a job from running by itself until an instant; a pause that it has is replaced.

    Raises:
        NotFoundError: ``no_such_job``.
        UsageError: ``spec_invalid``: the instant is over, or the job is disabled.
    """
    found = jobs.by_name(connection, name)
    if not found.enabled:
        raise error(
            Code.SPEC_INVALID,
            f"job {found.name} is disabled, and runs by hand only",
            job=found.name,
            hint=f"`bootpoint job enable {found.name}` lets it run by itself again",
        )
    if one_row(connection, "SELECT %s <= now() AS over", until)["over"]:
        raise error(
            Code.SPEC_INVALID,
            "the pause would be over already",
            job=found.name,
            key="--until",
            value=until.isoformat(),
            hint="name an instant to come, such as 2030-01-31T06:00:00Z, or a duration, such as 8h",
        )
    due.pause(connection, found.id, until=until, reason=reason, actor=actor)
    ending.leave_line(connection, found.id, f"{actor} paused job {found.name}: {reason}", actor=actor)
    text = f"job {found.name} is paused until {until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC: {reason}"
    details = {"until": until.isoformat(), "reason": reason}
    event.record(connection, "job_paused", text, actor=actor, job=found.name, details=details)
    return found


def paused(connection: Connection, job_id: int) -> Row | None:
    """Return ``until``, ``reason`` and ``by`` of a pause that holds; None without one."""
    return one(
        connection,
        "SELECT paused_until AS until, pause_reason AS reason, paused_by AS by FROM job"
        " WHERE id = %s AND paused_until > now()",
        job_id,
    )
