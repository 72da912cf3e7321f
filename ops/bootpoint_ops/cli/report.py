"""``bootpoint report``: how each machine was protected over a period, for the auditor."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Any

import click

from bootpoint_ops import report as reports
from bootpoint_ops.cli.output import emit, output_option, session
from bootpoint_ops.cli.period import period


@click.command()
@click.option("--from", "since", required=True, metavar="D", help="From this day or instant on.")
@click.option("--to", "until", required=True, metavar="D", help="Up to the end of this day, or up to an instant.")
@output_option
def report(since: str, until: str) -> None:
    """Report over a period, from the history: CSV, or JSON with -o json; a line for each job on each of its hosts."""
    now = datetime.now(UTC)
    span = period(None, since, until, now=now)
    if span.since is None or span.until is None:
        raise click.UsageError("a report needs --from and --to")
    with session().env.database.snapshot() as connection:
        found = reports.report(connection, span.since, span.until, now=now)
    emit(found, lambda _out: click.echo(as_csv(found["items"]), nl=False))


def as_csv(items: list[dict[str, Any]]) -> str:
    """Return the lines as CSV (RFC 4180) with a header; disks are parted by spaces, what isn't known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, reports.COLUMNS)
    writer.writeheader()
    for item in items:
        plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in item.items()}
        writer.writerow({**plain, "unprotected_disks": " ".join(item["unprotected_disks"])})
    return text.getvalue()
