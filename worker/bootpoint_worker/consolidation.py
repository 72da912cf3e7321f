"""The actor that merges points of a replica into their successors, while there are more than the job keeps.

In this order, each step safe to be done again:

1. one transaction chooses the point and notes it in the replica's row: nobody can refer to it or pin it from then on,
   and no run begins;
2. the host merges it (`Target.consolidate`);
3. one transaction lets the rows say what the host has, and enqueues the next one.

It works under the replica's claim and only between runs. What it meets is noted once, and tried again by the reaper.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, Fenced
from bootpoint_common.metric import CONSOLIDATION
from bootpoint_common.store import count, event, host, kept, line, outbox
from bootpoint_common.store.claim import Claim, check, claim
from bootpoint_common.store.database import Connection, one
from bootpoint_common.store.kept import Kept

from . import retention
from .context import Context
from .replica import replica_of
from .targets.journal import JournalPoint

_log = logging.getLogger(__name__)

#: Seconds until it is tried again where somebody holds the replica's claim: a commit does for a moment after it has
#: enqueued the merge.
SOON = 0.2

#: Seconds after which a task begins no further merge: its queue has other work, and a task has its time limit.
LONGEST = 60.0


def consolidate(context: Context, replica_id: UUID) -> None:
    """Finish the merge that somebody began, and merge points of a replica one by one until none has to go any more."""
    held = claim(context.database, "replica", replica_id, renewing=context.renewing)
    if held is None:
        with context.database.transaction() as connection:
            found = kept.replica(connection, replica_id)
            if found is not None:
                outbox.task(connection, found.pool, "consolidate", replica_id, delay=SOON)
        return
    with held:
        try:
            end = time.monotonic() + LONGEST
            in_use: set[UUID] = set()
            while _consolidate(context, held, replica_id, in_use) and time.monotonic() < end:
                held.progress()
        except Fenced:
            _log.info("merge ended: somebody else goes on", extra={"replica": str(replica_id)})


def _consolidate(context: Context, held: Claim, replica_id: UUID, in_use: set[UUID]) -> bool:
    """Merge one point.

    Args:
        context: What the actor works with.
        held: The claim.
        replica_id: The replica.
        in_use: Points of which the host says so, though no reference does; one more is put in.

    Returns:
        Whether the next one may follow at once: because no run waits, or because this one could not go.
    """
    with context.database.transaction() as connection:
        found = kept.replica(connection, replica_id)
        if found is None or one(connection, "SELECT 1 FROM replica WHERE id = %s AND definition IS NULL", replica_id):
            return False
        on = host.get(connection, found.host_id)
        definition = replica_of(connection, replica_id)
    # Asked for its limit only: no session is opened before something is to be done.
    chosen: Kept | None = None
    try:
        with context.sessions.use(on) as target:
            most = target.point_limit
            chosen = _choose(context, held, found, most, in_use)
            if chosen is None:
                return False
            began = time.monotonic()
            successor = target.consolidate(definition, chosen.id)
            seconds = time.monotonic() - began
    except BootpointError as problem:
        if chosen is None:
            raise
        given_back = _failed(context, held, found, chosen, problem)
        in_use.add(chosen.id)
        return given_back and problem.code is Code.POINT_IN_USE
    held.assert_held()
    with context.database.transaction() as connection:
        _lock(connection, held, found, chosen.id, successor.point_id)
        _merged(connection, found, chosen, successor, seconds)
        after(connection, found.id, most=most)
        line.look_again(connection, found.id)
        return not kept.run_waits(connection, found.id)


def allowed(connection: Connection, found: kept.Replica, most: int) -> int | None:
    """Return how many points a replica may have now: one fewer than its host can keep while a run waits for room."""
    if found.limit is None:
        return None
    return min(found.limit, most - 1) if kept.run_waits(connection, found.id) else found.limit


def next_to_go(connection: Connection, found: kept.Replica, most: int, in_use: Collection[UUID] = ()) -> Kept | None:
    """Return the point that is to be merged now; None where none has to, or none may.

    Args:
        connection: A transaction.
        found: The replica.
        most: How many points its host can keep.
        in_use: Points that are in use on the host, though no reference says so.
    """
    limit = allowed(connection, found, most)
    if limit is None:
        return None
    points = [
        replace(point, used_by=("its host",)) if point.id in in_use else point
        for point in kept.points(connection, found.id)
    ]
    plan = retention.work_out(points, limit, frozen=found.frozen is not None)
    return plan.go[0] if plan.go else None


def _choose(context: Context, held: Claim, before: kept.Replica, most: int, in_use: Collection[UUID]) -> Kept | None:
    """Choose the point and note it, in one transaction: whoever takes a reference locks the point first, as we do."""
    with context.database.transaction() as connection:
        if before.consolidating is not None:
            return _begun(connection, before.consolidating)
        wanted = next_to_go(connection, before, most, in_use)
        if wanted is None:
            return None
        _lock(connection, held, before, wanted.id)
        found = kept.replica(connection, before.id)
        if found is None or kept.unfinished(connection, before.id):
            return None
        if next_to_go(connection, found, most, in_use) != wanted:
            return None
        kept.begin(connection, before.id, wanted.id)
        return wanted


def _begun(connection: Connection, point_id: UUID) -> Kept | None:
    row = one(connection, "SELECT id, name, sequence FROM boot_point WHERE id = %s", point_id)
    return None if row is None else Kept(**row)


def _lock(connection: Connection, held: Claim, found: kept.Replica, *point_ids: UUID) -> None:
    """Lock points, then their replica, which has to be ours."""
    for point_id in sorted(point_ids):
        one(connection, "SELECT 1 FROM boot_point WHERE id = %s FOR UPDATE", point_id)
    check(connection, "replica", found.id, held.number)


def _merged(connection: Connection, found: kept.Replica, gone: Kept, into: JournalPoint, seconds: float) -> None:
    layers = {disk.slot: (disk.identity, disk.stored_bytes) for disk in into.disks}
    kept.merged(connection, found.id, gone.id, into.point_id, layers)
    event.record(
        connection,
        "point_consolidated",
        f"{gone.name} was merged into {into.name}",
        actor="worker",
        job=found.job,
        point=gone.name,
        host=found.host,
        details={"into": into.name, "seconds": round(seconds, 3)},
    )
    count.observe(connection, CONSOLIDATION, seconds)


def after(connection: Connection, replica_id: UUID, *, most: int) -> None:
    """After a commit or a merge: enqueue the next merge, and say once when nothing may go at the next run.

    Args:
        connection: The transaction that changed what the replica has.
        replica_id: The replica.
        most: How many points its host can keep.
    """
    found = kept.replica(connection, replica_id)
    if found is None or found.limit is None:
        return
    if found.consolidating is not None or next_to_go(connection, found, most) is not None:
        outbox.task(connection, found.pool, "consolidate", replica_id)
    note_blocked(connection, found, most=most)


def note_blocked(connection: Connection, found: kept.Replica, *, most: int) -> None:
    """Say once in the history that the next run will be refused because nothing may go, and once that it won't."""
    if found.limit is None:
        return
    points = kept.points(connection, found.id)
    plan = retention.room(points, found.limit, most, frozen=found.frozen is not None)
    if not kept.set_blocked(connection, found.id, blocked=plan.blocked):
        return
    text = (
        f"at the next run no boot point on {found.host} may go: {why_kept(points, plan)}"
        if plan.blocked
        else f"boot points on {found.host} may go again"
    )
    event.record(
        connection,
        "retention_blocked" if plan.blocked else "retention_free",
        text,
        actor="worker",
        job=found.job,
        host=found.host,
        code=str(Code.RETENTION_BLOCKED) if plan.blocked else None,
    )


def why_kept(points: list[Kept], plan: retention.Retention, *, most: int = 5) -> str:
    """Say for people what keeps the oldest points."""
    named = [
        f"{point.name} is {retention.reasons_text(point, plan.kept[point.id])}"
        for point in points
        if point.id in plan.kept
    ]
    return ", ".join(named[:most]) + (f" and {len(named) - most} more" if len(named) > most else "")


def _failed(context: Context, held: Claim, found: kept.Replica, chosen: Kept, problem: BootpointError) -> bool:
    """Note what a merge met, and give the point back where the host hasn't begun; returns whether it was given back."""
    begun = problem.code is not Code.NO_SUCH_POINT and _has_begun(context, found, chosen)
    code = str(problem.code)
    _log.warning("merge failed", extra={"point": chosen.name, "code": code, "cause": problem.message})
    with context.database.transaction() as connection:
        _lock(connection, held, found, chosen.id)
        if not begun:
            kept.give_back(connection, found.id)
            line.look_again(connection, found.id)
        if kept.waits_for(connection, found.id, chosen.name, code, problem.message):
            event.record(
                connection,
                "consolidation_waits",
                f"{chosen.name} can't be merged yet, and it is tried again: {problem.message}",
                actor="worker",
                job=found.job,
                point=chosen.name,
                host=found.host,
                code=code,
            )
    return not begun


def _has_begun(context: Context, found: kept.Replica, chosen: Kept) -> bool:
    """Ask the host whether it has begun to merge the point; where that can't be known it has."""
    try:
        with context.database.transaction() as connection:
            definition = replica_of(connection, found.id)
            on = host.get(connection, found.host_id)
        with context.sessions.use(on) as target:
            journal = target.inspect(definition)
            return journal is not None and all(point.point_id != chosen.id for point in journal.points)
    except BootpointError:
        return True
