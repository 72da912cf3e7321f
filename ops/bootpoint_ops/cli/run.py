"""``bootpoint run``: executions of jobs."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bootpoint_common.diskview.text import printable
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import profile, read
from bootpoint_ops.cancel import cancel as cancel_run
from bootpoint_ops.cli import period
from bootpoint_ops.cli.output import emit, fields, output_option, plain, say, session, table
from bootpoint_ops.cli.period import local
from bootpoint_ops.cli.watch import seconds_between, watch_run
from bootpoint_ops.textfile import replacing
from bootpoint_worker.archive import LOG_SECONDS

#: Stands for what a script wrote so long ago that it is no longer kept.
_CLEARED = f"(what it wrote was kept for {format_duration(LOG_SECONDS)})"


@click.group()
def run() -> None:
    """Runs: executions of jobs."""


@run.command("list")
@click.option("--job", metavar="J", help="Only runs of this job.")
@click.option("--failed", is_flag=True, help="Only runs that failed.")
@click.option(
    "--since", metavar="T", callback=period.since, help="Only runs due since a day, an instant, or how long ago (2d)."
)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10000), help="At most so many.")
@output_option
def list_(job: str | None, since: datetime | None, limit: int, *, failed: bool) -> None:
    """List runs, newest first."""
    with session().env.database.transaction() as connection:
        items = read.run_list(connection, job_name=job, failed=failed, since=since, limit=limit)
    lines = [
        (
            item["id"],
            item["job"],
            item["trigger"],
            item["state"],
            item["reason"],
            (item["started_at"] or item["due_at"])[:19].replace("T", " "),
            format_duration(seconds_between(item["started_at"], item["ended_at"])),
            format_size(_sum(item, "changed_bytes")),
        )
        for item in items
    ]
    columns = (">RUN", "JOB", "TRIGGER", "STATE", "REASON", "STARTED (UTC)", ">TOOK", ">CHANGED")
    emit({"items": items}, table(columns, lines, empty="no runs"))


def _sum(item: dict[str, Any], key: str) -> int | None:
    values = [disk[key] for target in item["targets"] for disk in target["disks"] if disk[key] is not None]
    return sum(values) if values else None


@run.command()
@click.argument("number", metavar="R", type=int)
@output_option
def show(number: int) -> None:
    """Show a run."""
    with session().env.database.transaction() as connection:
        item = read.run(connection, number)
        line = read.run_line(connection, number)
    pairs = [
        *(("run", item["id"]), ("job", item["job"]), ("trigger", f"{item['trigger']} by {item['requested_by']}")),
        *(("state", item["state"]), ("waits for", line), ("reason", item["reason"]), ("message", item["message"])),
        *(("way out", item["hint"]), ("attempt", item["attempt"]), ("due", item["due_at"])),
        *(("started", item["started_at"]), ("ended", item["ended_at"]), ("consistency", item["consistency"])),
        *_plan(item["plan"]),
        *((f"target {target['host']}", _target(target)) for target in item["targets"]),
        *(
            (f"script {script['stage']}", _script_end(script))
            for script in item["scripts"]
        ),
    ]
    emit(item, fields([pair for pair in pairs if pair[1] not in (None, "")]))


def _script_end(script: dict[str, Any]) -> str:
    how = "was ended" if script["exit_code"] is None else f"exit {script['exit_code']}"
    return f"{how} after {format_duration(script['duration_seconds'])}"


def _plan(plan: dict[str, Any] | None) -> list[tuple[str, str | None]]:
    """Return what was planned, and how far off that was."""
    return [] if plan is None else [("plan", profile.expected_text(plan)), ("came out", profile.outcome_text(plan))]


def _target(target: dict[str, Any]) -> str:
    lines = [f"{target['point'] or 'no boot point'} {target['state'] or ''} {target['reason'] or ''}".rstrip()]
    lines += [
        f"{disk['slot']}: {format_size(disk['size_bytes'])}, read {format_size(disk['scanned_bytes'])},"
        f" changed {format_size(disk['changed_bytes'])}, sent {format_size(disk['wire_bytes'])}"
        f" ({disk['tracker'] or '-'})"
        for disk in target["disks"]
    ]
    return "\n".join(lines)


@run.command()
@click.argument("number", metavar="R", type=int)
@output_option
def watch(number: int) -> None:
    """Follow a run until it has ended; exit as it did: 0, 1 failed, 130 cancelled.

    On a terminal Ctrl-C asks whether to cancel the run or to leave it.
    """
    watch_run(session(), number)


@run.command()
@click.argument("number", metavar="R", type=int)
@click.option(
    "--save", type=click.Path(path_type=Path, dir_okay=False), metavar="F", help="Write it to a file as JSON lines."
)
@output_option
def log(number: int, save: Path | None) -> None:
    """Show what happened in a run, and what its scripts wrote."""
    with session().env.database.transaction() as connection:
        item = read.run(connection, number)
        events = read.run_events(connection, number)
    if save is not None:
        lines = [{"kind": "run", **item}, *events]
        with replacing(save) as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        say(f"{len(lines)} lines written to {save}", {"file": str(save), "lines": len(lines)})
        return
    emit(
        {"run": number, "job": item["job"], "plan": item["plan"], "items": events, "scripts": item["scripts"]},
        lambda out: _show_log(out, events, item),
    )


def _show_log(out: Console, events: list[dict[str, Any]], item: dict[str, Any]) -> None:
    for name, text in _plan(item["plan"]):
        if text is not None:
            out.print(f"{name}: {text}", markup=False)
    for event in events:
        code = f" ({event['code']})" if event["code"] else ""
        where = f" [{event['host']}]" if event["host"] else ""
        out.print(
            f"{local(event['at'])} {event['kind']}{where}: {printable(event['text'])}{code} - {event['actor']}",
            markup=False,
        )
    for script in item["scripts"]:
        out.print(f"--- {script['stage']}: {_script_end(script)}", markup=False)
        kept = script["output"]
        out.print(_CLEARED if kept is None else plain(kept.rstrip("\n")), markup=False)


@run.command()
@click.argument("number", metavar="R", type=int)
@output_option
def cancel(number: int) -> None:
    """Cancel a run; refused once a boot point of it is being committed."""
    item = cancel_run(session().env, number, origin="run cancel")
    say(f"run {number} is being cancelled" if item["ended_at"] is None else f"run {number} cancelled", item)
