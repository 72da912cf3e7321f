"""``bootpoint job notify``: trying whether notices of a job arrive."""

from __future__ import annotations

import click

from bootpoint_ops.cli.output import emit, output_option, session, table, waiting
from bootpoint_ops.notice import try_out

#: Seconds to wait for the processes that send: a mail server may take 10 for each of its answers.
TIMEOUT = 30.0


@click.command("notify")
@click.argument("name", metavar="J")
@click.option("--timeout", default=TIMEOUT, show_default=True, help="Seconds to wait.")
@output_option
def notify(name: str, timeout: float) -> None:
    """Send a test to everybody whom a job tells, by the workers and schedulers that run; exit with 1 if one fails."""
    here = session()
    with waiting(f"sending tests of job {name}"):
        found = try_out(here.env, name, timeout)
    lines = [(item["channel"], item["address"], item["state"], item["problem"]) for item in found["items"]]
    emit(found, table(("BY", "TO", "STATE", "PROBLEM"), lines, empty="nobody"))
    if any(item["state"] != "sent" for item in found["items"]):
        raise click.exceptions.Exit(1)
