"""Counts of what happened, for metrics: sums over all processes, which no restart sets back.

A count is written in the transaction that makes it true, so each thing is counted once, however often its message, its
slice or its actor is repeated. What agents say is brought into bounds first: one that lies can't spoil a sum for good.

Each series has several rows, and a connection adds to one of them only: else all transactions that count would wait for
each other. Rows are locked in one order.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping

from bootpoint_common.metric import Metric
from bootpoint_common.tally import Tally

from .database import Connection, Database, rows, run

#: Rows that a series is spread over: connections of all processes share them by the number of their backend.
SHARDS = 64

#: Row of a histogram that holds the sum of all that was observed; its others are named after their upper bounds.
SUM = "sum"

#: Name of a histogram's last upper bound.
_INFINITE = "+Inf"

_ADD = """
INSERT INTO metric_count AS c (metric, labels, shard, value)
SELECT metric, labels::jsonb, pg_backend_pid() %% %s, value
FROM unnest(%s::text[], %s::text[], %s::double precision[]) AS new (metric, labels, value)
ORDER BY 1, 2
ON CONFLICT (metric, labels, shard) DO UPDATE SET value = c.value + excluded.value
"""


def add(connection: Connection, amounts: Mapping[tuple[Metric, tuple[str, ...]], float]) -> None:
    """Add to counters.

    Args:
        connection: The transaction that makes it true.
        amounts: How much, by metric and the values of its labels; a value that a label can't have becomes ``other``.
    """
    sums: dict[tuple[str, str], float] = {}
    for (metric, values), amount in amounts.items():
        key = metric.name, json.dumps(metric.admit(values) if metric.labels else values)
        sums[key] = sums.get(key, 0.0) + amount
    if sums:
        names, labels = zip(*sums, strict=True)
        run(connection, _ADD, SHARDS, list(names), list(labels), list(sums.values()))


def observe(connection: Connection, metric: Metric, seconds: float) -> None:
    """Add to a histogram; a bound's row counts what lies between it and the bound before."""
    bounds = bound_names(metric)
    found = bounds[bisect_left(metric.bounds, seconds)]
    add(connection, {(metric, (found,)): 1.0, (metric, (SUM,)): seconds})


def bound_names(metric: Metric) -> list[str]:
    """Return the names of a histogram's upper bounds, as Prometheus writes them."""
    return [*map(str, metric.bounds), _INFINITE]


def save(database: Database, tally: Tally) -> None:
    """Write down what a process has counted in memory.

    Raises:
        psycopg.Error: The database is away; nothing of it is lost.
    """
    taken = tally.take()
    if not taken:
        return
    try:
        with database.transaction() as connection:
            add(connection, taken)
    except BaseException:
        tally.back(taken)
        raise


def sums(connection: Connection) -> dict[str, dict[tuple[str, ...], float]]:
    """Return every sum, by the metric's name and the values of its labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for row in rows(connection, "SELECT metric, labels, sum(value) AS value FROM metric_count GROUP BY metric, labels"):
        found.setdefault(row["metric"], {})[tuple(row["labels"])] = row["value"]
    return found
