"""The metrics are a contract: their names, their labels, and their page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker
from prometheus_client import CollectorRegistry, generate_latest

from bootpoint_common.cipher import Reject
from bootpoint_common.config import Listen
from bootpoint_common.errors import Code
from bootpoint_common.metric import COUNTS, FALLBACKS, GAUGES, OTHER, REFUSED, REPLAYED, RUNS, Kind
from bootpoint_common.tally import Tally
from bootpoint_ops.exposition import PORTS, application, process_registry, serve
from bootpoint_ops.metric_page import page
from bootpoint_worker.task_metric import TaskMetrics
from tests.service.component import need
from tests.service.process import free_port

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

#: Every metric of the public contract with its labels, dramatiq's own left aside.
CONTRACT = {
    "newest_point_age_seconds": ("job", "host"),
    "newest_bootable_point_age_seconds": ("job", "host"),
    "objective_seconds": ("job", "kind"),
    "run_total": ("result", "reason"),
    "run_duration_seconds": (),
    "runs_waiting": (),
    "source_scanned_bytes_total": (),
    "changed_bytes_total": (),
    "wire_bytes_total": (),
    "applied_bytes_total": (),
    "credit_wait_seconds_total": (),
    "open_points": ("host",),
    "points": ("job", "host"),
    "consolidation_seconds": (),
    "boot_check_total": ("verdict",),
    "verify_total": ("result",),
    "tracker_fallback_total": ("reason",),
    "rejected_messages_total": ("reason",),
    "outbox_pending": (),
    "outbox_lag_seconds": (),
    "agent_last_seen_seconds": ("agent",),
    "worker_up": ("pool",),
    "target_free_bytes": ("host", "storage"),
    "target_size_bytes": ("host", "storage"),
    "retention_blocked": ("job", "host"),
    "notices_pending": ("channel",),
    "backup_age_seconds": (),
    "unprotected_disks": ("agent",),
    "tracker_sample_miss_total": ("agent",),
}


def test_the_metrics_are_those_of_the_contract() -> None:
    assert {metric.name: metric.label_names for metric in (*GAUGES, *COUNTS)} == CONTRACT
    assert all(metric.name.endswith("_total") == (metric.kind is Kind.COUNTER) for metric in (*GAUGES, *COUNTS))


def test_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: make docs"


def test_prometheus_takes_the_configuration_of_the_page(tmp_path: Path) -> None:
    need("promtool")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(block)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_others_choose_makes_no_new_series() -> None:
    assert FALLBACKS.admit(("overflow",)) == ("overflow",)
    assert FALLBACKS.admit(("made-up",)) == (OTHER,)
    assert RUNS.admit(("failed", "made-up")) == ("failed", OTHER)
    for reason in (*Reject, *Code, REPLAYED):
        assert REFUSED.admit((str(reason),)) == (str(reason),)


def test_what_could_not_be_written_down_is_not_lost() -> None:
    tally = Tally()
    tally.refused("altered")
    taken = tally.take()
    assert tally.take() == {}
    tally.refused("altered")
    tally.back(taken)
    assert tally.take() == {(REFUSED, ("altered",)): 2.0}


def test_dramatiqs_own_are_served_and_a_message_makes_no_new_series() -> None:
    registry = CollectorRegistry()
    broker = StubBroker(middleware=[TaskMetrics(registry)])
    work = dramatiq.Actor(
        lambda: None, broker=broker, actor_name="work", queue_name="queue", priority=0, options={}
    )  # fmt: skip
    worker = dramatiq.Worker(broker, worker_timeout=10)
    worker.start()
    try:
        work.send()
        broker.enqueue(work.message().copy(actor_name="made-up"))
        broker.join("queue", timeout=10_000, fail_fast=False)
        worker.join()
    finally:
        worker.stop()
    text = generate_latest(registry).decode()
    assert 'dramatiq_messages_total{actor_name="work",queue_name="queue"} 1.0' in text
    assert "made-up" not in text


def test_several_processes_of_a_machine_have_one_setting() -> None:
    first = free_port()
    app = application(process_registry(), None)
    closing = []
    try:
        for expected in (first, first + 1, first + 2):
            port, close = serve(app, Listen("127.0.0.1", first), above=expected != first)
            closing.append(close)
            assert port == expected
        with pytest.raises(OSError, match="in use"):
            serve(app, Listen("127.0.0.1", first))
    finally:
        for close in closing:
            close()
    assert PORTS > 2
