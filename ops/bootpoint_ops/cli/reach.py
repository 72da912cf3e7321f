"""The ways to a host: by its name through a worker, or with ``--direct`` by the host's credentials alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bootpoint_common.config import Config
from bootpoint_common.errors import Code, error
from bootpoint_common.store import host as rows
from bootpoint_common.store.database import one
from bootpoint_ops.cli.access import kind_option, login_options
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import output_option, session, waiting
from bootpoint_ops.cli.stated import confirmed, option_of, secrets_of, stated_host
from bootpoint_ops.question import ask_worker
from bootpoint_worker.targets import fetch_fingerprint
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.vm import is_uuid

F = TypeVar("F", bound=Callable[..., Any])

#: Kind of a host where none is said.
KIND = "kvm"


def reach(command: F) -> F:
    """Add the ways to a host: by name through a worker, or with ``--direct``."""
    direct = click.option(
        "--direct",
        is_flag=True,
        help="Without database, broker and workers: instead of HOST say --address, and what `host add` would be told."
        " Without --direct, credentials are for a HOST whose own aren't saved.",
    )
    login = login_options("'local' is this machine.", required=False)
    return direct(kind_option(default=KIND)(login(timeout_option(output_option(command)))))


def words_of(words: tuple[str, ...], names: tuple[str, ...], *, direct: bool, optional: int = 0) -> list[str | None]:
    """Assign the words of a call to names; with --direct the first name, HOST, is left out."""
    wanted = names[1:] if direct else names
    if not len(wanted) - optional <= len(words) <= len(wanted):
        raise click.UsageError(
            f"expected {' '.join(wanted) or 'no words'}, got {' '.join(words) or 'none'}", click.get_current_context()
        )
    found = [*([None] if direct else []), *words]
    return [*found, *[None] * (len(names) - len(found))]


def direct_of(*, kind: str | None, address: str | None, **said: Any) -> HostAccess:
    """Return how a host is reached without the database; a key that isn't stated is shown, and must be confirmed.

    Raises:
        click.UsageError: No address was said, or what belongs to another kind of host.
        RefusedError: ``host_key_changed``: nobody confirmed the key.
    """
    if address is None:
        raise click.UsageError("--direct needs --address", click.get_current_context())
    stated = stated_host(address, kind or KIND, address=address, **said)
    host = confirmed(
        stated, lambda new: fetch_fingerprint(new.kind, new.address, new.tcp_port, new.settings), yes=None
    )
    return host.access(Config.from_environment().nbd_tls)


def login_of(*, ssh_key: Path | None, password_file: Path | None, ask_password: bool, **said: Any) -> dict[str, str]:
    """Return the credentials that were said for a host which a worker asks.

    Raises:
        click.UsageError: More was said, which only ``--direct`` wants.
    """
    for name, value in said.items():
        if value is not None:
            text = f"{option_of(name)} is for --direct: what workers are to know, `bootpoint host set` says"
            raise click.UsageError(text, click.get_current_context())
    return secrets_of(ssh_key, password_file, ask=ask_password)


def ask(
    kind: str, host: str | None, arguments: dict[str, Any], timeout: float, secrets: dict[str, str]
) -> dict[str, Any]:
    """Ask a worker about a host; credentials that are not saved go along."""
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, host or "")
    with waiting(f"asking {host}"):
        return ask_worker(
            here.env, found.pool, kind, {"host": found.name, **arguments}, timeout=timeout, secret=secrets or None
        )


def job_of(host: str | None, name: str | None, timeout: float, secrets: dict[str, str]) -> str:
    """Return the name of the job that a standby belongs to; the VM by its name, or by the hypervisor's id.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    vm = name or ""
    if is_uuid(vm):
        items = ask("vm_list", host, {}, timeout, secrets)["items"]
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
