"""What an unfinished point waits for: a host that is away or refuses must be seen by people who read no logs."""

from __future__ import annotations

import logging

from bootpoint_common.errors import BootpointError
from bootpoint_common.store import event, transition
from bootpoint_common.store.point import Point

from .context import Context

_log = logging.getLogger(__name__)


def note_wait(context: Context, found: Point, what: str, problem: BootpointError) -> None:
    """Say why a step of a point failed that is tried again: each time in the log, once for each code in the history.

    Args:
        context: What the actor works with.
        found: The point.
        what: The step, as ``its commit``.
        problem: What it met.
    """
    code = str(problem.code)
    _log.warning("step failed", extra={"point": found.name, "step": what, "code": code, "cause": problem.message})
    with context.database.transaction() as connection:
        if transition.waits_for(connection, found.id, code):
            text = f"{found.name}: {what} waits, and is tried again: {problem.message}"
            event.of_point(connection, found, "point_waits", text, actor="worker", code=code)
