"""The history: what happened, who did it. Rows are written once and never changed."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from bootpoint_common.alert import is_alert

from . import notice
from .database import Connection, run
from .point import Point


def record(
    connection: Connection,
    kind: str,
    text: str,
    *,
    actor: str,
    origin: str | None = None,
    job: str | None = None,
    run_number: int | None = None,
    point: str | None = None,
    host: str | None = None,
    agent: str | None = None,
    code: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Write one event, and the notices of one that people are told of.

    Args:
        connection: The transaction that makes it true.
        kind: Static name, such as ``run_failed``.
        text: One sentence for people.
        actor: Who: ``worker``, ``scheduler``, ``agent erp-db``, a user's name.
        origin: From where: a process, a command; by default what the connection was opened for (`Database`).
        job: Name of the job.
        run_number: Number of the run.
        point: Name of the boot point.
        host: Name of the target host.
        agent: Name of the agent.
        code: Code of the error or the refusal.
        details: Anything else.
    """
    run(
        connection,
        "INSERT INTO event (kind, text, actor, origin, job, run, point, host, agent, code, details)"
        " VALUES (%s, %s, %s, coalesce(%s, nullif(current_setting('bootpoint.origin', true), '')),"
        " %s, %s, %s, %s, %s, %s, %s)",
        kind,
        text,
        actor,
        origin,
        job,
        run_number,
        point,
        host,
        agent,
        code,
        None if details is None else Jsonb(details),
    )
    if job is not None and is_alert(kind, details):
        notice.alert(connection, job)


def of_point(
    connection: Connection,
    found: Point,
    kind: str,
    text: str,
    *,
    actor: str,
    code: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Write one event about a boot point: its job, run, host and agent follow from it."""
    record(
        connection,
        kind,
        text,
        actor=actor,
        job=found.job,
        run_number=found.run_number,
        point=found.name,
        host=found.host,
        agent=found.agent,
        code=code,
        details=details,
    )
