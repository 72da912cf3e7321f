"""``bootpoint switch``: test VMs started from boot points."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from bootpoint_common.units import parse_duration
from bootpoint_ops import read, trial
from bootpoint_ops.cli.output import emit, output_option, session, table, waiting

#: How a test's scratch layer may be made to boot.
CONVERSIONS = ("auto", "light", "v2v", "none")

#: Shortest and longest time of a test in seconds.
_SHORTEST, _LONGEST = 60.0, 30 * 86400.0


@click.group()
def switch() -> None:
    """Test boots: start what a boot point holds, cut off from every network."""


def _duration(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
    if not _SHORTEST <= seconds <= _LONGEST:
        raise click.BadParameter("between 1m and 30d")
    return seconds


@switch.command()
@click.argument("job", metavar="J")
@click.option("--point", "name", default="latest", metavar="P", help="From which boot point. [default: the newest]")
@click.option("--host", metavar="H", help="Which target, when the job has several.")
@click.option(
    "--for", "seconds", default="4h", show_default=True, metavar="T", callback=_duration, help="It ends by itself then."
)
@click.option(
    "--conversion",
    default="auto",
    show_default=True,
    type=click.Choice(CONVERSIONS),
    help="How it is made to boot on this host.",
)
@click.option("--wait", "wait", is_flag=True, help="Wait until it runs.")
@click.option("--timeout", default=600.0, show_default=True, help="With --wait: seconds to wait.")
@output_option
def test(job: str, name: str, host: str | None, timeout: float, *, seconds: float, conversion: str, wait: bool) -> None:
    """Start a test VM from a boot point: own name, own MACs, no network; the point stays as it is."""
    here = session()
    with here.env.database.transaction() as connection:
        replica = read.replica_of(connection, job, host)
        uid = trial.begin(
            connection,
            replica,
            read.point_id(connection, replica, name),
            "test",
            actor=here.env.actor,
            seconds=seconds,
            conversion=conversion,
        )
        item = trial.by_id(connection, uid)
    if wait:
        with waiting(f"starting {item['vm']} on {item['host']}"):
            item = trial.wait(
                here.env.database, uid, lambda seen: seen["state"] != "starting", seconds=timeout, what="started it"
            )
    problem = trial.problem_of(item)
    if problem is not None:
        raise problem
    emit(item, lambda out: _show(out, item))


def _show(out: Console, item: dict[str, Any]) -> None:
    lines = [f"test {item['id']}: {item['vm']} from {item['point']} on {item['host']} is {item['state']}"]
    if item["until"]:
        lines.append(f"  ends by itself at {item['until']}, or by `bootpoint switch stop {item['id']}`")
    if item["console"]:
        lines.append(
            f"  on {item['host']}: `{item['console']}` (serial port), `{item['screen']}` (where its screen is)"
        )
    for line in lines:
        out.print(line, markup=False)


@switch.command("list")
@click.option("--all", "every", is_flag=True, help="Those that have ended, too.")
@output_option
def list_(*, every: bool) -> None:
    """List test VMs and boot checks, and those of the last day that went wrong."""
    with session().env.database.transaction() as connection:
        items = trial.listed(connection, every=every)
    lines = [
        (
            item["id"],
            item["kind"],
            item["job"],
            item["host"],
            item["point"],
            item["vm"],
            item["state"],
            (item["until"] or "")[:16].replace("T", " "),
            item["requested_by"],
            (item["problem"] or {}).get("message") or item["reason"],
        )
        for item in items
    ]
    columns = (">ID", "KIND", "JOB", "HOST", "POINT", "VM", "STATE", "UNTIL (UTC)", "BY", "REASON")
    emit({"items": items}, table(columns, lines, empty="no test VMs"))


@switch.command()
@click.argument("number", metavar="ID", type=int)
@click.option("--wait", "wait", is_flag=True, help="Wait until nothing of it is left.")
@click.option("--timeout", default=600.0, show_default=True, help="With --wait: seconds to wait.")
@output_option
def stop(number: int, timeout: float, *, wait: bool) -> None:
    """End a test VM, and throw away what it wrote."""
    here = session()
    with here.env.database.transaction() as connection:
        uid = trial.stop(connection, number, actor=here.env.actor)
        item = trial.by_id(connection, uid)
    if wait:
        with waiting(f"ending {item['vm']} on {item['host']}"):
            item = trial.wait(here.env.database, uid, lambda _: False, seconds=timeout, what="ended it")
    words = "has ended" if item["state"] == "ended" else "is being ended"
    emit(item, lambda out: out.print(f"test {number} {words}", markup=False))
