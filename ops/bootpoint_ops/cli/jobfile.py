"""``bootpoint job init`` and ``job apply``: job files, made and put into effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.job import as_json
from bootpoint_common.store import job as rows
from bootpoint_common.store import run as runs
from bootpoint_common.units import format_size
from bootpoint_ops import jobfile, read
from bootpoint_ops.cli.disk import fresh_disks, refresh
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import Session, emit, output_option, session, waiting
from bootpoint_ops.draft import draft
from bootpoint_ops.job import Applied
from bootpoint_ops.question import ask_worker


@click.command()
@click.argument("agent")
@click.option("--host", required=True, help="Where the standby VM is to be kept.")
@timeout_option
@output_option
def init(agent: str, host: str, timeout: float) -> None:
    """Write a complete job file for a machine to stdout, made of its disks and its host, with every key explained."""
    here = session()
    with here.env.database.transaction() as connection:
        on = read.host(connection, host)
    spec, text = draft(agent, fresh_disks(here, agent, timeout), on)
    emit(as_json(spec), lambda _out: click.echo(text, nl=False))


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR...")
@click.option("--dry-run", is_flag=True, help="Print the differences and the preflight; change nothing.")
@click.option("--run", "run_now", is_flag=True, help="Start a run of each job.")
@timeout_option
@output_option
def apply(paths: tuple[Path, ...], timeout: float, *, dry_run: bool, run_now: bool) -> None:
    """Put job files into effect, all or none; nothing is started unless --run is said.

    Of a folder every *.toml is taken. Jobs without a file are listed, and left as they are.
    """
    here = session()
    if dry_run and run_now:
        raise click.UsageError("--dry-run changes nothing, and --run starts runs", click.get_current_context())
    batch = jobfile.read_all(paths)
    for agent in dict.fromkeys(spec.source.agent for spec in batch.files.values()):
        _refresh_known(here, agent, timeout)
    if dry_run:
        _dry_run(here, batch, timeout)
        return
    with here.env.database.transaction() as connection:
        applied = jobfile.apply_all(connection, batch, actor=here.env.actor)
        left = jobfile.without_file(connection, batch)
    busy: list[BootpointError] = []
    items = [
        {**each.as_json(), "run": _start(here, each.number, busy) if run_now and each.number is not None else None}
        for each in applied
    ]
    _emit(items, left)
    if busy:
        raise busy[0]


def _refresh_known(here: Session, agent: str | None, timeout: float) -> None:
    try:
        refresh(here, agent, timeout)
    except BootpointError as problem:
        if problem.code is not Code.NO_SUCH_AGENT:  # the apply says it with the key of the file
            raise


def _start(here: Session, number: int, busy: list[BootpointError]) -> int | None:
    """Start a run; one that is under way already is no reason to take the files back."""
    try:
        with here.env.database.transaction() as connection:
            return runs.create(connection, number, trigger="manual", requested_by=here.env.actor).id
    except BootpointError as problem:
        if problem.code is not Code.ALREADY_RUNNING:
            raise
        busy.append(problem)
        return None


def _emit(items: list[dict[str, Any]], left: list[str], *, planned: bool = False) -> None:
    emit({"items": items, "without_file": left}, lambda out: _show_applied(out, items, left, planned=planned))
    for item in items:
        for warning in item["warnings"]:
            click.echo(f"warning: job {item['job']}: {warning}", err=True)


def _show_applied(out: Console, items: list[dict[str, Any]], left: list[str], *, planned: bool) -> None:
    for item in items:
        would = "would be " if planned and item["result"] != "unchanged" else ""
        out.print(f"job {item['job']} {would}{item['result']}, revision {item['revision']}", markup=False)
        for change in item["changes"]:
            out.print(
                f"  {change['key']}: {change['old']} -> {change['new']} ({change['when'].replace('_', ' ')})",
                markup=False,
            )
        if item.get("run"):
            out.print(f"  run {item['run']} requested: `bootpoint run watch {item['run']}`", markup=False)
        for target in item.get("preflight", ()):
            out.print(f"  {_preflight_line(target)}", markup=False)
    for name in left:
        out.print(f"job {name} has no file here, and stays as it is: `bootpoint job delete {name}`", markup=False)


def _preflight_line(target: dict[str, Any]) -> str:
    if target["error"] is not None:
        return f"{target['host']}: {target['error']['message']} ({target['error']['code']})"
    plan, vm = target["plan"], target["plan"]["vm"]
    networks = ", ".join(filter(None, vm["networks"])) or "none"
    return (
        f"{target['host']}: {plan['kind']} of about {format_size(plan['changed_bytes'])}; VM {vm['name']},"
        f" {vm['cpus']} CPUs, {format_size(vm['memory_bytes'])}, {vm['firmware']}, networks {networks}"
    )


def _dry_run(here: Session, batch: jobfile.Batch, timeout: float) -> None:
    with here.env.database.transaction() as connection:
        plans = jobfile.plan_all(connection, batch)
        left = jobfile.without_file(connection, batch)
    problems: list[BootpointError] = []
    items = [{**planned.as_json(), "preflight": _preflight(here, planned, timeout, problems)} for planned in plans]
    _emit(items, left, planned=True)
    if problems:
        raise problems[0]


def _preflight(here: Session, planned: Applied, timeout: float, problems: list[BootpointError]) -> list[dict[str, Any]]:
    """Let a worker check each target of a job; what speaks against one is told with it, and kept."""
    known: dict[str, str] = {}
    if planned.number is not None:
        with here.env.database.transaction() as connection:
            known = {row.host: str(row.id) for row in rows.replicas(connection, planned.number)}
    checks = []
    for target in planned.spec.targets:
        arguments = {"spec": as_json(planned.spec), "host": target.host, "replica": known.get(target.host)}
        plan, problem = None, None
        try:
            with waiting(f"checking {target.host}"):
                plan = ask_worker(here.env, target.pool or "", "preflight", arguments, timeout=timeout)
        except BootpointError as exc:
            problem = exc
            problems.append(exc)
        checks.append({"host": target.host, "plan": plan, "error": None if problem is None else problem.as_json()})
    return checks
