"""The actor that lets a waiting run begin: preflight, a place on each target's host, and only then the agent.

A source never holds a snapshot or a paused database while its run waits in a line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import read_json
from bootpoint_common.store import ending, line, outbox, pace, source_event
from bootpoint_common.store import job as jobs
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Connection, Database, one, one_row, rows, run
from bootpoint_common.store.run import Run
from bootpoint_common.store.start import aim

from .context import Context
from .definition import run_disks, selected
from .preflight import Plan, preflight
from .room import waiting_line

_log = logging.getLogger(__name__)

#: Seconds within which an agent has to begin a run that it was told of.
START_WITHIN = 600.0

#: Seconds until a run is looked at again that waits for something else than a place.
AGAIN_SECONDS = 2.0

#: Likewise for a merge, whose end brings the run back at once. Each look takes a place for its time: looked at as often
#: as others, dozens of runs that wait for merges would leave no place to those behind them.
MERGE_SECONDS = 15.0


def prepare(context: Context, run_uid: UUID) -> None:
    """Admit a waiting run, let it wait on, or let it fail by name before the source is touched."""
    with context.database.transaction() as connection:
        found = runs.get(connection, run_uid, lock=True)
        if found is None or found.state != "waiting" or found.job_id is None:
            return
        line.hold(connection, run_uid)
        replicas = [replica for replica in jobs.replicas(connection, found.job_id) if replica.state != "detached"]
    try:
        plans = [preflight(context, found, replica) for replica in replicas]
    except BootpointError as problem:
        with context.database.transaction() as connection:
            ending.end(connection, run_uid, problem, actor="worker")
        return
    with context.database.transaction() as connection:
        waits = [(replica, plan.line) for replica, plan in zip(replicas, plans, strict=True) if plan.line is not None]
        for replica, _why in waits:
            outbox.task(connection, replica.pool, "consolidate", replica.id)
        if waits:
            _wait(connection, run_uid, waits[0][1] or "", seconds=MERGE_SECONDS)
        else:
            _begin(connection, run_uid, dict(zip((replica.id for replica in replicas), plans, strict=True)))


def _begin(connection: Connection, run_uid: UUID, plans: dict[UUID, Plan]) -> None:
    """Take the places and tell the agent, in one transaction; the hosts' rows keep two runs from taking the same."""
    hosts = rows(
        connection,
        "SELECT h.* FROM host h WHERE h.id IN (SELECT host_id FROM run_target WHERE run_uid = %s)"
        " ORDER BY h.id FOR UPDATE OF h",
        run_uid,
    )
    # Before the run, as everywhere; a merge looks at the run under this lock, so one of the two sees the other.
    merging = rows(
        connection,
        "SELECT h.name AS host, y.consolidating FROM run_target t JOIN replica y ON y.id = t.replica_id"
        " JOIN host h ON h.id = y.host_id WHERE t.run_uid = %s ORDER BY y.id FOR UPDATE OF y",
        run_uid,
    )
    found = runs.get(connection, run_uid, lock=True)
    if found is None or found.state != "waiting" or found.job_id is None:
        return
    if not _aims_at(connection, run_uid, plans):
        aim(connection, found.job_id)
        _wait(connection, run_uid, "the targets of its job have just changed")
        return
    for target in merging:
        if target["consolidating"] is not None:
            why = waiting_line(connection, target["consolidating"], target["host"])
            _wait(connection, run_uid, why, seconds=MERGE_SECONDS)
            return
    for on in hosts:
        taken = one_row(
            connection,
            "SELECT count(*) AS n FROM run_target t JOIN run r ON r.uid = t.run_uid"
            " WHERE t.host_id = %s AND r.state = 'running'",
            on["id"],
        )
        if taken["n"] >= on["max_open_points"]:
            _wait(connection, run_uid, f"host {on['name']} has no free place")
            return
    left = source_event.seconds_left(connection, found.job_id) if found.last_breath else None
    try:
        with connection.transaction():
            begun = run(
                connection,
                "UPDATE run SET state = 'running', started_at = now(), enqueued_at = now(), line = NULL, plan = %s,"
                " expires_at = now() + make_interval(secs => %s), reports = %s"
                " WHERE uid = %s AND (begin_by IS NULL OR begin_by >= now())",
                Jsonb({**_largest(plans.values()).as_json(), "actual": None}) if plans else None,
                START_WITHIN if left is None else left,
                _reports(found),
                run_uid,
            )
    except psycopg.errors.UniqueViolation:
        _wait(connection, run_uid, f"agent {found.agent} works on another run")
        return
    if begun:
        outbox.tell(connection, found.agent, run_uid, start_message(connection, run_uid))
    else:
        ending.end(connection, run_uid, _late(), actor="worker")


def _aims_at(connection: Connection, run_uid: UUID, plans: dict[UUID, Plan]) -> bool:
    """Tell whether a run's targets are those that were looked at: the job may have been applied since."""
    targets = rows(connection, "SELECT replica_id FROM run_target WHERE run_uid = %s", run_uid)
    return {row["replica_id"] for row in targets} == plans.keys()


def _largest(plans: Iterable[Plan]) -> Plan:
    """Return the plan of the target with most to copy: the run is as long as that one."""
    return max(plans, key=lambda plan: (plan.kind == "full", plan.changed_bytes or 0))


def _wait(connection: Connection, run_uid: UUID, why: str, *, seconds: float = AGAIN_SECONDS) -> None:
    line.put_back(connection, run_uid, why, seconds=seconds)


def admit(database: Database) -> int:
    """Promise what places are free to the first ones of the line; any process may, none leads.

    Returns:
        How many runs got a promise.
    """
    with database.transaction() as connection:
        return line.admit(connection)


def give_up_late(connection: Connection) -> None:
    """End the runs that still wait and had to begin by now: when their machine is off there is nothing to copy."""
    for row in rows(connection, "SELECT uid FROM run WHERE state = 'waiting' AND begin_by < now() ORDER BY id"):
        ending.end(connection, row["uid"], _late(), actor="scheduler")


def _late() -> BootpointError:
    return error(Code.DEADLINE, "no place was free in time for the run to end before the machine stops")


def _reports(found: Run) -> bool:
    """Tell whether a script after the point decides how the run ends; not where the machine is about to stop."""
    script = ((found.spec or {}).get("scripts") or {}).get("after_point") or {}
    return bool(script.get("abort")) and not found.last_breath


def start_message(connection: Connection, run_uid: UUID) -> message.StartRun:
    """Return what the agent is told of a run that has its places.

    Raises:
        NotFoundError: ``no_such_run``: its job is gone, or it was never admitted.
    """
    found = runs.get(connection, run_uid)
    if found is None or found.spec is None or found.expires_at is None:
        raise error(Code.NO_SUCH_RUN, f"there is no admitted run {run_uid}", key="run", value=str(run_uid))
    spec: dict[str, Any] = found.spec
    row = one(connection, "SELECT inventory FROM agent WHERE id = %s", found.agent_id)
    targets = rows(
        connection,
        "SELECT t.replica_id, h.name FROM run_target t JOIN host h ON h.id = t.host_id WHERE t.run_uid = %s ORDER BY 1",
        run_uid,
    )
    return message.StartRun(
        run=run_uid,
        number=found.id,
        job=found.job_name,
        pool=found.pool,
        expires_at=found.expires_at,
        disks=run_disks(spec, row["inventory"] if row is not None else None),
        consistency=spec["source"]["consistency"],
        skip=list(spec["source"].get("skip") or []),
        scripts=spec.get("scripts") or {},
        limits=spec.get("limits") or {},
        replicas=[message.RunReplica(replica_id=target["replica_id"], host=target["name"]) for target in targets],
        last_breath=found.last_breath,
        time_zone=spec.get("time_zone"),
        revision=found.revision or 0,
        deadline=_deadline(connection, found, row["inventory"] if row is not None else None),
    )


def _deadline(connection: Connection, found: Run, inventory: dict[str, Any] | None) -> message.RunDeadline | None:
    """Return until when a run has to be done, and what earlier ones say of how long it takes."""
    if not found.last_breath or found.job_id is None or found.spec is None:
        return None
    left = source_event.seconds_left(connection, found.job_id)
    if left is None:
        return None
    known = pace.of_job(connection, found.job_id)
    disks = selected(read_json(found.spec), inventory)
    return message.RunDeadline(
        seconds=left,
        bytes_per_second=known.bytes_per_second,
        overhead_seconds=known.overhead_seconds,
        whole_bytes={
            disk.slot: disk.size_bytes if disk.used_bytes is None else disk.used_bytes for disk in disks
        },
    )
