"""The actor that moves deleted replicas into their hosts' trash, and lets them go for good; and how one comes back.

What is wanted stands in the row before the host is touched, and a driver's verbs may be called again: whatever dies
between two steps, the reaper finds the row, and the next one does the rest.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from uuid import UUID

from bootpoint_common.errors import BootpointError, Fenced
from bootpoint_common.store import event, host
from bootpoint_common.store import trash as deleted
from bootpoint_common.store.claim import Claim, check, claim
from bootpoint_common.store.database import present
from bootpoint_common.store.trash import Deleted

from .context import Context
from .preflight import require_login
from .replica import from_json
from .rescan import Compared
from .targets.base import Target

_log = logging.getLogger(__name__)


def trash(context: Context, replica_id: UUID) -> None:
    """Do the next step of a deleted replica; nothing where it rests, or is gone."""
    held = claim(context.database, "trash", replica_id, renewing=context.renewing)
    if held is None:
        return
    with held:
        with context.database.transaction() as connection:
            row = deleted.get(connection, replica_id)
        if row is None or row.state == "resting":
            return
        try:
            _step(context, held, row)
        except Fenced:
            _log.info("step ended: somebody else goes on", extra={"replica": str(replica_id)})
        except BootpointError as problem:
            _failed(context, row, problem)


def _step(context: Context, held: Claim, row: Deleted) -> None:
    with context.database.transaction() as connection:
        # A host may have been away since its rest was over, and its job made again.
        if row.state == "purging" and deleted.keep(connection, present(connection), row.id):
            return
        on = host.get(connection, row.host_id)
    require_login(on)
    replica = from_json(row.definition)
    with context.sessions.use(on) as target:
        if row.state == "moving":
            target.discard(replica, row.deleted_at)
        else:
            target.purge(replica)
    held.assert_held()
    with context.database.transaction() as connection:
        check(connection, "trash", row.id, held.number)
        if row.state == "moving":
            until = deleted.rest(connection, row.id, at=present(connection))
            text = f"{replica.vm_name} rests in the trash of {row.host} until {until:%Y-%m-%d %H:%M} UTC"
            kind = "replica_in_trash"
        else:
            deleted.drop(connection, row.id)
            kind, text = "replica_purged", f"{replica.vm_name} was removed from the trash of {row.host} for good"
        event.record(connection, kind, text, actor="worker", job=row.job_name, host=row.host)


def _failed(context: Context, row: Deleted, problem: BootpointError) -> None:
    """Keep what a step met; the history has it once, and the reaper tries again."""
    _log.warning("step failed", extra={"replica": str(row.id), "cause": problem.message})
    with context.database.transaction() as connection:
        if deleted.note(connection, row.id, problem):
            text = f"the deleted replica on {row.host} waits, and it is tried again: {problem.message}"
            event.record(
                connection, "trash_waits", text, actor="worker", job=row.job_name, host=row.host, code=str(problem.code)
            )  # fmt: skip


def take_back(context: Context, target: Target, item: Compared, *, actor: str) -> None:
    """Take a replica out of the trash, or off its way there, so that it can be adopted; nothing where it is on neither.

    Who adopts a replica wants it: a deletion that still waits for its host would take it away from its new job.

    Args:
        context: Database.
        target: A session with the host.
        item: The replica; what speaks against it is written into ``why_not``.
        actor: Who.
    """
    if item.found is None or item.why_not is not None:
        return
    with context.database.transaction() as connection:
        known = deleted.get(connection, item.replica_id) is not None
    if not known:
        if item.in_trash:
            _restore(context, target, item, actor)
        return
    held = claim(context.database, "trash", item.replica_id, renewing=context.renewing)
    with held or nullcontext():
        with context.database.transaction() as connection:
            row = deleted.get(connection, item.replica_id)
        # One that is moving, and isn't in the trash yet, hasn't been touched, or only its standby is no longer defined.
        if held is None or row is None or row.state == "purging" or (row.state == "moving" and item.in_trash):
            item.why_not = "it is on its way into the trash or out of it: ask again in a moment"
        else:
            _restore(context, target, item, actor)


def _restore(context: Context, target: Target, item: Compared, actor: str) -> None:
    if item.found is None:
        return
    try:
        target.restore(item.found.replica)
    except BootpointError as problem:
        if problem.retryable:
            raise
        item.why_not = problem.message
        return
    with context.database.transaction() as connection:
        deleted.drop(connection, item.replica_id)
        row = item.takes_over
        how = "came back from the trash" if item.in_trash else "stays: it was adopted before it was in the trash"
        text = f"{item.vm} {how}" + ("" if row is None else f" of {row.host}")
        event.record(
            connection, "replica_restored", text, actor=actor, job=item.job, host=None if row is None else row.host
        )
