"""The digest: once a day, to each address that jobs name for their mail, how those jobs are."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from . import notice
from .database import Connection, Row, rows, run
from .shown import jsonable

#: How long it is known who has had a digest: much longer than clocks are wrong.
KEPT_DAYS = timedelta(days=90)

#: What a digest keeps of each job.
_KEPT = (
    "name", "state", "state_reason", "newest_point_age_seconds", "newest_bootable_point_age_seconds",
    "objective_seconds", "next_run_at", "last_run", "unprotected_disks",
)  # fmt: skip


def write(connection: Connection, day: date, due: datetime, at: datetime) -> int:
    """Write the digests of a day that nobody has written yet.

    Any number of processes may call it at once: a row for each day and address lets one of them write.

    Args:
        connection: A transaction.
        day: The day, where the digest's clock is.
        due: When its hour came; what was not there yet waits for the next day.
        at: Now, as the digest says it.

    Returns:
        How many were written.
    """
    fresh = rows(
        connection,
        "INSERT INTO digest_day (address, day) SELECT DISTINCT reader, %s::date FROM job j"
        " CROSS JOIN LATERAL jsonb_array_elements_text(j.spec #> '{notify,mail,to}') AS reader"
        " WHERE j.created_at <= %s ORDER BY reader ON CONFLICT DO NOTHING RETURNING address",
        day,
        due,
    )
    if not fresh:
        return 0
    run(connection, "DELETE FROM digest_day WHERE day < %s", day - KEPT_DAYS)
    jobs = rows(connection, "SELECT * FROM v_job ORDER BY name")
    broken = rows(connection, "SELECT job_id, kind FROM objective_broken ORDER BY kind DESC")
    for row in fresh:
        theirs = [_line(job, broken) for job in jobs if row["address"] in _readers(job)]
        facts = {"at": jsonable(at), "day": day.isoformat(), "jobs": theirs}
        notice.digest(connection, row["address"], facts)
    return len(fresh)


def _readers(job: Row) -> list[str]:
    mail = (job["spec"].get("notify") or {}).get("mail")
    return mail["to"] if mail else []


def _line(job: Row, broken: list[Row]) -> dict[str, Any]:
    """Return what a digest says of a job; ``ok`` where nothing is the matter."""
    late = [row["kind"] for row in broken if row["job_id"] == job["id"]]
    kept: dict[str, Any] = jsonable({name: job[name] for name in _KEPT})
    return {**kept, "late": late, "ok": job["state"] == "ok" and not late}
