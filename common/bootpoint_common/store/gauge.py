"""How things stand, for metrics: one query for each gauge, over all jobs, hosts and agents at once."""

from __future__ import annotations

from bootpoint_common.metric import GAUGES, MOST_STORAGES, Metric

from .database import Connection, rows

#: Seconds after which a process that says nothing counts as gone: it speaks every 5 seconds.
ALIVE_SECONDS = 15

_REPLICA = "FROM replica y JOIN host h ON h.id = y.host_id"

#: Replicas that count: of a job that there is, and named by it.
_COUNTS = "y.job_id IS NOT NULL AND y.state <> 'detached'"

#: Points that a replica has; the words of the index `boot_point_kept`.
_KEPT = "p.state = 'committed' AND p.consolidated_at IS NULL"

#: Durations of objectives as seconds, of jobs that nobody has stopped: of others no new point is expected. Few of them
#: differ, so that each is read once.
_OBJECTIVES = """
WITH wanted AS MATERIALIZED (
    SELECT j.name, o.key AS kind, o.value AS text FROM job j, LATERAL jsonb_each_text(j.spec->'objective') AS o
    WHERE o.value IS NOT NULL AND j.enabled AND coalesce(j.paused_until <= now(), true)),
known AS MATERIALIZED (
    SELECT text, duration_seconds(text) AS value FROM (SELECT DISTINCT text FROM wanted) AS d)
SELECT name, kind, value FROM wanted JOIN known USING (text) WHERE value IS NOT NULL
"""

#: A storage's column, as a host said it last; of two with one name the first.
_STORAGE = f"""
SELECT host, storage, value FROM (
    SELECT h.name AS host, s->>'name' AS storage, (min(s->>'{{column}}'))::numeric AS value,
        row_number() OVER (PARTITION BY h.id ORDER BY s->>'name') AS place
    FROM host h, LATERAL jsonb_array_elements(
        CASE WHEN jsonb_typeof(h.info->'storages') = 'array' THEN h.info->'storages' ELSE '[]' END) AS s
    WHERE s->>'name' IS NOT NULL AND jsonb_typeof(s->'{{column}}') = 'number' GROUP BY h.id, s->>'name') AS t
WHERE place <= {MOST_STORAGES}
"""

#: Eligible disks that no job of the agent selects; a job without a list of disks selects all. As `unprotected_disks`
#: does for one agent.
_UNPROTECTED = """
WITH eligible AS (
    SELECT a.id, item->>'id' AS disk
    FROM agent a, LATERAL jsonb_array_elements(coalesce(a.inventory->'items', '[]')) AS item
    WHERE a.revoked_at IS NULL AND (item->>'eligible')::boolean),
selected AS (
    SELECT j.agent_id AS id, disk->>'id' AS disk FROM job j, LATERAL jsonb_array_elements(
        CASE WHEN jsonb_typeof(j.spec #> '{source,disks}') = 'array' THEN j.spec #> '{source,disks}' ELSE '[{}]' END
        ) AS disk)
SELECT a.name, coalesce(u.n, 0) AS value FROM agent a LEFT JOIN (
    SELECT e.id, count(*) AS n FROM eligible e
    LEFT JOIN selected s ON s.id = e.id AND (s.disk IS NULL OR s.disk = e.disk)
    WHERE s.id IS NULL GROUP BY e.id) AS u ON u.id = a.id
WHERE a.inventory IS NOT NULL AND a.revoked_at IS NULL
"""

_WORKERS = f"""
SELECT n.pool, count(p.id) AS value FROM (
    SELECT pool FROM host UNION SELECT y.pool FROM replica y WHERE {_COUNTS}
    UNION SELECT pool FROM agent WHERE revoked_at IS NULL
    UNION SELECT unnest(pools) FROM process WHERE seen_at > now() - interval '{ALIVE_SECONDS} seconds') AS n
LEFT JOIN process p ON n.pool = ANY (p.pools) AND p.seen_at > now() - interval '{ALIVE_SECONDS} seconds'
GROUP BY n.pool
"""

#: A query for each gauge: the values of its labels in their order, then its own. What has no value has no row.
_QUERIES: dict[str, str] = {
    "newest_point_age_seconds": f"""
        SELECT y.job_name, h.name, age_seconds(p.instant) AS value {_REPLICA} JOIN boot_point p ON p.id = y.head
        WHERE {_COUNTS}""",
    "newest_bootable_point_age_seconds": f"""
        SELECT y.job_name, h.name, age_seconds(b.newest) AS value {_REPLICA} JOIN (
            SELECT p.replica_id, max(p.instant) AS newest FROM boot_point p
            WHERE {_KEPT} AND p.boot->>'verdict' = 'boots' GROUP BY p.replica_id) AS b ON b.replica_id = y.id
        WHERE {_COUNTS}""",
    "objective_seconds": _OBJECTIVES,
    "runs_waiting": "SELECT count(*) AS value FROM run WHERE state = 'waiting'",
    "open_points": """
        SELECT h.name, count(p.id) AS value FROM host h LEFT JOIN replica y ON y.host_id = h.id
        LEFT JOIN boot_point p ON p.replica_id = y.id AND p.state NOT IN ('committed', 'aborted') GROUP BY h.name""",
    "points": f"""
        SELECT y.job_name, h.name, coalesce(k.n, 0) AS value {_REPLICA} LEFT JOIN (
            SELECT p.replica_id, count(*) AS n FROM boot_point p WHERE {_KEPT} GROUP BY p.replica_id
            ) AS k ON k.replica_id = y.id
        WHERE {_COUNTS}""",
    "outbox_pending": "SELECT count(*) AS value FROM outbox",
    "outbox_lag_seconds": """
        SELECT coalesce(age_seconds(min(not_before)), 0) AS value FROM outbox WHERE not_before <= now()""",
    "notices_pending": """
        SELECT c AS channel, count(n.id) AS value FROM unnest(ARRAY['mail', 'webhook']) AS c
        LEFT JOIN notification n ON n.channel = c AND n.state = 'waiting' AND (n.attempts > 0 OR n.not_before <= now())
        GROUP BY c""",
    "agent_last_seen_seconds": """
        SELECT name, age_seconds(last_seen_at) AS value FROM agent
        WHERE last_seen_at IS NOT NULL AND revoked_at IS NULL""",
    "worker_up": _WORKERS,
    "target_free_bytes": _STORAGE.format(column="free_bytes"),
    "target_size_bytes": _STORAGE.format(column="size_bytes"),
    "retention_blocked": f"SELECT y.job_name, h.name, y.retention_blocked::integer AS value {_REPLICA} WHERE {_COUNTS}",
    "unprotected_disks": _UNPROTECTED,
}


def read(connection: Connection) -> dict[Metric, list[tuple[tuple[str, ...], float]]]:
    """Return what every gauge shows at this moment.

    Returns:
        By metric: the values of its labels, and its own. Those that nothing is known of are absent.
    """
    found = {}
    for metric in GAUGES:
        if metric.name in _QUERIES:
            made = [tuple(row.values()) for row in rows(connection, _QUERIES[metric.name])]
            found[metric] = [(row[:-1], float(row[-1])) for row in made]
    return found


def workers(connection: Connection) -> list[str]:
    """Return where Prometheus reads the metrics of each worker and scheduler that is alive: ADDRESS:PORT."""
    alive = rows(
        connection,
        "SELECT DISTINCT metrics FROM process WHERE metrics IS NOT NULL"
        f" AND seen_at > now() - interval '{ALIVE_SECONDS} seconds' ORDER BY metrics",
    )
    return [row["metrics"] for row in alive]


def agents(connection: Connection) -> list[str]:
    """Return the names of all agents that have joined and are not revoked."""
    found = rows(connection, "SELECT name FROM agent WHERE key_id IS NOT NULL AND revoked_at IS NULL ORDER BY name")
    return [row["name"] for row in found]
