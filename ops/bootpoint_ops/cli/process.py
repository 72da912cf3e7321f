"""Commands about the installation itself: up, demo, status, db, worker, scheduler, code page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bootpoint_common.config import Config
from bootpoint_common.diskview.text import printable
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import notice, read
from bootpoint_ops.cli.output import emit, output_option, say, session, table
from bootpoint_ops.host import VIRT_TYPES


def _line(text: str) -> None:
    click.echo(text)


@click.command()
@click.option("--agent", metavar="NAME", help="Name of this machine's agent. [default: its hostname]")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="A raw disk file that may be a source.",
)
@click.option("--agent-config", type=click.Path(path_type=Path, dir_okay=False), help="The agent's configuration file.")
def up(agent: str | None, files: tuple[str, ...], agent_config: Path | None) -> None:
    """Run everything in one process: database, agent of this machine, workers, scheduler."""
    from bootpoint_ops.up import Options
    from bootpoint_ops.up import up as run_up

    run_up(Config.from_environment(), Options(agent=agent, files=files, agent_config=agent_config), say=_line)


@click.command()
@click.option(
    "--disk",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A bootable disk (raw, qcow2, or a device) to protect a copy of. [default: a small Debian made for it]",
)
@click.option(
    "--virt-type",
    default="qemu",
    show_default=True,
    type=click.Choice(VIRT_TYPES),
    help="How VMs run: kvm needs hardware help, qemu is slow and runs anywhere.",
)
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="Where everything is put.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="File for the report as JSON.")
@click.option("--boot-timeout", type=click.FloatRange(min=1.0), help="Seconds that a VM may take to boot.")
def demo(**options: Any) -> None:
    """Protect a small bootable disk on this machine, and start VMs from two boot points of it."""
    from bootpoint_ops.demo import Options, main

    main(Options(**{name: value for name, value in options.items() if value is not None}))


@click.command()
@output_option
def status() -> None:
    """Print one line for each job that is not ok, and exit with 1 if there is any.

    Disks that no job protects, and notices that can't be sent, get a line too; they don't change the exit code.
    """
    with session().env.database.transaction() as connection:
        jobs = read.job_list(connection)
        unprotected = read.unprotected(connection)
        unsent = notice.pending(connection)
    bad = [job for job in jobs if job["state"] != "ok"]
    items = [
        {
            "job": job["name"],
            **{
                key: job[key]
                for key in ("state", "state_reason", "newest_point_age_seconds", "objective_seconds", "last_run")
            },
        }
        for job in bad
    ]

    def show(out: Console) -> None:
        for job in bad:
            out.print(_status_line(job), markup=False)
        for line in (*_unprotected_lines(unprotected), *notice.pending_lines(unsent)):
            out.print(line, markup=False)
        if not bad:
            out.print(f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}, all ok", markup=False)

    emit({"items": items, "unprotected_disks": unprotected, "unsent_notices": unsent}, show)
    if bad:
        raise click.exceptions.Exit(1)


def _status_line(job: dict[str, object]) -> str:
    age = job["newest_point_age_seconds"]
    newest = "no boot point yet" if age is None else f"newest boot point {format_duration(float(str(age)))} old"
    reason = f" ({job['state_reason']})" if job["state_reason"] else ""
    return f"{job['name']}: {job['state']}{reason}, {newest}"


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


@click.group()
def db() -> None:
    """The database."""


@db.command()
@output_option
def migrate() -> None:
    """Bring the database up to date; make the installation's key where there is none yet."""
    from bootpoint_common.store.migration import migrate as run_migrate
    from bootpoint_ops.environment import database_url, open_vault

    config = Config.from_environment()
    url = database_url(config)
    config.installation_key.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    open_vault(config.installation_key, create=True)
    done = run_migrate(url)
    say(f"ran {', '.join(done)}" if done else "the database is up to date", {"items": done})


@click.command()
@click.option("--pool", "pools", multiple=True, required=True, help="A pool to serve; may be given more than once.")
@click.option("--slices", default=4, show_default=True, type=click.IntRange(1, 256), help="Streams applied at a time.")
@click.option("--tasks", default=4, show_default=True, type=click.IntRange(1, 256), help="Short tasks done at a time.")
def worker(pools: tuple[str, ...], slices: int, tasks: int) -> None:
    """Serve pools of a fleet: apply streams, open, commit, verify."""
    from bootpoint_ops.runtime import run_worker

    run_worker(Config.from_environment(), list(pools), slices=slices, tasks=tasks, say=_line)


@click.command()
def scheduler() -> None:
    """Relay messages of a fleet, and look after what nobody has in hand."""
    from bootpoint_ops.runtime import run_scheduler

    run_scheduler(Config.from_environment(), say=_line)


@click.group()
def code() -> None:
    """Codes of errors and refusals."""


@code.command("page")
@output_option
def code_page() -> None:
    """Print docs/codes.md: every code, what it means, and the way out."""
    from bootpoint_common.errors import CODES
    from bootpoint_ops.code_page import page

    items = [{"code": str(code), "meaning": info.meaning, "hint": info.hint} for code, info in CODES.items()]
    emit({"items": items}, lambda _out: click.echo(page(), nl=False))


__all__ = ["code", "db", "demo", "scheduler", "status", "table", "up", "worker"]
