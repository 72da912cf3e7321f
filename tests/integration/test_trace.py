"""Traces of runs, as a collector gets them by OTLP over HTTP."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bootpoint_common.units import MiB
from bootpoint_worker.trace import Traces
from tests.integration.test_flow import write_random
from tests.service.fleet import fleet


class Collector:
    """Takes spans as any collector does.

    Attributes:
        spans: What came, with the process that sent it.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in body.resource_spans:
                    of = {one.key: one.value.string_value for one in resource.resource.attributes}
                    outer.spans += [
                        (of["service.instance.id"], span) for scope in resource.scope_spans for span in scope.spans
                    ]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def traces(self, name: str) -> Traces:
        """Return what sends the spans of a process here."""
        url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        return Traces(name, OTLPSpanExporter(endpoint=url, compression=Compression.NoCompression))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_a_run_is_one_trace_from_its_due_instant_to_its_end(
    database: str, tmp_path: Path, rng: random.Random, collector: Collector
) -> None:
    disk = tmp_path / "system.raw"
    write_random(disk, 4 * MiB, rng, 20)
    traces = {name: collector.traces(name) for name in ("w1", "w2")}
    with fleet(database, tmp_path) as installation:
        for name, made in traces.items():
            installation.add_worker(name, traces=made)
        host_id = installation.add_host(f"fake-{tmp_path.name}")
        installation.add_agent("erp", [disk])
        job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
        run = installation.run(job_id)
        installation.wait(run)
        installation.wait_until(lambda: installation.row("SELECT 1 AS yes FROM run WHERE traced_at IS NOT NULL"))
    for each in traces.values():
        each.close()
    (whole,) = [span for _, span in collector.spans if span.name == "run"]
    assert whole.trace_id == run.uid.bytes
    assert whole.parent_span_id == b""
    below = [span for _, span in collector.spans if span is not whole]
    # The slice that takes the last seal commits itself; a task of that name comes only where it didn't.
    assert {span.name for span in below} - {"commit"} == {"line", "prepare", "open_point", "replicate"}
    assert {(span.trace_id, span.parent_span_id) for span in below} == {(whole.trace_id, whole.span_id)}
    said = {one.key: one.value.string_value or one.value.int_value for one in whole.attributes}
    assert said["bootpoint.job"] == "erp"
    assert said["bootpoint.state"] == "succeeded"
    assert said["bootpoint.run"] == run.id
    (opened,) = [span for span in below if span.name == "open_point"][:1]
    assert whole.start_time_unix_nano <= opened.start_time_unix_nano < whole.end_time_unix_nano
