"""Metrics of what only the database knows, read when Prometheus asks: right whatever process did the work.

One process of an installation serves them: the scheduler, or `bootpoint up`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bootpoint_common.metric import PREFIX, RUN_SECONDS, STATE_COUNTS, STATE_GAUGES
from bootpoint_common.store.database import Connection, Database, rows

#: One query for each gauge: its labels in the order of `STATE_GAUGES`, then the value. What has no value has no row.
_QUERIES: dict[str, str] = {
    "newest_point_age_seconds": """
        SELECT y.job_name, h.name, extract(epoch FROM now() - p.instant) AS value
        FROM replica y JOIN host h ON h.id = y.host_id JOIN boot_point p ON p.id = y.head
        WHERE y.state <> 'detached'""",
    "newest_bootable_point_age_seconds": """
        SELECT y.job_name, h.name, extract(epoch FROM now() - max(p.instant)) AS value
        FROM replica y JOIN host h ON h.id = y.host_id JOIN boot_point p ON p.replica_id = y.id
        WHERE y.state <> 'detached' AND p.state = 'committed' AND p.consolidated_at IS NULL
            AND p.boot->>'verdict' = 'boots' GROUP BY y.id, h.name""",
    "objective_seconds": """
        SELECT name, kind, value FROM v_job, LATERAL jsonb_each_text(objective_seconds) AS o(kind, value)
        WHERE value IS NOT NULL""",
    "runs_waiting": "SELECT count(*) AS value FROM run WHERE state = 'waiting'",
    "open_points": """
        SELECT h.name, count(p.id) AS value FROM host h LEFT JOIN replica y ON y.host_id = h.id
        LEFT JOIN boot_point p ON p.replica_id = y.id AND p.state NOT IN ('committed', 'aborted') GROUP BY h.name""",
    "points": """
        SELECT y.job_name, h.name, count(p.id) AS value FROM replica y JOIN host h ON h.id = y.host_id
        LEFT JOIN boot_point p ON p.replica_id = y.id AND p.state = 'committed' AND p.consolidated_at IS NULL
        WHERE y.state <> 'detached'
        GROUP BY y.id, h.name""",
    "outbox_pending": "SELECT count(*) AS value FROM outbox",
    "outbox_lag_seconds": """
        SELECT coalesce(extract(epoch FROM now() - min(not_before)), 0) AS value FROM outbox
        WHERE not_before <= now()""",
    "notices_pending": """
        SELECT c AS channel, count(n.id) AS value FROM unnest(ARRAY['mail', 'webhook']) AS c
        LEFT JOIN notification n ON n.channel = c AND n.state = 'waiting' GROUP BY c""",
    "agent_last_seen_seconds": """
        SELECT name, extract(epoch FROM now() - last_seen_at) AS value FROM agent WHERE last_seen_at IS NOT NULL""",
    "target_free_bytes": """
        SELECT h.name, s->>'name' AS storage, (s->>'free_bytes')::bigint AS value
        FROM host h, LATERAL jsonb_array_elements(h.info->'storages') AS s""",
    "target_size_bytes": """
        SELECT h.name, s->>'name' AS storage, (s->>'size_bytes')::bigint AS value
        FROM host h, LATERAL jsonb_array_elements(h.info->'storages') AS s""",
    "retention_blocked": """
        SELECT y.job_name, h.name, y.retention_blocked::integer AS value FROM replica y JOIN host h ON h.id = y.host_id
        WHERE y.state <> 'detached'""",
    "unprotected_disks": """
        SELECT name, (SELECT count(*) FROM unprotected_disks(agent.id)) AS value FROM agent
        WHERE inventory IS NOT NULL AND revoked_at IS NULL""",
}


class StateCollector(Collector):
    """Reads the gauges and the counts of runs from the database at each scrape.

    Args:
        database: The truth.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every family that the database has values for."""
        with self._database.transaction() as connection:
            for name, query in _QUERIES.items():
                yield _gauge(connection, name, query)
            yield _runs(connection)
            yield _durations(connection)


def _gauge(connection: Connection, name: str, query: str) -> Metric:
    text, labels = STATE_GAUGES[name]
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for row in rows(connection, query):
        *values, value = row.values()
        family.add_metric([str(label) for label in values], float(value))
    return family


def _runs(connection: Connection) -> Metric:
    name, (text, labels) = "run_total", STATE_COUNTS["run_total"]
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    query = """
        SELECT state, coalesce(reason, '') AS reason, count(*) AS n FROM run WHERE ended_at IS NOT NULL GROUP BY 1, 2"""
    for row in rows(connection, query):
        family.add_metric([row["state"], row["reason"]], row["n"])
    return family


def _durations(connection: Connection) -> Metric:
    name, (text, _) = "run_duration_seconds", STATE_COUNTS["run_duration_seconds"]
    family = HistogramMetricFamily(f"{PREFIX}_{name}", text)
    query = """
        SELECT bound, count(seconds) FILTER (WHERE seconds <= bound) AS within, coalesce(sum(seconds), 0) AS total
        FROM unnest(%s::double precision[]) AS bound
        LEFT JOIN (SELECT extract(epoch FROM ended_at - started_at)::double precision AS seconds FROM run
                   WHERE ended_at IS NOT NULL AND started_at IS NOT NULL) r ON true
        GROUP BY bound ORDER BY bound"""
    found = rows(connection, query, [*map(float, RUN_SECONDS), float("inf")])
    buckets = [("+Inf" if row["bound"] == float("inf") else str(row["bound"]), row["within"]) for row in found]
    family.add_metric([], buckets, found[-1]["total"])
    return family
