"""``bootpoint job``: what is protected, where to, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from bootpoint_common.errors import Code, error
from bootpoint_common.store import job as rows
from bootpoint_common.store import run as runs
from bootpoint_common.store.shown import jsonable
from bootpoint_common.units import format_duration
from bootpoint_ops import job as jobs
from bootpoint_ops import pause as pauses
from bootpoint_ops import read, trial
from bootpoint_ops.cli.disk import refresh
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.instant import later
from bootpoint_ops.cli.output import emit, fields, output_option, say, session, table
from bootpoint_ops.cli.watch import watch_run


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
            _until(item["next_run_at"]),
        )
        for item in items
    ]
    columns = ("NAME", "STATE", "REASON", "SOURCE", "TARGETS", ">POINTS", ">NEWEST", ">NEXT")
    emit({"items": items}, table(columns, lines, empty="no jobs yet: `bootpoint job init AGENT --host H`"))


def _until(at: str | None) -> str:
    """Return how long it is until an instant, to the minute."""
    if at is None:
        return "-"
    seconds = max(0.0, (datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds())
    return format_duration(seconds if seconds < 60 else seconds // 60 * 60)


@job.command()
@click.argument("name", metavar="J")
@output_option
def show(name: str) -> None:
    """Show a job: its state, its targets, and what comes next."""
    with session().env.database.transaction() as connection:
        item = read.job(connection, name)
        skipped = trial.skipped(connection, item["id"])
        pause = pauses.paused(connection, item["id"])
    last, source = item["last_run"], item["source"]
    pairs = [
        *(("name", item["name"]), ("number", item["id"]), ("revision", item["revision"])),
        ("state", item["state"]),
        ("reason", item["state_reason"]),
        *((("paused", f"until {jsonable(pause['until'])} by {pause['by']}"),) if pause else ()),
        ("next run", item["next_run_at"]),
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
@click.option(
    "--until", required=True, metavar="T", callback=later, help="When it ends: an instant, or for how long (8h)."
)
@click.option("--reason", required=True, metavar="R", help="Why; `job show` and `status` print it.")
@output_option
def pause(name: str, until: datetime, reason: str) -> None:
    """Keep a job from running by itself for a while; `job run` still works, `job enable` ends the pause."""
    here = session()
    with here.env.database.transaction() as connection:
        found = pauses.pause(connection, name, until=until, reason=reason, actor=here.env.actor)
        item = read.job(connection, found.name)
    again = item["next_run_at"] or "no run is scheduled after it"
    say(f"job {found.name} is paused until {jsonable(until)}; next run: {again}", item)


@job.command()
@click.argument("name", metavar="J")
@output_option
def enable(name: str) -> None:
    """Let a job run by itself again, also before its pause is over."""
    _switch(name, enabled=True)


@job.command()
@click.argument("name", metavar="J")
@output_option
def disable(name: str) -> None:
    """Keep a job from running by itself; `job run` still works."""
    _switch(name, enabled=False)
