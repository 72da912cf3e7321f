"""The ways to a host: by its name through a worker, or with ``--direct`` by the host's credentials alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bootpoint_common.errors import Code, error
from bootpoint_common.store import host as rows
from bootpoint_common.store.database import one
from bootpoint_ops.cli.access import secrets_of, to_look_up
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import output_option, session, waiting
from bootpoint_ops.host import VIRT_TYPES
from bootpoint_ops.question import ask_worker
from bootpoint_worker.vm import is_uuid

if TYPE_CHECKING:
    from bootpoint_ops.direct import Direct

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def reach(command: F) -> F:
    """Add the ways to a host: by name through a worker, or with ``--direct``."""
    options = [
        click.option(
            "--direct", is_flag=True, help="Without database, broker and workers; instead of HOST say --address."
        ),
        click.option(
            "--address", callback=to_look_up, help="With --direct: DNS name or address, 'local' for this machine."
        ),
        click.option("--user", default="root", show_default=True, help="With --direct: account."),
        click.option(
            "--port", default=22, show_default=True, type=click.IntRange(1, 65535), help="With --direct: SSH port."
        ),
        click.option("--ssh-key", type=_FILE, help="File with the private key."),
        click.option(
            "--password-file",
            type=_FILE,
            help="File with the password; without --direct for a host whose password isn't saved.",
        ),
        click.option("--fingerprint", help="With --direct: fingerprint of the key that the host shows."),
        click.option(
            "--virt-type",
            default="kvm",
            show_default=True,
            type=click.Choice(VIRT_TYPES),
            help="With --direct: how VMs run.",
        ),
        click.option(
            "--virtio-win", metavar="PATH", help="With --direct: ISO on the host with drivers for Windows."
        ),
        timeout_option,
        output_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def words_of(words: tuple[str, ...], names: tuple[str, ...], *, direct: bool, optional: int = 0) -> list[str | None]:
    """Assign the words of a call to names; with --direct the first name, HOST, is left out."""
    wanted = names[1:] if direct else names
    if not len(wanted) - optional <= len(words) <= len(wanted):
        raise click.UsageError(
            f"expected {' '.join(wanted) or 'no words'}, got {' '.join(words) or 'none'}", click.get_current_context()
        )
    found = [*([None] if direct else []), *words]
    return [*found, *[None] * (len(names) - len(found))]


def direct_of(address: str | None, fingerprint: str | None, **way: Any) -> Direct:
    """Return how a host is reached without the database; a key that isn't stated is shown, and must be confirmed."""
    from dataclasses import replace

    from bootpoint_ops import direct

    if address is None:
        raise click.UsageError("--direct needs --address", click.get_current_context())
    made = direct.Direct(address=address, fingerprint=fingerprint, **way)
    if fingerprint is not None or address == "local":
        return made
    shown = direct.fingerprint(made)
    click.echo(f"{address} shows the key {shown}", err=True)
    if not sys.stdin.isatty() or not click.confirm("Is that its key?", err=True):
        raise error(
            Code.HOST_KEY_CHANGED, f"the key of {address} was not confirmed", key="--fingerprint", value=shown,
            host=address, hint="compare it on the host, then say --fingerprint",
        )  # fmt: skip
    return replace(made, fingerprint=shown)


def ask(
    kind: str, host: str | None, arguments: dict[str, Any], timeout: float, way: dict[str, Any]
) -> dict[str, Any]:
    """Ask a worker about a host; credentials that are not saved go along."""
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, host or "")
    secret = secrets_of(way["ssh_key"], way["password_file"])
    with waiting(f"asking {host}"):
        return ask_worker(
            here.env, found.pool, kind, {"host": found.name, **arguments}, timeout=timeout, secret=secret or None
        )


def job_of(host: str | None, name: str | None, timeout: float, way: dict[str, Any]) -> str:
    """Return the name of the job that a standby belongs to; the VM by its name, or by the hypervisor's id.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    vm = name or ""
    if is_uuid(vm):
        items = ask("vm_list", host, {}, timeout, way)["items"]
        vm = next((item["name"] for item in items if item["uuid"] == vm.lower()), vm)
    with session().env.database.transaction() as connection:
        found = one(
            connection,
            "SELECT y.job_name FROM replica y JOIN host h ON h.id = y.host_id"
            " WHERE h.name = %s AND y.definition->>'vm_name' = %s ORDER BY y.state = 'detached'",
            host,
            vm,
        )
    if found is None:
        text = f"host {host} has no standby {name} of bootpoint"
        raise error(Code.NO_SUCH_VM, text, key="vm", value=name, host=host)
    return str(found["job_name"])
