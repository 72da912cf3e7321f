"""``bootpoint job``: what is protected, where to, and when."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from bootpoint_common.errors import Code, error
from bootpoint_common.store import job as rows
from bootpoint_common.store import run as runs
from bootpoint_common.store.shown import jsonable
from bootpoint_ops import job as jobs
from bootpoint_ops import pause as pauses
from bootpoint_ops import read
from bootpoint_ops.cli.disk import refresh
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.instant import later
from bootpoint_ops.cli.output import output_option, say, session
from bootpoint_ops.cli.watch import watch_run


@click.group()
def job() -> None:
    """Jobs: what is protected, where to, and when."""


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
