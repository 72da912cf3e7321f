"""Either alarm of the broker in the midst of a run, several times over the same points."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bootpoint_worker import service
from tests.service.alarm import ride_out
from tests.service.hostile_agent import besieged
from tests.service.rabbitmq import VirtualHost


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "ALIVE_SECONDS", 0.2)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_an_alarm_in_the_midst_of_a_run_is_named_and_costs_nothing(
    kind: str, database: str, vhost: VirtualHost, tmp_path: Path, rng: random.Random
) -> None:
    with besieged(database, vhost, tmp_path, rng) as scene:
        for _ in range(3):
            ride_out(scene, kind)
