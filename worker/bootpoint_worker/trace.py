"""Traces of runs by OpenTelemetry, where somebody collects them: one trace from the due instant to `committed`.

A run's id is its trace's id, and its last eight bytes are the id of the span of the whole: so every process knows both
without a word from another, and no message changes. Each task of a run is a span below, sent by who did it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from bootpoint_common.errors import Code, error
from bootpoint_common.store.database import Connection, Database, Row, one, rows

try:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
except ImportError as missing:
    raise error(
        Code.HOST_UNSUPPORTED,
        "traces need OpenTelemetry's Python packages, and OTEL_EXPORTER_OTLP_ENDPOINT asks for traces",
        hint="install bootpoint with its extra: pip install 'bootpoint[otel]', or unset the variable",
    ) from missing

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

#: Tasks between a run's start and its end, by what their subject is.
TASKS = frozenset({"prepare", "open_point", "replicate", "commit", "abort"})

_RUN_OF = """
SELECT uid FROM run WHERE uid = %s
UNION ALL SELECT run_uid FROM boot_point WHERE id = %s
UNION ALL SELECT p.run_uid FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id WHERE d.id = %s LIMIT 1
"""

#: Runs that ended a moment ago, each given to one process; those of a time without traces stay as they are.
_ENDED = """
UPDATE run SET traced_at = now() WHERE uid IN (
    SELECT uid FROM run WHERE ended_at > now() - interval '5 minutes' AND traced_at IS NULL
    ORDER BY ended_at LIMIT 100 FOR UPDATE SKIP LOCKED)
RETURNING uid, id, job_name, trigger, state, reason, due_at, started_at, ended_at
"""


class Traces:
    """Makes spans and sends them, from a thread of the library's.

    Args:
        service: Name of the process.
        exporter: Sends them; by default by OTLP over HTTP, to where the variables ``OTEL_EXPORTER_OTLP_…`` say.
    """

    def __init__(self, service: str, exporter: SpanExporter | None = None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self._ids = _Ids()
        resource = Resource.create({"service.name": "bootpoint", "service.instance.id": service})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("bootpoint")

    @contextmanager
    def task(self, database: Database, kind: str, subject: UUID) -> Iterator[None]:
        """Make a span of a task while it lasts, if it is one of a run."""
        found = None
        if kind in TASKS:
            with database.transaction() as connection:
                found = one(connection, _RUN_OF, subject, subject, subject)
        with nullcontext() if found is None else self._below(found["uid"], kind, subject):
            yield

    @contextmanager
    def _below(self, run_uid: UUID, name: str, subject: UUID) -> Iterator[None]:
        attributes = {"bootpoint.subject": str(subject)}
        with self._tracer.start_as_current_span(name, _whole(run_uid), attributes=attributes):
            yield

    def tell_ended(self, connection: Connection) -> None:
        """Send the spans of runs that have ended since the last look of any process: the whole, and its wait."""
        for row in rows(connection, _ENDED):
            self._ended(row)

    def _ended(self, row: Row) -> None:
        attributes = {
            "bootpoint.job": row["job_name"],
            "bootpoint.run": row["id"],
            "bootpoint.trigger": row["trigger"],
            "bootpoint.state": row["state"],
            "bootpoint.reason": row["reason"] or "",
        }
        began = min(row["due_at"], row["ended_at"])
        with self._ids.of(row["uid"]):
            span = self._tracer.start_span("run", start_time=_nanoseconds(began), attributes=attributes)
        if row["state"] == "failed":
            span.set_status(trace.StatusCode.ERROR, row["reason"])
        span.end(_nanoseconds(row["ended_at"]))
        waited = self._tracer.start_span("line", _whole(row["uid"]), start_time=_nanoseconds(began))
        waited.end(_nanoseconds(max(began, row["started_at"] or row["ended_at"])))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _whole(run_uid: UUID) -> Context:
    """Return what makes a span one of a run's trace, below the span of the whole."""
    whole = trace.SpanContext(
        run_uid.int, _span_id(run_uid), is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(whole))


def _span_id(run_uid: UUID) -> int:
    return run_uid.int & (1 << 64) - 1


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e6) * 1000


class _Ids(RandomIdGenerator):
    """Random ids, but for the span of a whole run."""

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def of(self, run_uid: UUID) -> Iterator[None]:
        """Let the span that is made meanwhile be the one of a whole run."""
        self._local.run = run_uid
        try:
            yield
        finally:
            self._local.run = None

    def generate_trace_id(self) -> int:
        """Return the id of a trace."""
        run: UUID | None = getattr(self._local, "run", None)
        return super().generate_trace_id() if run is None else run.int

    def generate_span_id(self) -> int:
        """Return the id of a span."""
        run: UUID | None = getattr(self._local, "run", None)
        return super().generate_span_id() if run is None else _span_id(run)
