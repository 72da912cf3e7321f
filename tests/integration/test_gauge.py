"""What only the database knows, as Prometheus reads it."""

from __future__ import annotations

import random
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from bootpoint_common.units import MiB
from bootpoint_ops.gauge import StateCollector
from tests.integration.test_flow import write_random
from tests.service.fleet import fleet


def test_the_state_of_an_installation_is_served(database: str, tmp_path: Path, rng: random.Random) -> None:
    disk = tmp_path / "system.raw"
    write_random(disk, 8 * MiB, rng, 20)
    with fleet(database, tmp_path) as installation:
        installation.add_worker("w1")
        host_id = installation.add_host(f"fake-{tmp_path.name}")
        installation.add_agent("erp", [disk])
        job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
        installation.wait(installation.run(job_id))
        registry = CollectorRegistry()
        registry.register(StateCollector(installation.database))
        text = generate_latest(registry).decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    host = f"fake-{tmp_path.name}"
    assert lines[f'bootpoint_points{{host="{host}",job="erp"}}'] == "1.0"
    assert lines[f'bootpoint_open_points{{host="{host}"}}'] == "0.0"
    assert 0 <= float(lines[f'bootpoint_newest_point_age_seconds{{host="{host}",job="erp"}}']) < 120
    assert lines['bootpoint_run_total{reason="",result="succeeded"}'] == "1.0"
    assert lines["bootpoint_run_duration_seconds_count"] == "1.0"
    assert lines["bootpoint_runs_waiting"] == "0.0"
    assert float(lines['bootpoint_agent_last_seen_seconds{agent="erp"}']) < 60
