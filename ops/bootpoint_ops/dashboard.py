"""How things stand: which jobs are not ok, what runs at the moment and how far it is."""

from __future__ import annotations

from typing import Any

from bootpoint_common.store import process
from bootpoint_common.store.database import Connection, one_row, rows
from bootpoint_common.store.shown import jsonable
from bootpoint_ops.read import job_list, unprotected

#: What the view of jobs is asked for: it works out only what is named here, which ten thousand jobs make matter.
_JOBS = (
    "id, name AS job, state, state_reason, newest_point_age_seconds, objective_seconds, next_run_at, last_run"
)

#: States of a point from which on all of its disks have been read.
_READ = ("sealed", "committing", "committed")


def status(connection: Connection) -> dict[str, Any]:
    """Return what ``status`` says.

    Returns:
        ``items``: each job that is not ok; ``jobs``: how many there are; ``running``: each run that is under way, with
        its `share`; ``unprotected_disks``; ``broker_blocked_at``: since when the broker takes nothing (an alarm).
    """
    bad = rows(connection, f"SELECT {_JOBS} FROM v_job WHERE state <> 'ok' ORDER BY name")
    return {
        "jobs": one_row(connection, "SELECT count(*) AS n FROM job")["n"],
        "items": [jsonable(row) for row in bad],
        "running": running(connection),
        "unprotected_disks": unprotected(connection),
        "broker_blocked_at": jsonable(process.held_back(connection)),
    }


def overview(connection: Connection) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """Return every job as `v_job` has it, and the runs that are under way by their number."""
    return job_list(connection), {run["run"]: run for run in running(connection)}


def running(connection: Connection) -> list[dict[str, Any]]:
    """Return the runs that are under way, oldest first: run, job, since when, and how far, from 0 to 1."""
    found = rows(connection, "SELECT id, job, started_at, targets FROM v_run WHERE state = 'running' ORDER BY id")
    return [
        {
            "run": row["id"],
            "job": row["job"],
            "started_at": jsonable(row["started_at"]),
            "progress": share(row["targets"]),
        }
        for row in found
    ]


def share(targets: list[dict[str, Any]]) -> float | None:
    """Return how much of a run's disks is done, from 0 to 1; None as long as nothing is known of them.

    Args:
        targets: As in ``run show``.
    """
    disks = [(target["state"], disk) for target in targets for disk in target["disks"]]
    total = sum(disk["size_bytes"] for _, disk in disks)
    return None if not total else round(sum(done_bytes(state, disk) for state, disk in disks) / total, 3)


def done_bytes(state: str | None, disk: dict[str, Any]) -> int:
    """Return how far a disk of a run is, in bytes of its size.

    Args:
        state: State of its boot point.
        disk: As in ``run show``.
    """
    size = int(disk["size_bytes"])
    if state in _READ:
        return size
    # How far the agent has read it says every 10 s only; what was written was read before.
    return min(size, max(disk["scanned_bytes"] or 0, disk["applied_bytes"] or 0))
