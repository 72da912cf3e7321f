"""Commands about the installation itself: up, demo, db, worker, scheduler, exporter, code page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bootpoint_common.config import Config
from bootpoint_common.systemd import Manager, manager_option
from bootpoint_ops.cli.output import emit, output_option, say, session
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
    open_vault(config.installation_key, create=True)
    done = run_migrate(url)
    say(f"ran {', '.join(done)}" if done else "the database is up to date", {"items": done})


@db.command()
@click.option("--apply", "apply_", is_flag=True, help="Run them: the database's login may make roles.")
@output_option
def roles(*, apply_: bool) -> None:
    """Print the SQL that makes the roles of processes and people, and grants them what each needs."""
    from bootpoint_common.store import role

    with session().env.database.transaction() as connection:
        statements = [*role.creation(connection), *role.grants(connection, list(role.Role))]
        if apply_:
            role.apply(connection, statements)
    if apply_:
        say("each role has its rights: " + ", ".join(role.Role), {"items": statements})
    else:
        emit({"items": statements}, lambda _out: click.echo("".join(f"{line};\n" for line in statements), nl=False))


@click.command()
@click.option("--pool", "pools", multiple=True, required=True, help="A pool to serve; may be given more than once.")
@click.option("--slices", default=4, show_default=True, type=click.IntRange(1, 256), help="Streams applied at a time.")
@click.option("--tasks", default=4, show_default=True, type=click.IntRange(1, 256), help="Short tasks done at a time.")
@manager_option
def worker(pools: tuple[str, ...], slices: int, tasks: int, manager: Manager) -> None:
    """Serve pools of a fleet: apply streams, open, commit, verify."""
    from bootpoint_ops.runtime import run_worker

    run_worker(Config.from_environment(), list(pools), slices=slices, tasks=tasks, manager=manager, say=_line)


@click.command()
@manager_option
def scheduler(manager: Manager) -> None:
    """Start the runs of a fleet that are due, relay its messages, and look after what nobody has in hand."""
    from bootpoint_ops.runtime import run_scheduler

    run_scheduler(Config.from_environment(), manager=manager, say=_line)


@click.command()
@manager_option
def exporter(manager: Manager) -> None:
    """Serve the metrics of the whole installation to Prometheus: one for each database is enough."""
    from bootpoint_ops.runtime import run_exporter

    run_exporter(Config.from_environment(), manager=manager, say=_line)


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


__all__ = ["code", "db", "demo", "exporter", "scheduler", "up", "worker"]
