"""What a report is made of: rows of the history, which tell of jobs and boot points that are gone as well."""

from __future__ import annotations

from datetime import datetime

from .database import Connection, Row, rows

#: Events that say that a host has a boot point.
_MADE = ["point_committed", "point_adopted"]

#: What a report shows the last one of -> the kinds of its events.
LAST = {
    "verification": ["point_verified", "point_damaged"],
    "boot_check": ["boot_checked"],
    "test": ["test_started"],
}

#: How runs end -> how many, by the events that say so. One event may stand for several runs that were missed in a row.
_ENDINGS = {
    "succeeded": "count(*) FILTER (WHERE kind = 'run_succeeded')",
    "failed": "count(*) FILTER (WHERE kind = 'run_failed')",
    "cancelled": "count(*) FILTER (WHERE kind = 'run_cancelled')",
    "skipped": "count(*) FILTER (WHERE kind = 'run_skipped' AND code IS DISTINCT FROM 'missed')",
    "missed": "coalesce(sum(coalesce((details #>> '{missed,count}')::bigint, 1))"
    " FILTER (WHERE kind = 'run_skipped' AND code = 'missed'), 0)::bigint",
}


def revisions(connection: Connection, until: datetime) -> list[Row]:
    """Return what jobs were before an instant: job_id, name, at, spec, by job in their order.

    ``gone_at`` is when the job was deleted, None as long as it is there.
    """
    return rows(
        connection,
        "WITH known AS ("
        " SELECT job_id, spec, at FROM job_revision"
        " UNION ALL SELECT id, spec, created_at FROM job j"
        "  WHERE NOT EXISTS (SELECT 1 FROM job_revision r WHERE r.job_id = j.id)),"
        " first AS (SELECT job_id, min(at) AS at, min(spec->>'name') AS name FROM known GROUP BY job_id)"
        " SELECT k.job_id, f.name, k.at, k.spec, CASE WHEN j.id IS NULL THEN coalesce("
        "  (SELECT min(e.at) FROM event e WHERE e.job = f.name AND e.at >= f.at AND e.kind = 'job_deleted'), f.at)"
        "  END AS gone_at"
        " FROM known k JOIN first f ON f.job_id = k.job_id LEFT JOIN job j ON j.id = k.job_id"
        " WHERE k.at < %s ORDER BY f.name, k.job_id, k.at",
        until,
    )


def points(connection: Connection, since: datetime, until: datetime) -> list[Row]:
    """Return which boot points hosts got, and when: job, host, point, at.

    All of a period are there, and of the time before it the newest of each job and host.
    """
    return rows(
        connection,
        "SELECT job, host, point, at FROM event WHERE kind = ANY(%s) AND at >= %s AND at < %s"
        " UNION ALL SELECT job, host, max(point), max(at) FROM event WHERE kind = ANY(%s) AND at < %s"
        " GROUP BY job, host ORDER BY job, host, at",
        *(_MADE, since, until, _MADE, since),
    )


def kept(connection: Connection, until: datetime) -> list[Row]:
    """Return the boot points that jobs had on their hosts at an instant, and since when: job, host, at."""
    return rows(
        connection,
        "SELECT job, host, max(at) AS at FROM event WHERE kind = ANY(%s) AND at < %s"
        " GROUP BY job, host, point HAVING bool_and(kind <> 'point_consolidated')",
        *([*_MADE, "point_consolidated"], until),
    )


def last(connection: Connection, what: str, until: datetime) -> list[Row]:
    """Return the last event of a sort (`LAST`) of each job and host before an instant."""
    return rows(
        connection,
        "SELECT DISTINCT ON (job, host) job, host, point, at, kind, actor, details FROM event"
        " WHERE kind = ANY(%s) AND at < %s ORDER BY job, host, at DESC, id DESC",
        *(LAST[what], until),
    )


def endings(connection: Connection, since: datetime, until: datetime) -> list[Row]:
    """Return how many runs of each job ended how in a period: job, succeeded, failed, cancelled, skipped, missed."""
    counts = ", ".join(f"{count} AS {name}" for name, count in _ENDINGS.items())
    return rows(
        connection,
        f"SELECT job, {counts} FROM event WHERE at >= %s AND at < %s AND job IS NOT NULL"
        " AND kind = ANY(%s) GROUP BY job",
        *(since, until, ["run_succeeded", "run_failed", "run_cancelled", "run_skipped"]),
    )


def unprotected(connection: Connection, since: datetime, until: datetime) -> list[Row]:
    """Return which disks nobody protected at some time of a period: agent, disk; by the machine's own list."""
    return rows(
        connection,
        "SELECT DISTINCT agent, disk FROM ("
        " SELECT agent, details->>'id' AS disk, kind, at,"
        "  lead(at) OVER (PARTITION BY agent, details->>'id' ORDER BY at, id) AS next"
        " FROM event WHERE kind IN ('disk_unprotected', 'disk_settled') AND at < %s) AS e"
        " WHERE kind = 'disk_unprotected' AND (next IS NULL OR next > %s) ORDER BY agent, disk",
        *(until, since),
    )


def machines_without_a_job(connection: Connection, until: datetime) -> list[Row]:
    """Return the disks of machines that have no job now: agent, disks; the history isn't told of those one by one."""
    return rows(
        connection,
        "SELECT a.name AS agent, array(SELECT d.item->>'id' FROM unprotected_disks(a.id) AS d(item) ORDER BY 1)"
        " AS disks FROM agent a WHERE a.created_at < %s AND a.revoked_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM job j WHERE j.agent_id = a.id) ORDER BY a.name",
        until,
    )
