"""``bootpoint job``: what is protected, where to, and when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.console import Console

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import Disk, Firmware, Source, Spec, Target, Vm, as_json, read_toml, write_toml
from bootpoint_common.job.spec import Consistency
from bootpoint_common.store import job as rows
from bootpoint_common.store import run as runs
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import job as jobs
from bootpoint_ops import read, trial
from bootpoint_ops.cli.disk import fresh_disks, refresh
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import Session, confirm, emit, fields, output_option, say, session, table, waiting
from bootpoint_ops.cli.watch import watch_run
from bootpoint_ops.question import ask_worker


@click.group()
def job() -> None:
    """Jobs: what is protected, where to, and when."""


# --- files


@job.command()
@click.argument("agent")
@click.option("--host", required=True, help="Where the standby VM is to be kept.")
@timeout_option
@output_option
def init(agent: str, host: str, timeout: float) -> None:
    """Write a job file for a machine to stdout, made of its disks."""
    here = session()
    with here.env.database.transaction() as connection:
        read.host(connection, host)
    found = fresh_disks(here, agent, timeout)
    disks = [item for item in found["items"] if item["eligible"]]
    if not disks:
        raise error(
            Code.SOURCE_INELIGIBLE, f"agent {agent} has no disk that can be protected", key="agent", value=agent
        )
    name = re.sub(r"[^a-z0-9-]+", "-", agent.lower()).strip("-")[:63]
    slots = tuple(
        Disk(slot="system" if number == 0 else f"disk{number + 1}", id=item["id"]) for number, item in enumerate(disks)
    )
    machine = found["machine"]
    vm = Vm(
        name=f"{name}-standby",
        cpus=machine["cpus"],
        memory_bytes=machine["memory_bytes"],
        firmware=Firmware(machine["firmware"]),
    )
    # A machine in use reaches crash only where nothing can make a snapshot; that is for its owner to accept.
    source = Source(agent=agent, disks=slots, consistency=Consistency.FS)
    spec = Spec(name=name, source=source, targets=(Target(host=host, vm=vm),))
    emit(as_json(spec), lambda _out: click.echo(write_toml(spec), nl=False))


def _specs(paths: tuple[Path, ...]) -> Iterator[Spec]:
    for path in paths:
        files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not files:
            raise error(Code.SPEC_INVALID, f"{path} holds no *.toml file", key="FILE", value=str(path))
        for file in files:
            yield read_toml(file.read_text(), str(file))


@job.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE|DIR...")
@click.option("--dry-run", is_flag=True, help="Print the differences and the preflight; change nothing.")
@click.option("--run", "run_now", is_flag=True, help="Start a run of each job.")
@timeout_option
@output_option
def apply(paths: tuple[Path, ...], timeout: float, *, dry_run: bool, run_now: bool) -> None:
    """Put job files into effect; nothing is started unless --run is said."""
    here, specs = session(), list(_specs(paths))
    for agent in dict.fromkeys(spec.source.agent for spec in specs):
        _refresh_known(here, agent, timeout)
    if dry_run:
        _dry_run(here, specs, timeout)
        return
    items = []
    # All files or none: a folder of jobs is one change.
    with here.env.database.transaction() as connection:
        applied = [jobs.apply(connection, spec, actor=here.env.actor) for spec in specs]
        for each in applied:
            started = None
            if run_now and each.number is not None:
                started = runs.create(connection, each.number, trigger="manual", requested_by=here.env.actor).id
            items.append({**each.as_json(), "run": started})
    emit({"items": items}, lambda out: _show_applied(out, items))


def _refresh_known(here: Session, agent: str | None, timeout: float) -> None:
    try:
        refresh(here, agent, timeout)
    except BootpointError as problem:
        if problem.code is not Code.NO_SUCH_AGENT:  # the apply says it with the key of the file
            raise


def _show_applied(out: Console, items: list[dict[str, Any]], *, planned: bool = False) -> None:
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


def _preflight_line(target: dict[str, Any]) -> str:
    if target["error"] is not None:
        return f"{target['host']}: {target['error']['message']} ({target['error']['code']})"
    plan, vm = target["plan"], target["plan"]["vm"]
    networks = ", ".join(filter(None, vm["networks"])) or "none"
    return (
        f"{target['host']}: {plan['kind']} of about {format_size(plan['changed_bytes'])}; VM {vm['name']},"
        f" {vm['cpus']} CPUs, {format_size(vm['memory_bytes'])}, {vm['firmware']}, networks {networks}"
    )


def _dry_run(here: Session, specs: list[Spec], timeout: float) -> None:
    items, first = [], None
    for spec in specs:
        with here.env.database.transaction() as connection:
            planned = jobs.plan(connection, spec)
            known = (
                {row.host: str(row.id) for row in rows.replicas(connection, planned.number)} if planned.number else {}
            )
        checks = []
        for target in planned.spec.targets:
            arguments = {"spec": as_json(planned.spec), "host": target.host, "replica": known.get(target.host)}
            plan, problem = None, None
            try:
                with waiting(f"checking {target.host}"):
                    plan = ask_worker(here.env, target.pool or "", "preflight", arguments, timeout=timeout)
            except BootpointError as exc:
                problem = exc
                first = first or exc
            checks.append({"host": target.host, "plan": plan, "error": None if problem is None else problem.as_json()})
        items.append({**planned.as_json(), "preflight": checks})
    emit({"items": items}, lambda out: _show_applied(out, items, planned=True))
    if first is not None:
        raise first


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


# --- switching and deleting


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
