"""``bootpoint vm``: VMs on a target host, through a worker, or with ``--direct`` by the host's credentials alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bootpoint_common.store.database import one
from bootpoint_common.units import format_size
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import confirm, emit, output_option, say, session, table
from bootpoint_ops.cli.reach import ask, direct_of, job_of, login_of, reach, words_of
from bootpoint_ops.cli.stated import secrets_of
from bootpoint_worker.vm import GUEST_SECONDS, is_uuid

#: Seconds that stopping or moving a VM may take at least before nobody has answered.
SLOW = 60.0

#: Seconds that a start may take; the second one where virt-v2v-in-place converts, which takes minutes without KVM.
START_SECONDS, V2V_SECONDS = 180.0, 1500.0

#: Seconds that a guest which has answered may take to put its addresses into effect, and its host to ask for each card.
TELLING_SECONDS = 180.0

_TEST = click.option("--test", "test_id", metavar="ID", help="A test VM beside the standby, by its id.")

_GUEST_TIMEOUT = click.option(
    "--guest-timeout",
    "guest_seconds",
    metavar="SECONDS",
    default=GUEST_SECONDS,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="How long a standby's guest on Hyper-V may take until it can be told its addresses, if no conversion has.",
)


@click.group()
def vm() -> None:
    """VMs on a target host, standbys among them; each by its name, or by the hypervisor's id of it."""


@vm.command("list")
@click.argument("words", nargs=-1, metavar="HOST")
@reach
def list_(words: tuple[str, ...], timeout: float, *, direct: bool, **way: Any) -> None:
    """List the VMs of a host, and on which boot points standbys and tests stand."""
    (host,) = words_of(words, ("HOST",), direct=direct)
    if direct:
        from bootpoint_ops.direct import vm_list

        items = vm_list(direct_of(**way))
    else:
        items = ask("vm_list", host, {}, timeout, login_of(**way))["items"]
    lines = [
        (item["name"], item["state"], _what(item), item["job"], item["points"], item["newest"], _stands_on(item))
        for item in items
    ]
    emit({"items": items}, table(("NAME", "STATE", "IS", "JOB", ">POINTS", "NEWEST", "ON"), lines, empty="no VMs"))


def _what(item: dict[str, Any]) -> str | None:
    return "standby" if item["standby"] else "test" if item["test_id"] else None


def _stands_on(item: dict[str, Any]) -> str | None:
    """Return where a VM stands: ``newest`` where that is so, a point's name, ``held`` where it was reverted to it."""
    name = "newest" if item["stands_on"] == item["newest"] and not item["held"] else item["stands_on"]
    return f"{name} (held)" if item["held"] else name


@vm.command()
@click.argument("words", nargs=-1, metavar="HOST VM")
@reach
def points(words: tuple[str, ...], timeout: float, *, direct: bool, **way: Any) -> None:
    """List the boot points of a standby as its host knows them, oldest first, and what uses them."""
    host, name = words_of(words, ("HOST", "VM"), direct=direct)
    if direct:
        from bootpoint_ops.direct import vm_points

        found = vm_points(direct_of(**way), str(name))
    else:
        found = ask("vm_points", host, {"vm": name}, timeout, login_of(**way))
    emit(found, lambda out: _show_points(out, found))


def _show_points(out: Console, found: dict[str, Any]) -> None:
    lines = [
        (
            *(item["name"], item["kind"], item["consistency"], item["instant"], format_size(item["stored_bytes"])),
            ", ".join([*(["standby"] if item["standby"] else []), *_others(item)]),
        )
        for item in found["items"]
    ]
    columns = ("NAME", "KIND", "LEVEL", "INSTANT", ">STORED", "USED BY")
    table(columns, lines, empty=f"{found['vm']} has no boot points")(out)
    if found["held"]:
        out.print(f"{found['vm']} was reverted to {found['stands_on']}, and stays there", markup=False)
    if found["drift"]:
        out.print(f"drift: {found['drift']}", markup=False)


def _others(item: dict[str, Any]) -> list[str]:
    return [f"{use['kind']} {use['holder']}" for use in item["in_use_by"] if use["kind"] != "standby"]


@vm.command()
@click.argument("words", nargs=-1, metavar="HOST VM P")
@reach
def revert(words: tuple[str, ...], timeout: float, *, direct: bool, **way: Any) -> None:
    """Let a standby that is off stand on boot point P, and stay there; `latest` lets it follow the newest again.

    Points stay as they are, and what the standby wrote since its last start is kept beside them.
    """
    host, name, point = words_of(words, ("HOST", "VM", "P"), direct=direct)
    if direct:
        from bootpoint_ops.direct import vm_revert

        machine = vm_revert(direct_of(**way), str(name), str(point))
    else:
        arguments = {"vm": name, "point": point, "actor": session().env.actor}
        machine = ask("vm_revert", host, arguments, max(timeout, SLOW), login_of(**way))
    stays = "stays there" if machine["held"] else "follows the newest point"
    say(f"{machine['name']} stands on {machine['point']}, and {stays}", machine)


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
@_GUEST_TIMEOUT
@click.option("--yes", is_flag=True, help="Don't ask.")
@reach
def start(
    words: tuple[str, ...],
    timeout: float,
    test_id: str | None,
    serial_log: str | None,
    conversion: str,
    *,
    guest_seconds: float,
    direct: bool,
    yes: bool,
    **way: Any,
) -> None:
    """Start a standby from a boot point; the point itself stays as it is.

    Without P it is the newest; for a standby that was reverted, the one that it was reverted to.
    """
    host, name, point = words_of(words, ("HOST", "VM", "P"), direct=direct, optional=1)
    what = f"a test VM of {name} is started" if test_id else f"{name} is started: beside its source there are two of it"
    if direct:
        from bootpoint_ops import direct as hosts

        access = direct_of(**way)
        if not yes:
            confirm(hosts.job_of(access, str(name)), what, yes=yes)
        machine = hosts.vm_start(
            *(access, str(name), point), test_id=test_id, serial_log=serial_log,
            conversion=conversion, guest_seconds=guest_seconds,
        )  # fmt: skip
    else:
        login = login_of(**way)
        if not (yes and is_uuid(str(name))):  # an id is known to the host only, which the worker asks anyway
            confirm(job_of(host, name, timeout, login), what, yes=yes)
        arguments = {
            "vm": name, "point": point, "test_id": test_id, "serial_log": serial_log,
            "conversion": conversion, "guest_seconds": guest_seconds, "actor": session().env.actor,
        }
        patience = _patience(host, name, conversion) + (0 if test_id else _answering(host, guest_seconds))
        machine = ask("vm_start", host, arguments, max(timeout, patience), login)
    said = [f"{machine['name']} is {machine['state']}, from {machine['point']}"]
    problems = (machine.get("profile") or {}).get("problems", ())
    said += [f"{'problem' if each['bootable'] else 'it will not boot'}: {each['text']}" for each in problems]
    say("\n".join([*said, *_addresses(machine)]), machine)


@vm.command()
@click.argument("words", nargs=-1, metavar="HOST VM")
@_GUEST_TIMEOUT
@reach
def address(words: tuple[str, ...], timeout: float, *, guest_seconds: float, direct: bool, **way: Any) -> None:
    """Tell the guest of a standby that runs on a Hyper-V host its addresses, as its start does.

    It may be done again at any time; the machine goes on.
    """
    host, name = words_of(words, ("HOST", "VM"), direct=direct)
    if direct:
        from bootpoint_ops.direct import vm_address

        found = vm_address(direct_of(**way), str(name), guest_seconds)
    else:
        arguments = {"vm": name, "guest_seconds": guest_seconds, "actor": session().env.actor}
        patience = SLOW + _answering(host, guest_seconds)
        found = ask("vm_address", host, arguments, max(timeout, patience), login_of(**way))
    nothing = f"{name} has nothing to be told: its conversion has written its addresses, or its host tells no guest"
    say("\n".join(_addresses(found)) or nothing, found)


def _addresses(found: dict[str, Any]) -> list[str]:
    """Return the lines that say what came of telling a guest its addresses."""
    return [each["text"] if each["told"] else f"problem: {each['text']}" for each in found["addresses"]]


def _answering(host: str | None, guest_seconds: float) -> float:
    """Return how much longer an answer may take where a guest is waited for: on Hyper-V."""
    with session().env.database.transaction() as connection:
        found = one(connection, "SELECT 1 FROM host WHERE name = %s AND kind = 'hyperv'", host)
    return guest_seconds + TELLING_SECONDS if found is not None else 0


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


@vm.command()
@click.argument("words", nargs=-1, metavar="HOST VM")
@_TEST
@click.option("--yes", is_flag=True, help="Don't ask.")
@reach
def stop(
    words: tuple[str, ...], timeout: float, test_id: str | None, *, direct: bool, yes: bool, **way: Any
) -> None:
    """Power a standby off, or end a test VM of it; what a standby wrote is kept, a test's goes with it."""
    host, name = words_of(words, ("HOST", "VM"), direct=direct)
    what = f"{name} is powered off"
    if direct:
        from bootpoint_ops import direct as hosts

        access = direct_of(**way)
        if not yes and not test_id:
            confirm(hosts.job_of(access, str(name)), what, yes=yes)
        machine = hosts.vm_stop(access, str(name), test_id=test_id)
    else:
        login = login_of(**way)
        if not yes and not test_id:
            confirm(job_of(host, name, timeout, login), what, yes=yes)
        arguments = {"vm": name, "test_id": test_id, "actor": session().env.actor}
        machine = ask("vm_stop", host, arguments, max(timeout, SLOW), login)
    say(f"{machine['name']} is {machine['state']}", machine)


@vm.command()
@click.argument("host")
@click.argument("name", metavar="VM")
@click.option("--add/--remove", "add", default=None, help="Give it the role, or take it away.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the host's password, where none is saved.",
)
@timeout_option
@output_option
def cluster(host: str, name: str, timeout: float, *, add: bool | None, password_file: Path | None) -> None:
    """Give a standby its role in the failover cluster of its Hyper-V host, or take it away; the VM stays as it is."""
    if add is None:
        raise click.UsageError("say --add or --remove", click.get_current_context())
    arguments = {"vm": name, "add": add, "actor": session().env.actor}
    found = ask("vm_cluster", host, arguments, max(timeout, SLOW), secrets_of(None, password_file))
    stands = f"has the role {found['role']}, on node {found['node']}" if found["role"] else "has no role in the cluster"
    say(f"{found['name']} {stands}", found)
