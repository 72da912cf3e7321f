"""``bootpoint vm``: VMs on a target host, through a worker, or with ``--direct`` by the host's credentials alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bootpoint_common.errors import Code, error
from bootpoint_common.store import host as rows
from bootpoint_common.store.database import one
from bootpoint_common.units import format_size
from bootpoint_ops.cli.host import secrets_of, timeout_option
from bootpoint_ops.cli.output import confirm, emit, output_option, say, session, table, waiting
from bootpoint_ops.host import VIRT_TYPES
from bootpoint_ops.question import ask_worker

if TYPE_CHECKING:
    from bootpoint_ops.direct import Direct

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that a start may take; the second one where virt-v2v-in-place converts, which takes minutes without KVM.
START_SECONDS, V2V_SECONDS = 180.0, 1500.0

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def vm() -> None:
    """VMs on a target host, standbys among them."""


def _reach(command: F) -> F:
    """Add the ways to a host: by name through a worker, or with ``--direct``."""
    options = [
        click.option(
            "--direct", is_flag=True, help="Without database, broker and workers; instead of HOST say --address."
        ),
        click.option("--address", help="With --direct: DNS name or address, 'local' for this machine."),
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


def _words(words: tuple[str, ...], names: tuple[str, ...], *, direct: bool, optional: int = 0) -> list[str | None]:
    """Assign the words of a call to names; with --direct the first name, HOST, is left out."""
    wanted = names[1:] if direct else names
    if not len(wanted) - optional <= len(words) <= len(wanted):
        raise click.UsageError(
            f"expected {' '.join(wanted) or 'no words'}, got {' '.join(words) or 'none'}", click.get_current_context()
        )
    found = [*([None] if direct else []), *words]
    return [*found, *[None] * (len(names) - len(found))]


def _direct(address: str | None, fingerprint: str | None, **reach: Any) -> Direct:
    from dataclasses import replace

    from bootpoint_ops import direct

    if address is None:
        raise click.UsageError("--direct needs --address", click.get_current_context())
    made = direct.Direct(address=address, fingerprint=fingerprint, **reach)
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


def _ask(
    kind: str, host: str | None, arguments: dict[str, Any], timeout: float, reach: dict[str, Any]
) -> dict[str, Any]:
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, host or "")
    secret = secrets_of(reach["ssh_key"], reach["password_file"])
    with waiting(f"asking {host}"):
        return ask_worker(
            here.env, found.pool, kind, {"host": found.name, **arguments}, timeout=timeout, secret=secret or None
        )


@vm.command("list")
@click.argument("words", nargs=-1, metavar="HOST")
@_reach
def list_(words: tuple[str, ...], timeout: float, *, direct: bool, **reach: Any) -> None:
    """List the VMs of a host."""
    (host,) = _words(words, ("HOST",), direct=direct)
    if direct:
        from bootpoint_ops.direct import vm_list

        items = vm_list(_direct(**reach))
    else:
        items = _ask("vm_list", host, {}, timeout, reach)["items"]
    lines = [(item["name"], item["state"], "yes" if item["replica_id"] else "no", item["uuid"]) for item in items]
    emit({"items": items}, table(("NAME", "STATE", "STANDBY", "UUID"), lines, empty="no VMs"))


@vm.command()
@click.argument("words", nargs=-1, metavar="HOST VM")
@_reach
def points(words: tuple[str, ...], timeout: float, *, direct: bool, **reach: Any) -> None:
    """List the boot points of a standby as its host knows them, oldest first."""
    host, name = _words(words, ("HOST", "VM"), direct=direct)
    if direct:
        from bootpoint_ops.direct import vm_points

        items = vm_points(_direct(**reach), str(name))
    else:
        items = _ask("vm_points", host, {"vm": name}, timeout, reach)["items"]
    lines = [
        (item["name"], item["kind"], item["consistency"], item["instant"], format_size(item["stored_bytes"]))
        for item in items
    ]
    emit(
        {"items": items},
        table(("NAME", "KIND", "LEVEL", "INSTANT", ">STORED"), lines, empty=f"{name} has no boot points"),
    )


@vm.command()
@click.argument("words", nargs=-1, metavar="HOST VM [P]")
@click.option(
    "--test", "test_id", metavar="ID", help="A test VM beside the standby: own name, own MACs, no real network."
)
@click.option(
    "--serial-log", metavar="PATH", help="File on the host that gets what the guest writes to its first serial port."
)
@click.option(
    "--conversion",
    default="auto",
    show_default=True,
    type=click.Choice(("auto", "light", "v2v", "none")),
    help="How its disks are made to boot: as its profile says, by edits of files, by virt-v2v-in-place, not at all.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@_reach
def start(
    words: tuple[str, ...],
    timeout: float,
    test_id: str | None,
    serial_log: str | None,
    conversion: str,
    *,
    direct: bool,
    yes: bool,
    **reach: Any,
) -> None:
    """Start a standby from a boot point (the newest, unless P is said); the point itself stays as it is."""
    host, name, point = _words(words, ("HOST", "VM", "P"), direct=direct, optional=1)
    what = f"a test VM of {name} is started" if test_id else f"{name} is started: beside its source there are two of it"
    if direct:
        from bootpoint_ops import direct as hosts

        way = _direct(**reach)
        if not yes:
            confirm(hosts.job_of(way, str(name)), what, yes=yes)
        machine = hosts.vm_start(way, str(name), point, test_id=test_id, serial_log=serial_log, conversion=conversion)
    else:
        confirm(_job_of(host, name), what, yes=yes)
        arguments = {
            "vm": name,
            "point": point,
            "test_id": test_id,
            "serial_log": serial_log,
            "conversion": conversion,
            "actor": session().env.actor,
        }
        machine = _ask("vm_start", host, arguments, max(timeout, _patience(host, name, conversion)), reach)
    said = [f"{machine['name']} is {machine['state']}"]
    problems = (machine.get("profile") or {}).get("problems", ())
    said += [f"{'problem' if each['bootable'] else 'it will not boot'}: {each['text']}" for each in problems]
    say("\n".join(said), machine)


def _patience(host: str | None, name: str | None, conversion: str) -> float:
    """Return how long an answer may take: that long only where it can, for nobody may be there to answer."""
    with session().env.database.transaction() as connection:
        found = one(
            connection,
            "SELECT 1 FROM replica y JOIN host h ON h.id = y.host_id WHERE h.name = %s"
            " AND y.definition->>'vm_name' = %s AND y.profile->>'route' = 'v2v'",
            host,
            name,
        )
    return V2V_SECONDS if conversion == "v2v" or (conversion == "auto" and found is not None) else START_SECONDS


def _job_of(host: str | None, name: str | None) -> str:
    with session().env.database.transaction() as connection:
        found = one(
            connection,
            "SELECT y.job_name FROM replica y JOIN host h ON h.id = y.host_id"
            " WHERE h.name = %s AND y.definition->>'vm_name' = %s ORDER BY y.state = 'detached'",
            host,
            name,
        )
    if found is None:
        raise error(Code.NO_SUCH_VM, f"host {host} has no standby {name} of bootpoint", key="vm", value=name, host=host)
    return str(found["job_name"])
