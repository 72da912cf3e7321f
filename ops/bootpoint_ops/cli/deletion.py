"""``bootpoint job delete``, and ``bootpoint replica``: what is left of jobs on hosts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import ending, trash
from bootpoint_common.store import job as rows
from bootpoint_common.store.database import one
from bootpoint_common.store.job import ReplicaRow
from bootpoint_common.store.shown import jsonable
from bootpoint_common.store.trash import Deleted
from bootpoint_common.units import format_size
from bootpoint_ops import deletion
from bootpoint_ops.cli.host import timeout_option
from bootpoint_ops.cli.output import Session, confirm, emit, output_option, say, session, table, waiting
from bootpoint_ops.question import ask_worker

#: Seconds between two looks whether a run has ended, or a replica is out of a worker's hands.
INTERVAL = 0.25


@click.command()
@click.argument("name", metavar="J")
@click.option("--delete-replica", is_flag=True, help="Move the standby VMs and all boot points into the hosts' trash.")
@click.option("--force", is_flag=True, help="Cancel its run, and don't wait for hosts that don't answer.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@timeout_option
@output_option
def delete(name: str, timeout: float, *, delete_replica: bool, force: bool, yes: bool) -> None:
    """Delete a job; its replicas stay on their hosts unless --delete-replica is said.

    Deleted replicas rest in the trash of their hosts for 7 days, and can be taken back until then.
    """
    here = session()
    with here.env.database.transaction() as connection:
        found = deletion.look(connection, name, replicas=delete_replica, force=force)
        replicas = rows.replicas(connection, found.id)
    confirm(found.name, f"job {found.name} is deleted; {_what(delete_replica=delete_replica)}", yes=yes)
    if delete_replica:
        for replica in replicas:
            _ask_host(here, replica, timeout, force=force)
    done = _delete(here, found, timeout, replicas=delete_replica, force=force)
    moved = []
    if done.trashed:
        with waiting("moving its replicas into the trash"):
            moved = trash.wait(here.env.database, [row.id for row in done.trashed], seconds=timeout)
    _tell(found.name, moved, [row.host for row in done.left])


def _what(*, delete_replica: bool) -> str:
    if delete_replica:
        return f"its standby VMs and all boot points go into the trash for {trash.REST.days} days"
    return "its replicas stay on their hosts"


def _ask_host(here: Session, replica: ReplicaRow, timeout: float, *, force: bool) -> None:
    """Ask a host whether anything there speaks against it; one that doesn't answer keeps the job unless forced."""
    try:
        with waiting(f"asking {replica.host}"):
            ask_worker(here.env, replica.pool, "may_be_deleted", {"replica": str(replica.id)}, timeout=timeout)
    except BootpointError as problem:
        if force and problem.retryable:
            return
        if problem.retryable:
            problem.hint = f"{problem.hint}; or say --force: it goes into the trash once {replica.host} answers"
        raise


def _delete(here: Session, found: rows.Job, timeout: float, *, replicas: bool, force: bool) -> deletion.Deletion:
    """Delete the job once nobody has it in hand any more; with ``force`` a run is cancelled first."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            with here.env.database.transaction() as connection:
                return deletion.delete(connection, found.name, replicas=replicas, actor=here.env.actor)
        except BootpointError as problem:
            over = time.monotonic() >= deadline
            if problem.code is Code.ALREADY_RUNNING and force:
                with waiting(f"cancelling the run of {found.name}"):
                    _end_run(here, found, deadline)
            elif problem.code is not Code.BUSY or over:
                raise
            else:
                time.sleep(INTERVAL)


def _end_run(here: Session, found: rows.Job, deadline: float) -> None:
    """Cancel the run that is under way and wait for its end; one that commits ends by itself.

    Raises:
        RetryableError: ``busy``: it didn't end in time.
    """
    with here.env.database.transaction() as connection:
        number = deletion.running(connection, found)
    if number is None:
        return
    try:
        with here.env.database.transaction() as connection:
            ending.cancel(connection, number, actor=here.env.actor)
    except BootpointError as problem:
        if problem.code is not Code.TOO_LATE:
            raise
    while not _ended(here, number):
        if time.monotonic() >= deadline:
            hint = f"`bootpoint run watch {number}` shows what it waits for; try again with a longer --timeout"
            raise error(
                Code.BUSY, f"run {number} has not ended yet", job=found.name, key="run", value=number, hint=hint
            )
        time.sleep(INTERVAL)


def _ended(here: Session, number: int) -> bool:
    with here.env.database.transaction() as connection:
        open_run = one(connection, "SELECT 1 FROM run WHERE id = %s AND state IN ('waiting', 'running')", number)
    return open_run is None


def _tell(name: str, moved: Sequence[Deleted], left: Sequence[str]) -> None:
    lines = [f"job {name} deleted"]
    for each in moved:
        if each.purge_at is not None:
            lines.append(f"its replica on {each.host} rests in the trash until {each.purge_at:%Y-%m-%d %H:%M} UTC")
        else:
            why = f": {each.problem['message']}" if each.problem else ""
            lines.append(f"its replica on {each.host} goes into the trash as soon as that is possible{why}")
    lines += [f"what is on {host} is left there" for host in left]
    places: list[dict[str, Any]] = [
        {"host": each.host, "state": each.state, "purge_at": jsonable(each.purge_at), "problem": each.problem}
        for each in moved
    ]
    say("; ".join(lines), {"job": name, "trash": places, "left": list(left)})


# --- replicas


@click.group()
def replica() -> None:
    """Replicas: standby VMs with their boot points on hosts, those of deleted jobs too."""


@replica.command("list")
@output_option
def list_() -> None:
    """List the replicas: of jobs, those that deleted jobs left on hosts, and those in the trash."""
    with session().env.database.transaction() as connection:
        items = deletion.replica_list(connection)
    lines = [
        (
            item["job"],
            item["host"],
            item["vm"],
            item["state"],
            item["points"],
            format_size(item["stored_bytes"]),
            (item["purge_at"] or "")[:16].replace("T", " "),
            (item["problem"] or {}).get("message"),
        )
        for item in items
    ]
    columns = ("JOB", "HOST", "VM", "STATE", ">POINTS", ">STORED", "GOES (UTC)", "PROBLEM")
    emit({"items": items}, table(columns, lines, empty="no replicas"))


@replica.command()
@click.argument("job", metavar="J")
@click.argument("host", metavar="HOST")
@click.option("--yes", is_flag=True, help="Don't ask.")
@output_option
def forget(job: str, host: str, *, yes: bool) -> None:
    """Forget a replica that no job has any more; what is on the host stays there, and is yours to remove."""
    here = session()
    confirm(job, f"the replica of {job} on {host} is forgotten; what is on the host stays there", yes=yes)
    with here.env.database.transaction() as connection:
        count = deletion.forget(connection, job, host, actor=here.env.actor)
    say(f"{count} replica{'s' * (count != 1)} of {job} on {host} forgotten", {"job": job, "host": host, "count": count})
