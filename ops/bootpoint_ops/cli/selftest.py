"""``bootpoint selftest``: a host tried out with a throw-away standby."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bootpoint_common.store import host as rows
from bootpoint_ops.cli.output import emit, output_option, session, table, waiting
from bootpoint_ops.question import ask_worker
from bootpoint_ops.textfile import replacing

#: Seconds to wait by default: a busy host takes a minute to merge a snapshot, and may make others wait for theirs.
PATIENCE = 1800.0


@click.command()
@click.option("--host", "name", required=True, metavar="NAME", help="Which host.")
@click.option("--storage", metavar="S", help="Where the standby is put. [default: the storage with most room]")
@click.option(
    "--save", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the transcript, as JSON."
)
@click.option("--timeout", default=PATIENCE, show_default=True, help="Seconds to wait for an answer.")
@output_option
def selftest(name: str, storage: str | None, save: Path | None, timeout: float) -> None:
    """Try a host out: make a throw-away standby of 64 MiB, three boot points, revert, consolidate, delete it.

    Exits with 1 if a step failed. The transcript holds no credentials.
    """
    here = session()
    with here.env.database.transaction() as connection:
        found = rows.by_name(connection, name)
    arguments = {"host": name, "storage": storage, "actor": here.env.actor}
    with waiting(f"trying {name} out"):
        answer = ask_worker(here.env, found.pool, "selftest", arguments, timeout=timeout)
    if save is not None:
        with replacing(save) as file:
            json.dump(answer, file, indent=2)
    lines = [
        (step["step"], step["seconds"], "ok" if step["error"] is None else step["error"]["message"])
        for step in answer["steps"]
    ]
    emit(answer, table(("STEP", ">SECONDS", "RESULT"), lines, empty="nothing was tried"))
    if not answer["passed"]:
        raise click.exceptions.Exit(1)
