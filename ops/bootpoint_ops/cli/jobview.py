"""``bootpoint job list`` and ``job show``: jobs at a glance, and one job with all that was set for it."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from bootpoint_common.job import read_json, words
from bootpoint_common.store.shown import jsonable
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import dashboard, profile, read, trial
from bootpoint_ops import pause as pauses
from bootpoint_ops.cli.chart import bars
from bootpoint_ops.cli.output import emit, fields, output_option, session, table
from bootpoint_ops.cli.period import local
from bootpoint_ops.cli.status import progress_text

#: Cells from which on a table of jobs has room for source, targets and points; `job show` has them anywhere.
_WIDE = 140

#: Cells of the longest bar beside a boot point.
_BAR = 20


@click.command("list")
@output_option
def list_() -> None:
    """List the jobs: how each stands, when it runs next, how the last run ended, what runs now, and its trend."""
    with session().env.database.transaction() as connection:
        items, running = dashboard.overview(connection)
    emit({"items": items}, lambda out: _list(out, items, running))


def _list(out: Console, items: list[dict[str, Any]], running: dict[int, dict[str, Any]]) -> None:
    wide = out.width >= _WIDE
    lines = [
        (
            item["id"],
            item["name"],
            item["state"],
            item["state_reason"],
            format_duration(item["newest_point_age_seconds"]),
            _last(item["last_run"]),
            local(item["next_run_at"])[:16],
            progress_text(running[item["running"]]) if item["running"] in running else _waits(item["running"]),
            bars(item["trend_changed_bytes"]),
            *(_ways(item) if wide else ()),
        )
        for item in items
    ]
    columns = (">ID", "NAME", "STATE", "REASON", ">NEWEST", "LAST RUN", "NEXT RUN", "RUNNING", "TREND")
    more = ("SOURCE", "TARGETS", ">POINTS") if wide else ()
    table((*columns, *more), lines, empty="no jobs yet: `bootpoint job init AGENT --host H`")(out)


def _ways(item: dict[str, Any]) -> tuple[str, str, int]:
    """Return where a job's data comes from and goes to, and how many boot points there are."""
    targets = [target for target in item["targets"] if target["state"] != "detached"]
    points = max((target["points"] for target in item["targets"]), default=0)
    return item["source"]["agent"], ", ".join(target["host"] for target in targets), points


def _last(run: dict[str, Any] | None) -> str | None:
    return None if run is None else f"{run['id']} {run['state']}"


def _waits(number: int | None) -> str | None:
    return None if number is None else f"run {number} waits"


@click.command()
@click.argument("name", metavar="J")
@output_option
def show(name: str) -> None:
    """Show a job: its state, its source and targets, when it runs, its options, and what comes next."""
    with session().env.database.transaction() as connection:
        item = profile.job(connection, name)
        skipped = trial.skipped(connection, item["id"])
        pause = pauses.paused(connection, item["id"])
        points = read.point_list(connection, item["name"])["items"]
    spec = read_json(item["spec"])
    last = item["last_run"]
    pairs = [
        *(("name", item["name"]), ("number", item["id"]), ("revision", item["revision"])),
        ("state", item["state"]),
        ("reason", item["state_reason"]),
        *((("paused", f"until {jsonable(pause['until'])} by {pause['by']}"),) if pause else ()),
        ("source", _source(item)),
        ("newest point", format_duration(item["newest_point_age_seconds"])),
        ("running", item["running"]),
        ("last run", f"{last['id']} {last['state']} {last['reason'] or ''} {last['ended_at']}" if last else None),
        ("runs", "\n".join(words.when(spec))),
        ("next run", _next(item)),
        ("unprotected disks", ", ".join(item["unprotected_disks"])),
        *((f"target {t['host']}", _target_line(t)) for t in item["targets"]),
        *((f"boot check {s['host']}", f"skipped at {s['at']}: {s['message']}") for s in skipped),
        *words.options(spec),
        ("trend", _trend(item["trend_changed_bytes"])),
    ]
    emit(item, lambda out: _show(out, pairs, points))


def _show(out: Console, pairs: list[tuple[str, Any]], points: list[dict[str, Any]]) -> None:
    fields(pairs)(out)
    if not points:
        return
    greatest = max(point["changed_bytes"] or 0 for point in points) or 1
    lines = [
        (
            point["name"], point["host"], point["kind"], format_size(point["changed_bytes"]),
            "█" * max(1, round(_BAR * (point["changed_bytes"] or 0) / greatest)),
        )
        for point in reversed(points)
    ]  # fmt: skip
    table(("NAME", "HOST", "KIND", ">CHANGED", ""), lines, empty="")(out)


def _source(item: dict[str, Any]) -> str:
    source, disks = item["source"], item["spec"]["source"]["disks"]
    named = "all its disks" if not isinstance(disks, list) else ", ".join(f"{d['slot']} {d['id']}" for d in disks)
    version = f", {source['agent_version']}" if source["agent_version"] else ""
    return f"{source['agent']} ({source['agent_state']}{version}): {named}"


def _next(item: dict[str, Any]) -> str:
    ahead = item["next_run"]
    what = profile.expected_text(ahead) if ahead is not None else "not known before its source has told its disks"
    at = f"{local(item['next_run_at'])}, " if item["next_run_at"] else ""
    return f"{at}{what}"


def _trend(values: list[int]) -> str | None:
    if not values:
        return None
    low, high = format_size(min(values)), format_size(max(values))
    return f"{bars(values)}  changed by the last {len(values)} runs: {low} to {high}, at last {format_size(values[-1])}"


def _target_line(target: dict[str, Any]) -> str:
    return (
        f"{target['state']}, VM {target['vm']} ({target['standby']}), "
        f"{target['points']} of {target['points_limit']} points, newest {target['head'] or 'none'}"
        + (f", reverted to {target['held']}" if target["held"] else "")
    )
