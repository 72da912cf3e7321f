"""Cancelling a run: who asked for it, and from where, is in the history, also where it was too late."""

from __future__ import annotations

from typing import Any

from bootpoint_common.errors import RefusedError
from bootpoint_common.store import ending, event
from bootpoint_ops import read
from bootpoint_ops.environment import Environment


def cancel(env: Environment, number: int, *, origin: str) -> dict[str, Any]:
    """Cancel a run.

    Args:
        env: The installation, and who asks.
        number: The run's number.
        origin: The command that it came from.

    Returns:
        The run as it is now; it may take a few seconds until it has ended.

    Raises:
        NotFoundError: ``no_such_run``.
        RefusedError: ``too_late``.
    """
    try:
        with env.database.transaction() as connection:
            ending.cancel(connection, number, actor=env.actor, origin=origin)
            return read.run(connection, number)
    except RefusedError as refused:
        with env.database.transaction() as connection:
            event.record(
                connection,
                "cancel_refused",
                refused.message,
                actor=env.actor,
                origin=origin,
                job=refused.job,
                run_number=number,
                code=str(refused.code),
            )
        raise
