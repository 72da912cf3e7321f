"""Writes docs/metrics.md: ``python -m bootpoint_ops.metric_page > docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from bootpoint_common.metric import COUNTS, GAUGES, Kind, Metric
from bootpoint_worker.task_metric import TaskMetrics

_HEAD = """\
# Metrics

<!-- Made by `python -m bootpoint_ops.metric_page > docs/metrics.md`; change metric.py or metric_page.py, not this page. -->

## Where they are served

| who | at | what |
|---|---|---|
| `bootpoint exporter` | `http://127.0.0.1:9109/metrics` | everything below of the whole installation, and its own process |
| `bootpoint up` | the same | the same, and dramatiq's |
| `bootpoint worker`, `bootpoint scheduler` | the first free port from 9110 on | dramatiq's, and the process's: memory, processor time, files |

`BOOTPOINT_METRICS=ADDRESS:PORT` names another address and port, for all of them alike: the port itself is the exporter's,
and workers and schedulers of the machine take the first free ones above, a hundred at most. So one file of settings does
for a whole machine, and a worker in a container of its own is always at the port above. Each says on its first lines where
it serves. `BOOTPOINT_METRICS=off` serves nothing.

One exporter for each database is enough. It needs the database only, and may run anywhere. No metric is served twice, so a
sum over all that Prometheus reads is right. Where the database doesn't answer for a minute the exporter answers 503:
Prometheus then has `up` 0, and not numbers of before.

What the exporter shows was true a moment ago: it asks the database every 2 seconds, in a large installation every 20 at the
latest, and never because somebody reads. It lists the workers and schedulers that are alive at `/workers`, as Prometheus's HTTP service
discovery wants it, so that a pool is scaled without a change there:

```yaml
scrape_configs:
  - job_name: bootpoint
    honor_labels: true        # `job` is the protected job's name
    static_configs:
      - targets: ["127.0.0.1:9109"]
  - job_name: bootpoint-worker
    http_sd_configs:
      - url: http://127.0.0.1:9109/workers
```

A process that listens on all addresses (`0.0.0.0`, `::`) is listed under the name of its machine.

## How they are counted

Counters and histograms are sums over all processes since the database was made. They are written in the transaction that
makes them true: a worker that is killed, a message that comes twice, a slice that is repeated change nothing. Exceptions
are named below. Values of labels come from rows of the database or from a closed list; whatever else an agent says is
counted as `other`, and of its own disk an agent can't claim to have read or changed more than twice the size.
"""

_GAUGES = """
## How things stand

Gauges, read from the database.

"""

_COUNTS = """
## What happened

"""

_TASKS = """
## dramatiq's own

Of the tasks of one process, with labels `queue_name` and `actor_name`; served by workers and `up`, and set back by a
restart. Names and units are dramatiq's.

| metric | kind | meaning |
|---|---|---|
"""


_TRACES = """
## Traces

Where `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector (`http://127.0.0.1:4318`), workers, schedulers and `up` send a trace of
each run to it, by OTLP over HTTP; the other variables of OpenTelemetry hold as well. It needs the extra:
`pip install '.[otel]'` in a clone of the repository. Without the variable nothing is made or sent.

A trace's id is its run's id without dashes, whichever process sends a part of it. The span `run` goes from the instant at
which the run was due to its end, with job, number, trigger, state and reason; `line` is its wait for a place; `prepare`,
`open_point`, `replicate` (one for each slice), `commit` and `abort` are the tasks of workers. What the agent does between
them is in the history, and no span.
"""


def page() -> str:
    """Return the whole page."""
    return "".join([_HEAD, _GAUGES, *_table(GAUGES), _COUNTS, *_table(COUNTS), _TASKS, *_tasks(), _TRACES])


def _table(metrics: Iterable[Metric]) -> list[str]:
    head = "| metric | unit | labels | meaning |\n|---|---|---|---|\n"
    return [head, *(_row(metric) for metric in metrics)]


def _row(metric: Metric) -> str:
    labels = "; ".join(f"`{label.name}`: {label.text}" for label in metric.labels) or "none"
    unit = f"{metric.unit}, histogram" if metric.kind is Kind.HISTOGRAM else str(metric.unit)
    return f"| `{metric.full_name}` | {unit} | {labels} | {metric.text} |\n"


def _tasks() -> list[str]:
    registry = CollectorRegistry()
    TaskMetrics(registry)
    suffix = {"counter": "_total"}
    return [
        f"| `{family.name}{suffix.get(family.type, '')}` | {family.type} | {family.documentation} |\n"
        for family in registry.collect()
    ]


if __name__ == "__main__":
    print(page(), end="")
