"""How fast the runs of a job are, from its history."""

from __future__ import annotations

from dataclasses import dataclass

from bootpoint_common.units import MiB

from .database import Connection, rows

#: Runs that are looked at, the newest ones.
RUNS = 100

#: Bytes a second where no run was large enough to tell: what a disk and a network of today do at least together.
ASSUMED = 100.0 * MiB

#: Bytes that a run must have read to say anything of its speed: below it is mostly waiting.
ENOUGH = 16 * MiB


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast runs are.

    Attributes:
        bytes_per_second: What the run that read most did, from its start until everything was on the target.
        overhead_seconds: What the quickest run took; 0 where there was none.
    """

    bytes_per_second: float
    overhead_seconds: float


def of_job(connection: Connection, job_id: int) -> Pace:
    """Work out the pace of a job's runs.

    The run that read most is the one in which waiting counts least. It is taken as it was, its waiting included, so
    the estimate is rather too long than too short.
    """
    found = rows(
        connection,
        "SELECT extract(epoch FROM max(p.sealed_at) - r.started_at)::float8 AS seconds, max(d.bytes) AS bytes"
        " FROM run r JOIN boot_point p ON p.run_uid = r.uid JOIN LATERAL ("
        "  SELECT coalesce(sum(scanned_bytes), 0)::bigint AS bytes FROM boot_point_disk WHERE point_id = p.id"
        " ) d ON true"
        " WHERE r.job_id = %s AND r.state = 'succeeded' AND p.sealed_at > r.started_at"
        " GROUP BY r.uid ORDER BY r.id DESC LIMIT %s",
        job_id,
        RUNS,
    )
    overhead = min((row["seconds"] for row in found), default=0.0)
    most = max(found, key=lambda row: row["bytes"], default=None)
    if most is None or most["bytes"] < ENOUGH:
        return Pace(ASSUMED, overhead)
    return Pace(most["bytes"] / most["seconds"], overhead)
