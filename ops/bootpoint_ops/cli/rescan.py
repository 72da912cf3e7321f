"""``bootpoint host rescan``: what a host has of replicas, beside what the database has."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import click

from bootpoint_common.store import adoption
from bootpoint_common.store import host as rows
from bootpoint_common.store.request import from_json
from bootpoint_ops.cli.host import host, timeout_option
from bootpoint_ops.cli.output import Session, emit, output_option, session, table, waiting
from bootpoint_ops.question import ask_worker

__all__ = ["host"]

#: Seconds between two looks for the end of an adoption.
INTERVAL = 0.25


@host.command("rescan")
@click.argument("name")
@click.option("--adopt", is_flag=True, help="Take over what the host has and the database lacks, and wait for it.")
@timeout_option
@output_option
def rescan(name: str, timeout: float, *, adopt: bool) -> None:
    """Compare a host's boot points with the database; exit with 1 if a replica is broken, or can't be adopted.

    After the database came from a backup, --adopt reads the points that it lacks, and writes down those that are right.
    """
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, name)
    arguments = {"host": name, "adopt": adopt, "actor": here.env.actor}
    with waiting(f"asking {name} for its replicas"):
        answer = ask_worker(here.env, found.pool, "host_rescan", arguments, timeout=timeout)
    for item in answer["items"]:
        item["adopted"] = None if item["adoption"] is None else _adopted(here, item)
    lines = [
        (
            item["job"],
            item["vm"],
            item["state"],
            item["points_both"],
            item["points_host_only"],
            item["points_database_only"],
            _outcome(item, adopt=adopt),
        )
        for item in answer["items"]
    ]
    columns = ("JOB", "VM", "STATE", ">BOTH", ">HOST ONLY", ">DATABASE ONLY", "ADOPTED" if adopt else "--adopt WOULD")
    emit(answer, table(columns, lines, empty=f"host {name} has no replicas, and none is known on it"))
    if any(_bad(item, adopt=adopt) for item in answer["items"]):
        raise click.exceptions.Exit(1)


def _adopted(here: Session, item: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of an adoption; returns the names of the points, and why it failed if it did."""
    with waiting(f"reading the points of {item['vm']}"):
        while True:
            with here.env.database.transaction() as connection:
                state = adoption.state(connection, UUID(item["adoption"]))
            if state["state"] != "asked":
                return {"points": state["done"], "error": state["problem"]}
            time.sleep(INTERVAL)


def _outcome(item: dict[str, Any], *, adopt: bool) -> str | None:
    done = item["adopted"]
    if not adopt or done is None:
        return str(item["adopt"]) if item["adopt"] else None
    if done["error"] is not None:
        return from_json(done["error"]).message
    return ", ".join(done["points"]) or "the host's newest point is the head"


def _bad(item: dict[str, Any], *, adopt: bool) -> bool:
    """Tell whether something is left that somebody must look at."""
    done = item["adopted"]
    if done is not None:
        return done["error"] is not None
    return item["state"] == "broken" or (adopt and bool(item["adopt"]))
