"""The limits of a job: told to the agent that works on its run, and kept by the workers that write for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from bootpoint_common import message
from bootpoint_common.job import Limits, limits_of

from . import outbox
from .database import Connection, one, rows

#: Seconds of the rate that may pass at once after a pause: with what one worker takes ahead, less than 5 % of 10 s.
BURST_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class NetworkLimit:
    """What the workers may send for a job, by the time of day."""

    limits: Limits
    zone: ZoneInfo

    def at(self, instant: datetime) -> int:
        """Return the limit at an instant, in bytes a second; 0 for none."""
        return self.limits.network_at(instant, self.zone)


#: What `tell` and `tell_late` need of a run.
_RUNNING = """
SELECT a.name AS agent, j.revision, j.spec FROM run r JOIN agent a ON a.id = r.agent_id JOIN job j ON j.id = r.job_id
WHERE r.state = 'running'
"""


def tell(connection: Connection, job_id: int) -> None:
    """Tell the agent that works on a run of a job what its limits are now.

    Args:
        connection: The transaction that changes the job. The run stays locked until its end: a run that is admitted at
            the same moment either has the new limits already, or is told of them.
        job_id: The job.
    """
    query = "SELECT uid FROM run WHERE job_id = %s AND state IN ('waiting', 'running') ORDER BY uid FOR UPDATE"
    for row in rows(connection, query, job_id):
        tell_late(connection, row["uid"], None)


def tell_late(connection: Connection, run_uid: UUID, known: int | None) -> None:
    """Tell an agent of a run's limits if it knows an older revision of them only; ``known`` None: whatever it knows."""
    row = one(connection, _RUNNING + "AND r.uid = %s AND j.revision > %s", run_uid, -1 if known is None else known)
    if row is not None:
        spec: dict[str, Any] = row["spec"]
        new = message.NewLimits(
            run=run_uid, limits=spec.get("limits") or {}, time_zone=spec.get("time_zone"), revision=row["revision"]
        )
        outbox.tell(connection, row["agent"], run_uid, new)


def network(connection: Connection, run_uid: UUID) -> tuple[int, NetworkLimit] | None:
    """Return what workers may send for the job of a run, with the job's number; None where nothing limits them.

    That is a run before its machine stops, too: what waits in the broker must be safe soon.
    """
    query = "SELECT j.id, j.spec FROM run r JOIN job j ON j.id = r.job_id WHERE r.uid = %s AND NOT r.last_breath"
    row = one(connection, query, run_uid)
    if row is None:
        return None
    limits = limits_of(row["spec"].get("limits") or {})
    if not limits.network:
        return None
    return row["id"], NetworkLimit(limits, ZoneInfo(row["spec"].get("time_zone") or "UTC"))


#: The bucket is filled up to now, whoever used it last; then the bytes are taken, be they there or not. Times of two
#: workers that meet here may come in the wrong order: the later one holds.
_RESERVE = f"""
INSERT INTO network_bucket AS b (job_id, tokens, rate, filled_at)
VALUES (%(job)s, %(rate)s * {BURST_SECONDS} - %(count)s, %(rate)s, coalesce(%(at)s, clock_timestamp()))
ON CONFLICT (job_id) DO UPDATE SET
    tokens = least(excluded.rate * {BURST_SECONDS},
        CASE WHEN b.tokens < 0 AND excluded.rate < b.rate THEN b.tokens * excluded.rate / b.rate ELSE b.tokens END
        + greatest(0, extract(epoch FROM excluded.filled_at - b.filled_at)::double precision) * excluded.rate
    ) - %(count)s,
    rate = excluded.rate,
    filled_at = greatest(b.filled_at, excluded.filled_at)
RETURNING tokens + %(count)s AS before
"""


def reserve(connection: Connection, job_id: int, count: int, rate: int, *, at: datetime | None = None) -> float:
    """Take ``count`` bytes out of the bucket that all workers share.

    Args:
        connection: A transaction of its own: whoever comes next waits for its end.
        job_id: The job.
        count: Bytes.
        rate: Bytes a second, more than 0. A debt from a higher rate is paid for as at that one.
        at: The instant; None for the database's own, which all workers share.

    Returns:
        How many bytes are still owed by those who came before: so much is to be waited for, at the rate. 0 for none.
    """
    values = {"job": job_id, "count": count, "rate": float(rate), "at": at}
    row = connection.execute(_RESERVE.encode(), values).fetchone()
    assert row is not None  # noqa: S101 - RETURNING
    return max(0.0, -float(row["before"]))
