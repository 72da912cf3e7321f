"""``bootpoint job plan``: what the next run will do, and why."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from bootpoint_common.diskview.text import printable
from bootpoint_common.errors import BootpointError
from bootpoint_common.store import job as jobs
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import profile, retention
from bootpoint_ops.cli.disk import refresh
from bootpoint_ops.cli.output import Session, emit, output_option, session, table, waiting
from bootpoint_ops.question import ask_worker

#: Seconds to wait for an answer: what nobody checks is shown from memory, so there is no need to be patient.
TIMEOUT = 10.0


@click.command("plan")
@click.argument("name", metavar="J")
@click.option("--host", metavar="H", help="Only this target.")
@click.option(
    "--timeout", default=TIMEOUT, show_default=True, help="Seconds to wait for source and host; 0 asks neither."
)
@output_option
def plan(name: str, host: str | None, timeout: float) -> None:
    """Say what the next run will do: how much it copies and why, and which boot points go for it."""
    here = session()
    with here.env.database.transaction() as connection:
        found = jobs.by_name(connection, name)
    if timeout > 0:
        refresh(here, found.spec["source"].get("agent"), timeout)
    with here.env.database.transaction() as connection:
        replicas = [
            replica
            for replica in jobs.replicas(connection, found.id)
            if replica.state != "detached" and host in (None, replica.host)
        ]
        items = [retention.plan(connection, found, replica) for replica in replicas]
    if timeout > 0:
        for item, replica in zip(items, replicas, strict=True):
            _check(here, found, replica, item, timeout)
    emit({"job": found.name, "items": items}, lambda out: _show(out, found.name, items))


def _check(here: Session, found: jobs.Job, replica: jobs.ReplicaRow, item: dict[str, Any], timeout: float) -> None:
    """Let a worker check the host, and put in what it finds."""
    arguments = {"spec": found.spec, "host": replica.host, "replica": str(replica.id)}
    try:
        with waiting(f"checking {replica.host}"):
            answer = ask_worker(here.env, replica.pool, "preflight", arguments, timeout=timeout)
    except BootpointError as problem:
        item["error"] = problem.as_json()
        return
    item |= {key: answer[key] for key in ("kind", "reason", "changed_bytes", "duration_seconds")}
    item |= {"checked": True, "error": None, "waits": answer.get("line"), "vm": answer["vm"]["name"]}


def _show(out: Console, name: str, items: list[dict[str, Any]]) -> None:
    for item in items:
        out.print(f"job {name} on {item['host']}: {_run_line(item)}", markup=False)
        for disk in item["trackers"] if item["kind"] == "increment" else ():
            out.print(f"  {_tracker_line(disk)}", markup=False)
        if item["error"] is not None:
            checked = "the run would be refused" if item["error"]["code"] == "retention_full" else "not checked"
            out.print(f"  {checked}: {item['error']['message']} ({item['error']['code']})", markup=False)
        if item["waits"]:
            out.print(f"  it {item['waits']}", markup=False)
        if item["retention"] is not None:
            _show_retention(out, item["retention"])


def _run_line(item: dict[str, Any]) -> str:
    new = f"; disks {', '.join(item['new_disks'])} in full" if item["new_disks"] else ""
    return f"{profile.expected_text(item)}{new}"


def _tracker_line(disk: dict[str, Any]) -> str:
    why = f": {printable(disk['reason'])}" if disk["reason"] else ""
    return f"changes of {disk['slot']} are found by {disk['tracker'] or 'what its agent has not told yet'}{why}"


def _show_retention(out: Console, found: dict[str, Any]) -> None:
    out.print(
        f"  {found['points']} of {found['points_limit']} points now (the host keeps up to {found['host_limit']}),"
        f" {found['points_after']} after it",
        markup=False,
    )
    if found["frozen"]:
        out.print(f"  retention is frozen: {found['frozen']['reason']}", markup=False)
    if found["consolidating"]:
        out.print(f"  {found['consolidating']} is being merged", markup=False)
    if found["blocked"]:
        out.print("  the run will be refused (retention_full): no point may go", markup=False)
    if found["waits"]:
        out.print(f"  {found['waits']['point']} could not be merged: {found['waits']['message']}", markup=False)
    if found["go"]:
        took = format_duration(found["duration_seconds"])
        out.print(
            f"  going frees at most {format_size(found['freed_bytes_at_most'])}, copies"
            f" {format_size(found['copied_bytes'])}, takes {took or '?'}",
            markup=False,
        )
    lines = [(one["name"], "goes before the run" if one["before_run"] else "goes after it", "") for one in found["go"]]
    lines += [(one["name"], "stays", one["text"]) for one in found["kept"]]
    if lines:
        table(("NAME", "WHAT", "WHY"), lines, empty="")(out)
