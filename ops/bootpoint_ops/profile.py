"""A job with all that is known of it, and what its next run will do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bootpoint_common.errors import BootpointError
from bootpoint_common.job import read_json
from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import Connection
from bootpoint_common.units import format_duration, format_size
from bootpoint_ops import read
from bootpoint_worker import estimate, expectation


def job(connection: Connection, name: str) -> dict[str, Any]:
    """Return a job as ``job show`` does: as `v_job` has it, with what its next run will do.

    Raises:
        NotFoundError: ``no_such_job``.
    """
    item = read.job(connection, name)
    item["next_run"] = _next_run(connection, jobs.by_name(connection, item["name"]), item["next_run_at"])
    return item


def _next_run(connection: Connection, found: jobs.Job, at: str | None) -> dict[str, Any] | None:
    """Return what the next run will do on the target with most to copy; None where that can't be said yet."""
    begins = None if at is None else datetime.fromisoformat(at)
    spec = read_json(found.spec)
    ahead = []
    for replica in jobs.replicas(connection, found.id):
        if replica.state == "detached":
            continue
        try:
            ahead.append(expectation.expected(connection, spec, found.agent_id, replica, at=begins))
        except BootpointError:  # the source never told its disks: `job plan` says so
            return None
    if not ahead:
        return None
    seen = max(ahead, key=lambda one: (one.kind == "full", one.changed_bytes or 0))
    return {
        "kind": seen.kind,
        "reason": seen.reason,
        "changed_bytes": seen.changed_bytes,
        "duration_seconds": seen.duration_seconds,
    }


def expected_text(plan: dict[str, Any]) -> str:
    """Say what a run was or is planned to do: ``increment of about 124.0 MiB, takes 45 s``."""
    why = f" ({plan['reason']})" if plan["reason"] else ""
    size = "unknown size" if plan["changed_bytes"] is None else f"about {format_size(plan['changed_bytes'])}"
    took = "an unknown time" if plan["duration_seconds"] is None else format_duration(plan["duration_seconds"])
    return f"{plan['kind']}{why} of {size}, takes {took}"


def outcome_text(plan: dict[str, Any]) -> str | None:
    """Say how far off a run's plan was; None before the run has succeeded."""
    actual = plan.get("actual")
    if actual is None:
        return None
    off = estimate.against(plan, actual)
    size = f"{format_size(actual['changed_bytes'])}{_factor(off['changed_bytes'])}"
    took = f"{format_duration(actual['duration_seconds'])}{_factor(off['duration_seconds'])}"
    return f"{actual['kind']} of {size}, took {took}"


def _factor(value: float | None) -> str:
    return "" if value is None else f" ({value:.2g} times what was planned)"
