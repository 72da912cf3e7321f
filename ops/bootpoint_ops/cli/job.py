"""``bootpoint job``: what is protected, where to, and when."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import job as rows
from bootpoint_common.store import run as runs
from bootpoint_common.units import format_duration
from bootpoint_ops import job as jobs
from bootpoint_ops import read, trial
from bootpoint_ops.cli.disk import refresh
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import Session, confirm, emit, fields, output_option, say, session, table, waiting
from bootpoint_ops.cli.watch import watch_run
from bootpoint_ops.question import ask_worker


@click.group()
def job() -> None:
    """Jobs: what is protected, where to, and when."""


# --- what there is


@job.command("list")
@output_option
def list_() -> None:
    """List the jobs."""
    with session().env.database.transaction() as connection:
        items = read.job_list(connection)
    lines = [
        (
            item["name"],
            item["state"],
            item["state_reason"],
            item["source"]["agent"],
            ", ".join(target["host"] for target in item["targets"] if target["state"] != "detached"),
            max((target["points"] for target in item["targets"]), default=0),
            format_duration(item["newest_point_age_seconds"]),
        )
        for item in items
    ]
    columns = ("NAME", "STATE", "REASON", "SOURCE", "TARGETS", ">POINTS", ">NEWEST")
    emit({"items": items}, table(columns, lines, empty="no jobs yet: `bootpoint job init AGENT --host H`"))


@job.command()
@click.argument("name", metavar="J")
@output_option
def show(name: str) -> None:
    """Show a job: its state, its targets, and what comes next."""
    with session().env.database.transaction() as connection:
        item = read.job(connection, name)
        skipped = trial.skipped(connection, item["id"])
    last, source = item["last_run"], item["source"]
    pairs = [
        *(("name", item["name"]), ("number", item["id"]), ("revision", item["revision"])),
        ("state", item["state"]),
        ("reason", item["state_reason"]),
        ("source", f"{source['agent']} ({source['agent_state']})"),
        ("newest point", format_duration(item["newest_point_age_seconds"])),
        ("running", item["running"]),
        ("last run", f"{last['id']} {last['state']} {last['reason'] or ''} {last['ended_at']}" if last else None),
        ("unprotected disks", ", ".join(item["unprotected_disks"])),
        *((f"target {t['host']}", _target_line(t)) for t in item["targets"]),
        *((f"boot check {s['host']}", f"skipped at {s['at']}: {s['message']}") for s in skipped),
    ]
    emit(item, fields(pairs))


def _target_line(target: dict[str, Any]) -> str:
    return (
        f"{target['state']}, VM {target['vm']} ({target['standby']}), "
        f"{target['points']} of {target['points_limit']} points, newest {target['head'] or 'none'}"
        + (f", reverted to {target['held']}" if target["held"] else "")
    )


# --- runs


@job.command()
@click.argument("name", metavar="J")
@click.option("--wait", is_flag=True, help="Wait until it has ended, and show how far it is.")
@click.option("--retry", is_flag=True, help="Only after a run that failed: count it as another attempt.")
@timeout_option
@output_option
def run(name: str, timeout: float, *, wait: bool, retry: bool) -> None:
    """Start a run: one snapshot, one boot point for each target."""
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, name)
    refresh(here, found.spec["source"]["agent"], timeout)
    with here.env.database.transaction() as connection:
        attempt, trigger = 1, "manual"
        if retry:
            attempt, trigger = _next_attempt(connection, found), "retry"
        made = runs.create(connection, found.id, trigger=trigger, requested_by=here.env.actor, attempt=attempt)
        item = read.run(connection, made.id)
    if wait:
        watch_run(here, made.id)
    else:
        say(f"run {made.id} requested: `bootpoint run watch {made.id}`", item)


def _next_attempt(connection: Any, found: rows.Job) -> int:
    last = next(iter(read.run_list(connection, job_name=found.name, limit=1)), None)
    if last is None or last["state"] != "failed":
        raise error(Code.SPEC_INVALID, f"the last run of job {found.name} did not fail", job=found.name, key="--retry")
    return int(last["attempt"]) + 1


# --- switching


def _switch(name: str, *, enabled: bool) -> None:
    here = session()
    with here.env.database.transaction() as connection:
        found = jobs.switch(connection, name, enabled=enabled, actor=here.env.actor)
        item = read.job(connection, found.name)
    say(f"job {found.name} {'enabled' if enabled else 'disabled'}", item)


@job.command()
@click.argument("name", metavar="J")
@output_option
def enable(name: str) -> None:
    """Let a job run by itself again."""
    _switch(name, enabled=True)


@job.command()
@click.argument("name", metavar="J")
@output_option
def disable(name: str) -> None:
    """Keep a job from running by itself; `job run` still works."""
    _switch(name, enabled=False)


@job.command()
@click.argument("name", metavar="J")
@click.option("--delete-replica", is_flag=True, help="Remove the standby VMs and all boot points from the hosts too.")
@click.option("--force", is_flag=True, help="Forget replicas on hosts that don't answer; what is there stays there.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@timeout_option
@output_option
def delete(name: str, timeout: float, *, delete_replica: bool, force: bool, yes: bool) -> None:
    """Delete a job; its replicas stay on their hosts unless --delete-replica is said."""
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, name)
        jobs.assert_idle(connection, found)
        replicas = rows.replicas(connection, found.id)
    what = (
        "the standby VMs and all boot points of it are removed too"
        if delete_replica
        else "its replicas stay on their hosts"
    )
    confirm(found.name, f"job {found.name} is deleted; {what}", yes=yes)
    removed: list[str] = []
    left: list[str] = []
    if delete_replica:
        if found.enabled:  # so that no schedule makes a new point on what is being removed
            with here.env.database.transaction() as connection:
                jobs.switch(connection, found.name, enabled=False, actor=here.env.actor)
        for replica in replicas:
            (removed if _delete_replica(here, replica, timeout, force=force) else left).append(replica.host)
    with here.env.database.transaction() as connection:
        kept = jobs.delete(connection, found.name, actor=here.env.actor)
        if delete_replica:
            for replica in kept:
                jobs.forget(connection, replica.id)
    names = [] if delete_replica else [replica.host for replica in kept]
    say(
        f"job {found.name} deleted" + "".join(f"; what is on {host} is left there" for host in (*left, *names)),
        {"job": found.name, "removed": removed, "left": [*left, *names]},
    )


def _delete_replica(here: Session, replica: rows.ReplicaRow, timeout: float, *, force: bool) -> bool:
    """Remove a replica from its host; False where the host doesn't answer and that is accepted."""
    arguments: dict[str, Any] = {"replica": str(UUID(str(replica.id)))}
    try:
        with waiting(f"removing {replica.job_name} from {replica.host}"):
            ask_worker(here.env, replica.pool, "delete_replica", arguments, timeout=max(timeout, 120.0))
    except BootpointError as problem:
        if not force:
            problem.hint = f"{problem.hint or ''}; or say --force, which leaves there what is there".lstrip("; ")
            raise
        return False
    return True
