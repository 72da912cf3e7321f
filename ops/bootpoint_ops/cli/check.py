"""``bootpoint point check``: start a boot point by itself, and see whether it comes up."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from bootpoint_common.units import format_duration
from bootpoint_ops import read, trial
from bootpoint_ops.cli.output import emit, output_option, session, waiting
from bootpoint_ops.cli.point import point

__all__ = ["check", "point"]


@point.command()
@click.argument("job", metavar="J")
@click.argument("name", metavar="P")
@click.option("--host", metavar="H", help="Which target, when the job has several.")
@click.option("--wait/--no-wait", "wait", default=True, help="Wait for the verdict, or don't. [default: --wait]")
@click.option("--timeout", default=0.0, help="Seconds to wait; 0 waits as long as it takes. [default: 0]")
@output_option
def check(job: str, name: str, host: str | None, timeout: float, *, wait: bool) -> None:
    """Start a boot point, cut off from every network, and see whether it comes up; exit with 1 if it does not."""
    here = session()
    with here.env.database.transaction() as connection:
        replica = read.replica_of(connection, job, host)
        point_id = read.point_id(connection, replica, name)
        uid = trial.begin(
            connection, replica, point_id, "check", actor=here.env.actor, seconds=trial.CHECK_SECONDS
        )  # fmt: skip
        item = trial.by_id(connection, uid)
    if not wait:
        emit(item, lambda out: out.print(f"boot check {item['id']} of {item['point']} was asked for", markup=False))
        return
    with waiting(f"boot check of {item['point']} on {item['host']}"):
        item = trial.wait(
            here.env.database, uid, lambda seen: seen["boot"] is not None, seconds=timeout, what="ended the boot check"
        )
    boot = item["boot"]
    if boot is None:
        problem = trial.problem_of(item)
        if problem is not None:
            raise problem
        raise click.ClickException(f"the boot check of {item['point']} ended without a verdict: {item['reason']}")
    with here.env.database.transaction() as connection:
        shown = read.point(connection, replica, item["point"])
    emit(shown, lambda out: _show(out, item, boot))
    if boot["verdict"] == "does_not_boot":
        raise click.exceptions.Exit(1)


def _show(out: Console, item: dict[str, Any], boot: dict[str, Any]) -> None:
    words = {"boots": "boots", "does_not_boot": "does not boot"}.get(boot["verdict"], "may or may not boot")
    took = format_duration(boot["duration_seconds"])
    out.print(f"{item['point']} on {item['host']} {words}, seen after {took}: {boot['reason']}", markup=False)
    if boot["screenshot"]:
        hint = f"`bootpoint point show {item['job']} {item['point']} --screenshot FILE.png`"
        out.print(f"  its picture: {hint}", markup=False)
