"""The actor that looks into a chain's first point: what machine it is, and what a start of it takes."""

from __future__ import annotations

import logging
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError
from bootpoint_common.store import event, host, outbox, point
from bootpoint_common.store.database import Connection, rows, run
from bootpoint_common.store.point import Point, State

from .context import Context
from .replica import replica_of
from .targets.guest import Profile

_log = logging.getLogger(__name__)

#: Seconds after which a point is looked into once more when nothing came of it: its host was away, or a worker died.
AGAIN_SECONDS = 300.0


def request_profile(connection: Connection, found: Point) -> None:
    """Let a point be looked into, if it is the first of its chain, or nobody has looked into one yet."""
    due = rows(
        connection,
        "UPDATE replica SET profile = jsonb_build_object('asked_at', now())"
        " WHERE id = %s AND (profile IS NULL OR %s) RETURNING id",
        found.replica_id,
        found.kind == "full",
    )
    if due:
        outbox.task(connection, found.pool, "examine", found.id)


def request_missing(connection: Connection) -> None:
    """Let the heads of replicas be looked into of which there is no profile; called by the reaper."""
    missing = rows(
        connection,
        "UPDATE replica SET profile = jsonb_build_object('asked_at', now())"
        " WHERE head IS NOT NULL AND state <> 'detached' AND (profile IS NULL OR (NOT profile ? 'made_at'"
        " AND (profile->>'asked_at')::timestamptz < now() - make_interval(secs => %s))) RETURNING head, pool",
        AGAIN_SECONDS,
    )
    for row in missing:
        outbox.task(connection, row["pool"], "examine", row["head"])


def examine(context: Context, point_id: UUID) -> None:
    """Look into a committed point and keep what was found; a failure is looked at again later."""
    with context.database.transaction() as connection:
        found = point.get(connection, point_id)
        if found is None or found.state is not State.COMMITTED:
            return
        replica = replica_of(connection, found.replica_id)
        on = host.get(connection, found.host_id)
    try:
        with context.sessions.use(on) as target:
            profile = target.examine(replica, point_id)
    except BootpointError as problem:
        _log.warning("not examined", extra={"point": found.name, "code": str(problem.code), "cause": problem.message})
        return
    with context.database.transaction() as connection:
        run(connection, "UPDATE replica SET profile = %s WHERE id = %s", Jsonb(as_json(profile)), found.replica_id)
        event.of_point(
            connection, found, "profile_made", sentence(found.name, profile), actor="examine", details=as_json(profile)
        )


def as_json(profile: Profile) -> dict[str, object]:
    """Write a profile for the jsonb column and for the commands."""
    written: dict[str, object] = msgspec.to_builtins(profile)
    return written


def sentence(name: str, profile: Profile) -> str:
    """Say in one sentence what was found."""
    system = " ".join(part for part in (profile.system.name, profile.system.version) if part)
    text = f"{name} is {system or 'of an unknown system'}"
    text += f"; a start converts it ({profile.route})" if profile.route in ("light", "v2v") else "; it starts as it is"
    if not profile.bootable:
        text += "; it will not boot"
    problems = "; ".join(problem.text for problem in profile.problems)
    return f"{text}: {problems}" if problems else text
