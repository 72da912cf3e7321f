"""Jobs as an operator edits them: applied from a file, switched, deleted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from bootpoint_common.errors import BootpointError, Code, error, together
from bootpoint_common.identity import new_id
from bootpoint_common.job import Change, HostDefaults, Spec, When, as_json, difference, fill_host_defaults, read_json
from bootpoint_common.store import disk, due, ending, event, limit, start
from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import Connection, Row, one, one_row, rows, run
from bootpoint_common.store.job import Job
from bootpoint_ops import known

#: Card model by kind of host, where it isn't virtio.
_NIC_MODELS = {"esxi": "vmxnet3", "hyperv": "netvsc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What an apply does, or would do.

    Attributes:
        job: The job's name.
        number: Its number; None before it is made.
        revision: The revision that it has now.
        result: ``created``, ``changed`` or ``unchanged``.
        changes: Differences to the job as it was.
        spec: The job, with what hosts decide filled in.
        warnings: What is allowed and most likely a slip.
    """

    job: str
    number: int | None
    revision: int
    result: str
    changes: tuple[Change, ...]
    spec: Spec
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return an item of ``job apply``."""
        changes = [
            {
                "key": change.key,
                "old": change.old,
                "new": change.new,
                "when": change.when.value,
                "host": change.host,
                "slot": change.slot,
            }
            for change in self.changes
        ]
        return {
            "job": self.job,
            "id": self.number,
            "revision": self.revision,
            "result": self.result,
            "changes": changes,
            "warnings": list(self.warnings),
        }


def plan(connection: Connection, spec: Spec, *, now: datetime | None = None) -> Applied:
    """Say what an apply would do.

    Args:
        connection: A transaction.
        spec: The job.
        now: The instant that schedules are over at, aware; None for this one.

    Raises:
        BootpointError: Everything that speaks against it, the first of it by its code: ``no_such_agent``,
            ``no_such_host``, ``disk_missing``, ``needs_move``, ``credentials_not_saved``, …
    """
    row = one(connection, "SELECT id, revision, spec FROM job WHERE name = %s", spec.name)
    before = None if row is None else read_json(row["spec"])
    problems = known.problems(connection, spec, before)
    spec = _complete_targets(connection, spec)
    changes = () if before is None else tuple(difference(_complete_targets(connection, before), spec))
    problems += [_refused(spec, change) for change in changes if change.when is When.REFUSED]
    if problems:
        raise together(problems)
    warnings = (*known.warnings(spec, now or datetime.now(UTC)), *known.in_trash(connection, spec))
    if row is None:
        return Applied(
            job=spec.name, number=None, revision=1, result="created", changes=(), spec=spec, warnings=warnings
        )
    return Applied(
        job=spec.name,
        number=row["id"],
        revision=row["revision"] + bool(changes),
        result="changed" if changes else "unchanged",
        changes=changes,
        spec=spec,
        warnings=warnings,
    )


def apply(connection: Connection, spec: Spec, *, actor: str, kind: str | None = None) -> Applied:
    """Make a job, or bring it to a new revision; nothing is started.

    Args:
        connection: A transaction.
        spec: The job.
        actor: Who.
        kind: What the history calls it; None for ``job_created`` or ``job_changed``.

    Raises:
        BootpointError: As `plan` does.
    """
    _lock(connection)
    applied = plan(connection, spec)
    if applied.result == "unchanged":
        return applied
    # Before the job's run, as the agent's messages do.
    one(connection, "SELECT 1 FROM agent WHERE name = %s FOR NO KEY UPDATE", spec.source.agent)
    applied = _write(connection, applied, actor)
    _set_replicas(connection, applied)
    if applied.number is not None:
        due.plan(connection, applied.number)
        if not spec.enabled:
            ending.leave_line(connection, applied.number, f"{actor} disabled job {spec.name}", actor=actor)
        limit.tell(connection, applied.number)
    event.record(
        connection,
        kind or f"job_{applied.result}",
        f"job {spec.name} {(kind or applied.result).removeprefix('job_')}, revision {applied.revision}",
        actor=actor,
        job=spec.name,
        agent=spec.source.agent,
        details={"changes": applied.as_json()["changes"]},
    )
    _review(connection, applied.number, actor)
    return applied


def _lock(connection: Connection) -> None:
    """Let two who write jobs come after one another; before the first write, else each would wait for the other."""
    run(connection, "LOCK TABLE job IN SHARE ROW EXCLUSIVE MODE")


def _write(connection: Connection, applied: Applied, actor: str) -> Applied:
    """Write a job's row and its revision; returns it with its number."""
    spec, written = applied.spec, Jsonb(as_json(applied.spec))
    if applied.number is None:
        made = one_row(
            connection,
            "INSERT INTO job (name, revision, enabled, agent_id, spec)"
            " SELECT %s, 1, %s, id, %s FROM agent WHERE name = %s RETURNING id",
            *(spec.name, spec.enabled, written, spec.source.agent),
        )
        applied = dataclasses.replace(applied, number=made["id"])
    else:
        run(
            connection,
            "UPDATE job SET revision = %s, enabled = %s, spec = %s WHERE id = %s",
            *(applied.revision, spec.enabled, written, applied.number),
        )
    run(
        connection,
        "INSERT INTO job_revision (job_id, revision, spec, actor) VALUES (%s, %s, %s, %s)",
        *(applied.number, applied.revision, written, actor),
    )
    return applied


def _review(connection: Connection, number: int | None, actor: str) -> None:
    """Tell of disks of a job's source that no job protects as its jobs are now."""
    row = one(connection, "SELECT agent_id FROM job WHERE id = %s", number)
    if row is not None:
        disk.review(connection, row["agent_id"], actor=actor)


def _refused(spec: Spec, change: Change) -> BootpointError:
    if change.code is Code.NEEDS_MOVE:
        text = f"{change.key} can't be edited where the replica lies: it is {change.old!r}"
        return error(Code.NEEDS_MOVE, text, job=spec.name, key=change.key, value=str(change.new), host=change.host)
    return error(
        change.code or Code.SPEC_INVALID,
        f"{change.key} can't be edited: it is {change.old!r}",
        job=spec.name,
        key=change.key,
        value=str(change.new),
        hint="make another job for it",
    )


def _complete_targets(connection: Connection, spec: Spec) -> Spec:
    defaults = {
        row["name"]: HostDefaults(pool=row["pool"], nic_model=_NIC_MODELS.get(row["kind"], "virtio"))
        for row in rows(connection, "SELECT name, kind, pool FROM host")
    }
    return dataclasses.replace(spec, targets=fill_host_defaults(spec.targets, defaults))


def _set_replicas(connection: Connection, applied: Applied) -> None:
    """Make the rows of new targets, attach again what was detached, and detach what is no longer named."""
    for target in applied.spec.targets:
        run(
            connection,
            "INSERT INTO replica (id, job_id, job_name, host_id, pool)"
            " SELECT %s, %s, %s, h.id, %s FROM host h WHERE h.name = %s"
            " ON CONFLICT (job_id, host_id) DO UPDATE SET pool = excluded.pool,"
            " state = CASE WHEN replica.state = 'detached' THEN 'ok' ELSE replica.state END",
            *(new_id(), applied.number, applied.job, target.pool, target.host),
        )
    run(
        connection,
        "UPDATE replica y SET state = 'detached' FROM host h"
        " WHERE h.id = y.host_id AND y.job_id = %s AND NOT h.name = ANY(%s)",
        applied.number,
        [target.host for target in applied.spec.targets],
    )
    if applied.number is not None:
        start.aim(connection, applied.number)


def switch(connection: Connection, name: str, *, enabled: bool, actor: str) -> Job:
    """Enable or disable a job; a disabled one has no runs but those asked for by hand. Enabling ends a pause.

    Raises:
        NotFoundError: ``no_such_job``.
        RefusedError: ``credentials_not_saved``: it would run by itself on a host that nobody can log in to.
    """
    _lock(connection)
    found = jobs.by_name(connection, name)
    if enabled and due.end_pause(connection, found.id):
        event.record(connection, "job_resumed", f"the pause of job {found.name} was ended", actor=actor, job=found.name)
    if found.enabled != enabled:
        spec = dataclasses.replace(read_json(found.spec), enabled=enabled)
        apply(connection, spec, actor=actor, kind=f"job_{'enabled' if enabled else 'disabled'}")
    return jobs.by_name(connection, found.name)


def revision(connection: Connection, found: Job) -> Row | None:
    """Return who applied a job's current revision, and when."""
    return one(
        connection, "SELECT actor, at FROM job_revision WHERE job_id = %s AND revision = %s", found.id, found.revision
    )
