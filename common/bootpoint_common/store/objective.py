"""Objectives: jobs whose newest boot point is older than it may be, and the one event for each time that happens."""

from __future__ import annotations

from datetime import datetime, timedelta

from bootpoint_common.units import format_duration

from . import event
from .database import Connection, Row, one_row, present, rows, run

#: Advisory lock of who looks ("objectiv" as a number).
_LOCK = 0x6F626A6563746976

#: States of a job in which nobody expects new boot points.
_RESTING = ("disabled", "paused", "superseded")

#: Jobs that are watched, with how old their newest points are allowed to be and since when they count: a job without a
#: point is as old as itself. One without `objective.point` has no schedule that repeats, and nothing of it is late.
_MEASURED = """
SELECT j.id, j.name, k.kind, k.allowed, k.newest, coalesce(k.newest, j.created_at) AS counted
FROM job j
LEFT JOIN LATERAL (
    SELECT CASE WHEN bool_and(p.id IS NOT NULL) THEN min(p.instant) END AS point,
        CASE WHEN bool_and(b.instant IS NOT NULL) THEN min(b.instant) END AS bootable
    FROM replica y LEFT JOIN boot_point p ON p.id = y.head
    LEFT JOIN LATERAL (
        SELECT max(o.instant) AS instant FROM boot_point o WHERE o.replica_id = y.id AND o.state = 'committed'
            AND o.consolidated_at IS NULL AND o.boot->>'verdict' = 'boots'
    ) b ON true
    WHERE y.job_id = j.id AND y.state <> 'detached'
) n ON true
CROSS JOIN LATERAL (VALUES
    ('point', duration_seconds(j.spec #>> '{objective,point}'), n.point),
    ('bootable', duration_seconds(j.spec #>> '{objective,bootable}'), n.bootable)
) AS k(kind, allowed, newest)
WHERE j.enabled AND k.allowed IS NOT NULL AND duration_seconds(j.spec #>> '{objective,point}') IS NOT NULL
"""

_LATE = f"""
WITH measured AS ({_MEASURED}), late AS (SELECT * FROM measured WHERE counted + make_interval(secs => allowed) < %s)
"""


#: What `_RESTING` says of a job; asked of few jobs, for the view is costly.
_STATE = "(SELECT v.state FROM v_job v WHERE v.id = {id})"

_NEW = f"""
{_LATE} SELECT * FROM late
WHERE NOT EXISTS (SELECT 1 FROM objective_broken o WHERE o.job_id = late.id AND o.kind = late.kind)
    AND {_STATE.format(id="late.id")} <> ALL(%s) ORDER BY name, kind LIMIT %s
"""

_OVER = f"""
{_LATE} SELECT o.job_id AS id, o.kind, o.since, j.name, m.newest
FROM objective_broken o JOIN job j ON j.id = o.job_id LEFT JOIN measured m ON m.id = o.job_id AND m.kind = o.kind
WHERE NOT EXISTS (SELECT 1 FROM late WHERE late.id = o.job_id AND late.kind = o.kind) ORDER BY j.name, o.kind LIMIT %s
"""

_REST = f"DELETE FROM objective_broken o WHERE {_STATE.format(id='o.job_id')} = ANY(%s)"


def review(connection: Connection, at: datetime | None = None, *, limit: int = 200) -> bool:
    """Record an event for each objective that was broken since the last look, and for each that is fulfilled again.

    Any number of processes may look, one at a time does: else what one saw a moment ago would undo what another told.

    Args:
        connection: A transaction.
        at: The instant of the look; by default the database's now.
        limit: Most events of each kind, so that the transaction ends soon.

    Returns:
        Whether there may be more.
    """
    if not one_row(connection, "SELECT pg_try_advisory_xact_lock(%s) AS mine", _LOCK)["mine"]:
        return False
    moment = at or present(connection)
    run(connection, _REST, list(_RESTING))
    new = rows(connection, _NEW, moment, list(_RESTING), limit)
    for row in new:
        _break(connection, row, moment)
    over = rows(connection, _OVER, moment, limit)
    for row in over:
        _mend(connection, row, moment)
    return limit in (len(new), len(over))


def _break(connection: Connection, row: Row, moment: datetime) -> None:
    run(
        connection,
        "INSERT INTO objective_broken (job_id, kind, since) VALUES (%s, %s, %s)",
        *(row["id"], row["kind"], row["counted"] + timedelta(seconds=row["allowed"])),
    )
    what = "boot point" if row["kind"] == "point" else "boot point that was proven to boot"
    allowed = format_duration(row["allowed"])
    if row["newest"] is None:
        text = f"job {row['name']} has no {what} after {allowed}"
    else:
        age = format_duration((moment - row["newest"]).total_seconds())
        text = f"the newest {what} of job {row['name']} is {age} old, {allowed} are allowed"
    event.record(
        connection, "objective_broken", text, actor="scheduler", job=row["name"],
        details={"objective": row["kind"], "allowed_seconds": row["allowed"]},
    )  # fmt: skip


def _mend(connection: Connection, row: Row, moment: datetime) -> None:
    run(connection, "DELETE FROM objective_broken WHERE job_id = %s AND kind = %s", row["id"], row["kind"])
    if row["newest"] is None:
        return  # nothing is expected any more
    what = "a boot point" if row["kind"] == "point" else "a boot point that was proven to boot"
    lasted = format_duration((moment - row["since"]).total_seconds())
    event.record(
        connection, "objective_met", f"job {row['name']} has {what} that is young enough again, after {lasted}",
        actor="scheduler", job=row["name"], details={"objective": row["kind"]},
    )  # fmt: skip
