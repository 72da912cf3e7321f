"""``bootpoint host``: target hosts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import host as rows
from bootpoint_common.store.request import from_json
from bootpoint_common.store.verification import BUDGET_SETTING
from bootpoint_common.units import format_size, parse_size
from bootpoint_ops import host as hosts
from bootpoint_ops import read
from bootpoint_ops.cli.access import KINDS, kind_option, reach_options
from bootpoint_ops.cli.hostview import show_host
from bootpoint_ops.cli.output import Session, emit, output_option, say, session, table, waiting
from bootpoint_ops.cli.stated import KEYS, confirmed, secrets_of, settings_of, stated_fingerprint, stated_host
from bootpoint_ops.question import TIMEOUT, ask_worker
from bootpoint_worker.preflight import lacks_login

F = TypeVar("F", bound=Callable[..., Any])


def _size(_context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read an option that is a size."""
    try:
        return None if value is None else parse_size(value)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param=parameter) from wrong


@click.group()
def host() -> None:
    """Target hosts: where standby VMs are kept."""


def timeout_option(command: F) -> F:
    """Add ``--timeout``."""
    return click.option("--timeout", default=TIMEOUT, show_default=True, help="Seconds to wait for an answer.")(command)


@host.command()
@click.argument("name")
@kind_option()
@reach_options(new=True)
@click.option("--yes", is_flag=True, help="Accept the fingerprint that it shows without being asked.")
@timeout_option
@output_option
def add(*, name: str, kind: str, yes: bool, timeout: float, **said: Any) -> None:
    """Add a host; its key is shown and confirmed now, and compared ever after."""
    here = session()
    stated = stated_host(name, kind, **said)
    # Before the question: a name that is taken is said at once.
    with here.env.database.transaction() as connection:
        taken = [item["name"] for item in read.host_list(connection)]
    if name in taken:
        raise error(
            Code.SPEC_INVALID,
            f"there is a host {name} already",
            key="name",
            value=name,
            hint="change it with `bootpoint host set`",
        )
    new = confirmed(stated, lambda host: _shown(here, host, timeout), yes=yes)
    with here.env.database.transaction() as connection:
        made = hosts.add(connection, here.env.vault, new, actor=here.env.actor)
    try:
        _check(here, made, timeout)
    except BootpointError as problem:
        # The host is added all the same; `host check` asks again.
        click.echo(f"host {name} is added, but was not checked: {problem.message}", err=True)
    show_host(here, name)


def _shown(here: Session, host: hosts.NewHost, timeout: float) -> str | None:
    """Ask a worker for the key that a host shows; None where none is shown."""
    if host.kind not in KEYS or host.address == "local":
        return None
    arguments = {"kind": host.kind, "address": host.address, "port": host.tcp_port, "settings": host.settings}
    with waiting(f"asking {host.address} for its key"):
        found = ask_worker(here.env, host.pool or host.kind, "host_fingerprint", arguments, timeout=timeout)
    return None if found["fingerprint"] is None else str(found["fingerprint"])


@host.command("set")
@click.argument("name")
@reach_options(new=False)
@click.option("--forget-credentials", is_flag=True, help="Delete the saved credentials.")
@click.option("--max-open-points", type=click.IntRange(1, 64), help="Most boot points that are written at a time.")
@click.option(
    "--verify-budget", metavar="SIZE", callback=_size, help="Most that verifications read of it a day. [default: 50GiB]"
)
@output_option
def set_(
    *,
    name: str,
    ssh_key: Path | None,
    password_file: Path | None,
    ask_password: bool,
    verify_budget: int | None,
    forget_credentials: bool,
    user: str | None,
    fingerprint: str | None,
    **given: Any,
) -> None:
    """Change how a host is reached."""
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, name)
    kind, settings = found.kind, settings_of(found.kind, {option: given.pop(option) for option in KINDS})
    if "nodes" in settings:
        settings["nodes"] = {**(found.settings.get("nodes") or {}), **settings["nodes"]}
    if verify_budget is not None:
        settings[BUDGET_SETTING] = verify_budget
    columns = {**given, "username": user, "fingerprint": stated_fingerprint(kind, fingerprint)}
    secrets = secrets_of(ssh_key, password_file, ask=ask_password) or None
    with here.env.database.transaction() as connection:
        hosts.change(
            connection,
            here.env.vault,
            name,
            actor=here.env.actor,
            columns={column: value for column, value in columns.items() if value is not None},
            settings=settings,
            secrets={} if forget_credentials else secrets,
        )
    show_host(here, name)


@host.command("list")
@output_option
def list_() -> None:
    """List the hosts."""
    with session().env.database.transaction() as connection:
        items = read.host_list(connection)
    lines = [
        (item["name"], item["kind"], item["address"], item["state"], item["reason"], len(item["replicas"]), _free(item))
        for item in items
    ]
    columns = ("NAME", "KIND", "ADDRESS", "STATE", "REASON", ">REPLICAS", ">FREE")
    emit(
        {"items": items}, table(columns, lines, empty="no hosts yet: `bootpoint host add NAME --kind kvm --address A`")
    )


def _free(item: dict[str, Any]) -> str:
    return format_size(max((storage["free_bytes"] for storage in item["storages"]), default=None))


@host.command()
@click.argument("name")
@timeout_option
@output_option
def show(name: str, timeout: float) -> None:
    """Ask a host how it is, and show it; what it doesn't answer is shown from memory (checked_at)."""
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, name)
    _check(here, found, timeout, kind="host_show", secret=_unsaved(found))
    show_host(here, name)


def _unsaved(found: rows.Host) -> dict[str, str] | None:
    """Ask on the terminal for a password that isn't saved; it serves one question."""
    if not lacks_login(found) or found.kind not in KEYS or not sys.stdin.isatty():
        return None
    text = f"Password of {found.username}@{found.address} (not saved; without it, what is remembered is shown)"
    password = click.prompt(text, default="", show_default=False, hide_input=True, err=True)
    return {"password": password} if password else None


def _check(
    here: Session, found: rows.Host, timeout: float, kind: str = "host_check", secret: dict[str, str] | None = None
) -> BootpointError | None:
    """Ask a host; the database keeps the answer."""
    with waiting(f"asking {found.name}"):
        answer = ask_worker(here.env, found.pool, kind, {"host": found.name}, timeout=timeout, secret=secret)
    return None if answer["error"] is None else from_json(answer["error"])


@host.command()
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Check every host.")
@timeout_option
@output_option
def check(name: str | None, timeout: float, *, every: bool) -> None:
    """Ask hosts whether they can be reached and have what bootpoint needs; exit with 1 if one hasn't."""
    here = session()
    if (name is None) != every:
        raise click.UsageError("name a host, or say --all", click.get_current_context())
    with here.env.database.transaction() as connection:
        names = [item["name"] for item in read.host_list(connection)] if every else [name or ""]
        found = [rows.by_name(connection, each) for each in names]
    problems = {each.name: _problem(here, each, timeout) for each in found}
    with here.env.database.transaction() as connection:
        items = [read.host(connection, each.name) for each in found]
    lines = [
        (item["name"], item["state"], item["version"], getattr(problems[item["name"]], "message", None))
        for item in items
    ]
    emit({"items": items}, table(("NAME", "STATE", "VERSION", "PROBLEM"), lines, empty="no hosts yet"))
    if any(problems.values()):
        raise click.exceptions.Exit(1)


def _problem(here: Session, found: rows.Host, timeout: float) -> BootpointError | None:
    try:
        return _check(here, found, timeout)
    except BootpointError as problem:
        return problem


@host.command()
@click.argument("name")
@output_option
def remove(name: str) -> None:
    """Remove a host that keeps no replica; nothing on the host is touched."""
    here = session()
    with here.env.database.transaction() as connection:
        hosts.remove(connection, name, actor=here.env.actor)
    say(f"host {name} removed", {"name": name})
