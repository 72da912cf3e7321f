"""Metrics as Prometheus reads them."""

from __future__ import annotations

import sys
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from bootpoint_common.config import Listen
from bootpoint_common.errors import BootpointError
from bootpoint_common.metric import PREFIX, STATE_COUNTS, STATE_GAUGES, Metrics, serve

#: Every metric of the public contract, dramatiq's own left aside.
CONTRACT = [
    "newest_point_age_seconds",
    "newest_bootable_point_age_seconds",
    "objective_seconds",
    "run_total",
    "run_duration_seconds",
    "runs_waiting",
    "source_scanned_bytes_total",
    "changed_bytes_total",
    "wire_bytes_total",
    "applied_bytes_total",
    "credit_wait_seconds_total",
    "open_points",
    "points",
    "consolidation_seconds",
    "boot_check_total",
    "verify_total",
    "tracker_fallback_total",
    "rejected_messages_total",
    "outbox_pending",
    "outbox_lag_seconds",
    "agent_last_seen_seconds",
    "worker_up",
    "target_free_bytes",
    "target_size_bytes",
    "retention_blocked",
    "notices_pending",
    "backup_age_seconds",
    "unprotected_disks",
    "tracker_sample_miss_total",
]


def test_every_metric_of_the_contract_has_a_home() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    counted = {
        family.name.removeprefix(f"{PREFIX}_") + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    stored = set(STATE_GAUGES) | set(STATE_COUNTS)
    assert counted | stored == set(CONTRACT)
    assert not counted & stored


def test_counts_are_served() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.verifications.labels("verified").inc()
    metrics.applied_bytes.inc(65536)
    port, close = serve(registry, Listen("127.0.0.1", 0))
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        close()
    assert 'bootpoint_verify_total{result="verified"} 1.0' in text
    assert "bootpoint_applied_bytes_total 65536.0" in text


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(BootpointError) as caught:
        Metrics(CollectorRegistry())
    assert "bootpoint[worker]" in str(caught.value.hint)
