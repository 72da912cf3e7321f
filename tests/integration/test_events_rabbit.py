"""Events over RabbitMQ: what a sender's login may do, and that any scheduler takes what he says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from bootpoint_common.stream.rabbit import event_permissions
from tests.integration.test_events import SHUTDOWN, Scene
from tests.service.fleet import Fleet, fleet
from tests.service.process import wait_for
from tests.service.rabbit_fleet import RabbitBroker, rabbit_broker
from tests.service.rabbitmq import VirtualHost

NAME = "erp-db"


@pytest.fixture
def broker(vhost: VirtualHost) -> Iterator[RabbitBroker]:
    with rabbit_broker(vhost) as made:
        yield made


@pytest.fixture
def installation(database: str, tmp_path: Path, broker: RabbitBroker) -> Iterator[Fleet]:
    with fleet(database, tmp_path, broker) as made:
        yield made


def publish(url: str, route: str, body: bytes = b'{"origin": "ups-1: LOWBATT"}') -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("bp.events", route, body, mandatory=True)


def test_a_message_begins_a_run_whichever_scheduler_takes_it(
    installation: Fleet, broker: RabbitBroker, tmp_path: Path, rng: random.Random
) -> None:
    scene = Scene(installation, tmp_path, rng, SHUTDOWN).start()
    for name in ("s1", "s2"):
        installation.add_worker(name, kind="up")
    url = broker.login("ups", event_permissions(["erp-db"]))
    # The queue is there with the first scheduler; until then the broker tells the sender that nobody hears him.
    wait_for(lambda: broker.vhost.is_bound("events.in", "bp.events"), "a scheduler")
    publish(url, "source.erp-db.shutdown")
    run = installation.wait_until(lambda: installation.row("SELECT * FROM run WHERE state = 'succeeded'"))
    assert (run["trigger"], run["requested_by"], run["last_breath"]) == ("event", "bp.events", True)
    assert scene.newest_equals_source()
    # The machine's own word, a moment later, is the same event, and finds its run done.
    code, told = scene.event("shutdown")
    assert (code, [item["state"] for item in told["items"]]) == (0, ["committed"])
    assert len(scene.runs()) == 1
    assert [row["actor"] for row in scene.history("source_event_repeated")] == ["agent erp-db"]


def test_nobody_who_listens_is_said_to_the_sender(broker: RabbitBroker) -> None:
    with pytest.raises(UnroutableError):
        publish(broker.login("ups", event_permissions()), "source.erp-db.shutdown")


def test_a_senders_login_can_say_events_of_its_sources_and_nothing_else(broker: RabbitBroker) -> None:
    worker = broker.worker_carrier()
    worker.declare_events()
    worker.declare_pool("kvm")
    worker.declare_agent(NAME)
    url = broker.login("ups", event_permissions([NAME]))
    publish(url, "source.erp-db.shutdown")
    publish(url, "source.erp-db.restart")

    def sends(exchange: str, route: str) -> Callable[[BlockingChannel], object]:
        return lambda channel: channel.basic_publish(exchange, route, b"{}", mandatory=True)

    forbidden: list[Callable[[BlockingChannel], object]] = [
        sends("bp.events", "source.web1.shutdown"),
        sends("bp.events", "source.erp-db.shutdown.x"),
        sends("bp.events", "erp-db.control.kvm"),
        sends("bp.agent", "erp-db.control.kvm"),
        sends("", "events.in"),
        sends("", f"agent.{NAME}"),
        lambda channel: channel.basic_get("events.in"),
        lambda channel: channel.queue_declare("own"),
        lambda channel: channel.queue_declare("", exclusive=True),
        lambda channel: channel.queue_bind("events.in", "bp.events", "#"),
        lambda channel: channel.queue_delete("events.in"),
        lambda channel: channel.queue_purge("events.in"),
        lambda channel: channel.exchange_declare("other", "topic"),
        lambda channel: channel.exchange_delete("bp.events"),
    ]
    for act in forbidden:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            with pytest.raises(ChannelClosedByBroker) as refused:
                act(channel)
            assert refused.value.reply_code == 403
    consumer = worker.events(16)
    routes = []
    while (delivery := consumer.get(1.0)) is not None:
        routes.append(delivery.route)
        consumer.ack(delivery.tag)
    assert routes == ["source.erp-db.shutdown", "source.erp-db.restart"]
    worker.close()


def test_the_rights_can_be_given_by_hand() -> None:
    assert event_permissions(["a-b", "web1"]).commands("bp", "ups") == [
        "rabbitmqctl set_permissions -p bp ups '^$' '^bp\\.events$' '^$'",
        r"rabbitmqctl set_topic_permissions -p bp ups bp.events '^source\.(a\-b|web1)\.(shutdown|restart)$' '^$'",
        """rabbitmqctl set_user_limits ups '{"max-connections": 12, "max-channels": 12}'""",
    ]
