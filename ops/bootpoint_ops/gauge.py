"""Metrics of the whole installation, as prometheus-client has them: what rows say, and what all processes counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

from bootpoint_common.metric import COUNTS, SAMPLE_MISSES, Kind, Metric
from bootpoint_common.store import count, gauge
from bootpoint_common.store.database import Database

#: Values by those of a metric's labels.
Series = Mapping[tuple[str, ...], float]


class StateCollector:
    """Reads all metrics of the installation from the database.

    Args:
        database: The truth.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Family]:
        """Yield every metric that something is known of, all as of one instant."""
        with self._database.snapshot() as connection:
            gauges, sums, agents = gauge.read(connection), count.sums(connection), gauge.agents(connection)
        for metric, found in gauges.items():
            yield _gauge(metric, found)
        for metric in COUNTS:
            counted = sums.get(metric.name, {})
            if metric.kind is Kind.HISTOGRAM:
                yield _histogram(metric, counted)
            else:
                nothing = [(name,) for name in agents] if metric is SAMPLE_MISSES else _closed(metric)
                yield _counter(metric, {**dict.fromkeys(nothing, 0.0), **counted})


def _closed(metric: Metric) -> list[tuple[str, ...]]:
    """Return every series that a metric may have: shown as 0, the first of its kind is seen as an increase."""
    return list(product(*(sorted(label.values or ()) for label in metric.labels)))


def _gauge(metric: Metric, found: list[tuple[tuple[str, ...], float]]) -> Family:
    family = GaugeMetricFamily(metric.full_name, metric.text, labels=metric.label_names)
    for values, value in found:
        family.add_metric(values, value)
    return family


def _counter(metric: Metric, series: Series) -> Family:
    family = CounterMetricFamily(metric.full_name, metric.text, labels=metric.label_names)
    for values, value in sorted(series.items()):
        family.add_metric(values, value)
    return family


def _histogram(metric: Metric, counted: Series) -> Family:
    family, within = HistogramMetricFamily(metric.full_name, metric.text), 0.0
    buckets = []
    for bound in count.bound_names(metric):
        within += counted.get((bound,), 0.0)
        buckets.append((bound, within))
    family.add_metric((), buckets, counted.get((count.SUM,), 0.0))
    return family
