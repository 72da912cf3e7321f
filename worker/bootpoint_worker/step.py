"""A step of a boot point's life: opening, commit, abort. Only who holds the claim on the replica does it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

from bootpoint_common.errors import BootpointError, Fenced
from bootpoint_common.store import event, point, transition
from bootpoint_common.store.claim import Claim, claim
from bootpoint_common.store.database import run
from bootpoint_common.store.point import Point, PointDisk, State
from bootpoint_common.stream.carrier import CarrierLost

from .context import Context

_log = logging.getLogger(__name__)


def find(context: Context, point_id: UUID, *states: State) -> Point | None:
    """Read a point whose task has come, so that the reaper need not send it again; None in any other state."""
    with context.database.transaction() as connection:
        found = point.get(connection, point_id)
        if found is None or found.state not in states:
            return None
        run(connection, "UPDATE boot_point SET enqueued_at = NULL WHERE id = %s", point_id)
        return found


def under_claim(
    context: Context,
    found: Point,
    what: str,
    act: Callable[[Claim], None],
    failed: Callable[[Claim, BootpointError], None],
) -> None:
    """Do a step under the claim on the point's replica; nothing where somebody else holds it.

    Args:
        context: What the actor works with.
        found: The point.
        what: The step, for the log.
        act: Does it.
        failed: Called with what it met, still under the claim.
    """
    held = claim(context.database, "replica", found.replica_id, renewing=context.renewing)
    if held is None:
        return
    with held:
        try:
            act(held)
        except Fenced:
            _log.info("step ended: somebody else goes on", extra={"point": found.name, "step": what})
        except BootpointError as problem:
            failed(held, problem)


def note_wait(context: Context, found: Point, what: str, problem: BootpointError) -> None:
    """Say why a step failed that is tried again: each time in the log, once for each code in the history and the run.

    People must see that a host is away or refuses, and they read no logs.

    Args:
        context: What the actor works with.
        found: The point.
        what: The step, as ``its commit``.
        problem: What it met.
    """
    code = str(problem.code)
    _log.warning("step failed", extra={"point": found.name, "step": what, "code": code, "cause": problem.message})
    with context.database.transaction() as connection:
        # Whoever holds the claim now may have taken the point on.
        states = {found.state, State.COMMITTING} if found.state is State.SEALED else {found.state}
        if transition.waits_for(connection, found.id, code, states=states):
            text = f"{found.name}: {what} waits, and is tried again: {problem.message}"
            event.of_point(connection, found, "point_waits", text, actor="worker", code=code)


def later(context: Context, found: Point) -> None:
    """Let the reaper wait before it sends the work again: a host that is away would take every thread of its pool."""
    with context.database.transaction() as connection:
        run(connection, "UPDATE boot_point SET enqueued_at = now() WHERE id = %s", found.id)


def delete_streams(context: Context, disks: list[PointDisk]) -> None:
    """Delete the streams of a final point; what a lost broker keeps is deleted by the reaper."""
    try:
        for disk in disks:
            context.carrier.delete_stream(disk.id)
            with context.database.transaction() as connection:
                run(connection, "UPDATE boot_point_disk SET stream_deleted_at = now() WHERE id = %s", disk.id)
    except CarrierLost:
        _log.info("streams left: the broker is away", extra={"streams": [str(disk.id) for disk in disks]})
