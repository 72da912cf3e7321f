"""Notices as the command line shows them: trying them out, and those that could not be sent yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import Code, error
from bootpoint_common.store import delivery, event, notice
from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import Connection, Row
from bootpoint_common.store.shown import jsonable
from bootpoint_common.units import format_duration
from bootpoint_ops.environment import Environment

#: Seconds after which a notice that still waits is worth a word: one or two attempts have failed.
PENDING_SECONDS = 180.0

#: What is missing where no process takes a notice of a channel.
_NOBODY = {
    "mail": "no process took it: set BOOTPOINT_MAIL for a worker or scheduler that runs",
    "webhook": "no process took it: is a worker or scheduler running?",
}


def try_out(env: Environment, name: str, timeout: float) -> dict[str, Any]:
    """Send a test to everybody whom a job names, through the processes that send its real notices.

    Args:
        env: The installation.
        name: The job.
        timeout: Seconds to wait; what was not sent by then won't be.

    Returns:
        The job and, for each address, whether it was ``sent`` or ``failed``, and why.

    Raises:
        NotFoundError: ``no_such_job``.
        UsageError: ``spec_invalid``: the job tells nobody.
    """
    with env.database.transaction() as connection:
        found = jobs.by_name(connection, name)
        text = f"{env.actor} tries whether notices of job {found.name} arrive"
        event.record(connection, str(notice.Kind.TEST), text, actor=env.actor, job=found.name)
        ids = notice.test(connection, found.spec)
        if not ids:
            raise error(
                Code.SPEC_INVALID, f"job {found.name} tells nobody", job=found.name, key="notify",
                hint="add [notify] with mail or webhook to the job file, and apply it",
            )  # fmt: skip
    _wait(env, ids, timeout)
    with env.database.transaction() as connection:
        delivery.withdraw(connection, ids)
        items = [_item(row) for row in delivery.state_of(connection, ids)]
    return {"job": found.name, "items": items}


def _wait(env: Environment, ids: list[UUID], timeout: float) -> None:
    until = time.monotonic() + timeout
    with env.database.listen(delivery.CHANNEL) as connection:
        while any(row["state"] == "waiting" for row in delivery.state_of(connection, ids)):
            left = until - time.monotonic()
            if left <= 0:
                return
            for _ in connection.notifies(timeout=left, stop_after=1):
                pass


def _item(row: Row) -> dict[str, Any]:
    nobody = row["state"] == "failed" and row["problem"] is None
    problem = _NOBODY[row["channel"]] if nobody else row["problem"]
    return {"channel": row["channel"], "address": row["address"], "state": row["state"], "problem": problem}


def pending(connection: Connection) -> list[dict[str, Any]]:
    """Return, by channel, notices that wait for long: how many, since when, and what the last attempt met."""
    found: list[dict[str, Any]] = jsonable(delivery.pending(connection, PENDING_SECONDS))
    return found


def pending_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """Return a line for each channel that is held up."""
    for row in found:
        waited = (datetime.now(UTC) - datetime.fromisoformat(row["since"])).total_seconds()
        what = f"{row['waiting']} {'notice waits' if row['waiting'] == 1 else 'notices wait'}"
        why = row["problem"] or _NOBODY[row["channel"]]
        yield f"{row['channel']}: {what} for up to {format_duration(waited)}: {why}"
