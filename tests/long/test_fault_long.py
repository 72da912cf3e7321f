"""Either alarm of the broker in the midst of a run, and restarts of the database at each step of a commit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_worker import reaper, service
from bootpoint_worker.targets.fake_fault import STEPS
from tests.service.fault import restart_in_commit, ride_out
from tests.service.hostile_agent import Besieged, besieged
from tests.service.postgres import PostgresServer
from tests.service.rabbitmq import VirtualHost


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "ALIVE_SECONDS", 0.2)


@pytest.fixture
def besieged_scene(
    often: None, database: str, vhost: VirtualHost, tmp_path: Path, rng: random.Random
) -> Iterator[Besieged]:
    with besieged(database, vhost, tmp_path, rng) as made:
        yield made


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_alarm_in_the_midst_of_a_run_is_named_and_costs_nothing(kind: str, besieged_scene: Besieged) -> None:
    for _ in range(3):
        ride_out(besieged_scene, kind)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_database_that_restarts_at_any_step_of_a_commit_costs_nothing(
    besieged_scene: Besieged, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "RESEND_SECONDS", 1.0)
    for step in STEPS["commit"]:
        restart_in_commit(besieged_scene, postgres_server, step)
