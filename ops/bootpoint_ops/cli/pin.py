"""``bootpoint point pin`` and ``unpin``: boot points that stay whatever retention would do."""

from __future__ import annotations

from datetime import datetime

import click

from bootpoint_ops import read, retention
from bootpoint_ops.cli.instant import later
from bootpoint_ops.cli.output import output_option, say, session

_HOST = click.option("--host", metavar="H", help="Which target, when the job has several.")


@click.command()
@click.argument("job", metavar="J")
@click.argument("name", metavar="P")
@_HOST
@click.option("--reason", required=True, metavar="R", help="Why, for whoever wonders later.")
@click.option("--until", metavar="T", callback=later, help="When the pin is over: an instant, or for how long (30d).")
@output_option
def pin(job: str, name: str, host: str | None, reason: str, until: datetime | None) -> None:
    """Keep a boot point: retention lets it stay, and lets others go."""
    here = session()
    with here.env.database.transaction() as connection:
        replica = read.replica_of(connection, job, host)
        found = read.point_id(connection, replica, name)
        name = read.point(connection, replica, name)["name"]
        retention.pin(connection, replica, found, name, reason=reason, actor=here.env.actor, until=until)
        item = read.point(connection, replica, name)
    say(f"{name} on {replica.host} is pinned", item)


@click.command()
@click.argument("job", metavar="J")
@click.argument("name", metavar="P")
@_HOST
@output_option
def unpin(job: str, name: str, host: str | None) -> None:
    """Let a pinned boot point go in its turn; the pin of the entropy watch lets all others go again, too."""
    here = session()
    with here.env.database.transaction() as connection:
        replica = read.replica_of(connection, job, host)
        found = read.point_id(connection, replica, name)
        name = read.point(connection, replica, name)["name"]
        thawed = retention.unpin(connection, replica, found, name, actor=here.env.actor)
        item = read.point(connection, replica, name)
    say(f"{name} on {replica.host} is no longer pinned" + ("; boot points may go again" if thawed else ""), item)
