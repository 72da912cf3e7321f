"""The actor that throws the layer of a given-up point away, and tells the agent."""

from __future__ import annotations

from uuid import UUID

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Fenced
from bootpoint_common.store import ending, event, host, outbox, point, transition
from bootpoint_common.store.claim import Claim, check
from bootpoint_common.store.database import Connection, one
from bootpoint_common.store.point import Point, State

from .context import Context
from .replica import replica_of
from .step import delete_streams, find, later, note_wait, under_claim
from .targets.layer import Layer


def abort(context: Context, point_id: UUID) -> None:
    """Throw the layer of a given-up point away, and tell the agent."""
    found = find(context, point_id, State.ABORTING)
    if found is None:
        return

    def failed(_held: Claim, problem: BootpointError) -> None:
        later(context, found)
        note_wait(context, found, "throwing its layers away", problem)

    under_claim(context, found, "abort", lambda held: _abort(context, held, found), failed)


def _abort(context: Context, held: Claim, found: Point) -> None:
    with context.database.transaction() as connection:
        current = point.get(connection, found.id, lock=True)
        check(connection, "replica", found.replica_id, held.number)
        if current is None or current.state is not State.ABORTING:
            raise Fenced
        disks = point.disks(connection, found.id)
        replica = replica_of(connection, found.replica_id)
        on = host.get(connection, found.host_id)
    layers = [Layer(found.id, disk.slot, disk.layer) for disk in disks if disk.layer is not None]
    with context.sessions.use(on) as target:
        target.abort(replica, found.id, layers)
    held.assert_held()
    with context.database.transaction() as connection:
        point.get(connection, found.id, lock=True)
        check(connection, "replica", found.replica_id, held.number)
        transition.aborted(connection, found.id)
        _tell_aborted(connection, found)
        ending.settle(connection, found.run_uid)
    delete_streams(context, disks)


def _tell_aborted(connection: Connection, found: Point) -> None:
    row = one(connection, "SELECT problem FROM boot_point WHERE id = %s", found.id)
    stored = (row or {}).get("problem") or {}
    problem = message.Problem(
        code=stored.get("code", "stalled"),
        message=stored.get("message", ""),
        hint=stored.get("hint"),
        key=stored.get("key"),
    )
    told = message.Aborted(run=found.run_uid, replica_id=found.replica_id, point_id=found.id, problem=problem)
    outbox.tell(connection, found.agent, found.id, told)
    event.of_point(
        connection,
        found,
        "point_aborted",
        f"{found.name} was given up: {problem.message}",
        actor="worker",
        code=problem.code,
    )
