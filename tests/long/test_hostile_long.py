"""What an agent does for as long as it likes: floods without a pause, and a message without an end."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPError

from bootpoint_common.units import GiB, KiB
from bootpoint_worker import service
from bootpoint_worker.refusal import MOST
from tests.service.fault import METRICS, shown
from tests.service.hostile_agent import MALLORY, POOL, Besieged, besieged
from tests.service.process import wait_for
from tests.service.rabbitmq import VirtualHost

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def scene(
    database: str, vhost: VirtualHost, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Besieged]:
    monkeypatch.setattr(service, "ALIVE_SECONDS", 0.2)
    with besieged(database, vhost, tmp_path, rng) as made:
        yield made


@pytest.mark.parametrize("what", ["right", "garbage", "large"])
def test_runs_go_on_under_a_flood_without_a_pause(scene: Besieged, what: str) -> None:
    bodies = {
        "right": list(scene.heartbeats(1000)),
        "garbage": [scene.rng.randbytes(scene.rng.randrange(500)) for _ in range(1000)],
        "large": [b"\x01\x01" + bytes(900 * KiB)],
    }[what]
    quiet = max(scene.protect() for _ in range(3))
    with scene.flooding(bodies):
        wait_for(lambda: scene.refused("flood") > 1000, "the flood")
        took = [scene.protect() for _ in range(5)]
    assert max(took) < 10 * quiet + 4.0, (quiet, took)
    told = [row for row in scene.history() if row["details"]["reason"] == "flood"]
    assert 0 < len(told) <= MOST
    assert {row["actor"] for row in told} == {f"login {MALLORY}"}


def test_a_message_without_an_end_is_named_and_ended_by_closing_its_connection(scene: Besieged) -> None:
    broker = scene.broker.vhost.broker
    connection = pika.BlockingConnection(pika.URLParameters(scene.url))

    def send() -> None:
        with suppress(AMQPError):
            connection.channel().basic_publish("bp.agent", f"{MALLORY}.control.{POOL}", bytes(2 * GiB))
            connection.process_data_events(time_limit=300.0)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    wait_for(lambda: broker.metric(METRICS["memory"]) == 1, "the memory alarm")
    scene.write()
    run = scene.fleet.run(scene.job)
    wait_for(lambda: shown(scene)["broker_blocked_at"], "the alarm to be shown")
    broker.ctl("close_all_user_connections", f"{scene.broker.vhost.name}-{MALLORY}", "sends without an end")
    sending.join(60.0)
    assert not sending.is_alive()
    wait_for(lambda: broker.metric(METRICS["memory"]) == 0, "the end of the alarm")
    scene.fleet.wait(run)
    assert scene.newest_equals_source()
