"""``bootpoint status``: what is not ok, what runs, and what nobody protects."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from bootpoint_common.diskview.text import printable
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import dashboard, notice
from bootpoint_ops.cli.output import emit, output_option, plain, session
from bootpoint_ops.cli.watch import seconds_between


@click.command()
@output_option
def status() -> None:
    """Print one line for each job that is not ok, and exit with 1 if there is any.

    Runs that are under way, disks that no job protects, notices that can't be sent, and an alarm of the broker get a
    line too; they don't change the exit code.
    """
    with session().env.database.snapshot() as connection:
        found = {**dashboard.status(connection), "unsent_notices": notice.pending(connection)}
    emit(found, lambda out: _show(out, found))
    if found["items"]:
        raise click.exceptions.Exit(1)


def _show(out: Console, found: dict[str, Any]) -> None:
    for line in (
        *(_job_line(job) for job in found["items"]),
        *(_run_line(run) for run in found["running"]),
        *_unprotected_lines(found["unprotected_disks"]),
        *_alarm_lines(found["broker_blocked_at"]),
        *notice.pending_lines(found["unsent_notices"]),
    ):
        out.print(plain(line), markup=False)
    if not found["items"]:
        out.print(f"{found['jobs']} {'job' if found['jobs'] == 1 else 'jobs'}, all ok", markup=False)


def _job_line(job: dict[str, Any]) -> str:
    age = job["newest_point_age_seconds"]
    newest = "no boot point yet" if age is None else f"newest boot point {format_duration(age)} old"
    reason = f" ({job['state_reason']})" if job["state_reason"] else ""
    return f"{job['job']}: {job['state']}{reason}, {newest}"


def _run_line(run: dict[str, Any]) -> str:
    return f"{run['job']}: run {run['run']} is under way, {progress_text(run)}"


def progress_text(run: dict[str, Any]) -> str:
    """Say how far a run is that is under way: ``41 % after 3 min``."""
    took = format_duration(seconds_between(run["started_at"], None))
    return f"begun {took} ago" if run["progress"] is None else f"{run['progress']:.0%} after {took}"


def _alarm_lines(since: str | None) -> Iterator[str]:
    if since is not None:
        took = format_duration(seconds_between(since, None))
        yield f"the broker has taken nothing for {took}: an alarm of its memory or its disk"


def _unprotected_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """Return a line for each disk of a machine with jobs, and one for each machine that has none."""
    for agent, group in itertools.groupby(found, key=lambda disk: disk["agent"]):
        disks = list(group)
        if not disks[0]["jobs"]:
            yield f"{agent}: has no job ({len(disks)} {'disk' if len(disks) == 1 else 'disks'})"
            continue
        for disk in disks:
            size = format_size(disk["size_bytes"])
            yield f"{agent}: disk {printable(disk['id'])} ({printable(disk['path'])}, {size}) is in no job"
