"""What an agent can do with its own login against others: it is refused by the broker or at the ingress, and seen.

And what an alarm of the broker, and a restart of the database, do to a run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from bootpoint_common import message
from bootpoint_common.identity import new_id
from bootpoint_common.stream.rabbit_agent import MOST_CHANNELS, MOST_CONNECTIONS
from bootpoint_common.units import MiB
from bootpoint_worker import reaper, service
from bootpoint_worker.allowance import BURST
from bootpoint_worker.refusal import MOST
from tests.conftest import SEED
from tests.service.fault import restart_in_commit, ride_out
from tests.service.hostile_agent import MALLORY, POOL, VICTIM, Besieged, besieged
from tests.service.postgres import PostgresServer
from tests.service.process import wait_for
from tests.service.rabbitmq import RabbitServer

#: What an agent's login must not do, by its name. Every one is tried on a channel of its own, as Mallory.
FORBIDDEN: dict[str, Callable[[BlockingChannel], object]] = {
    "declare a queue": lambda channel: channel.queue_declare("mine", durable=True),
    "declare a queue without a name": lambda channel: channel.queue_declare("", exclusive=True),
    "declare its own inbox otherwise": lambda channel: channel.queue_declare(f"agent.{MALLORY}-2"),
    "delete its own inbox": lambda channel: channel.queue_delete(f"agent.{MALLORY}"),
    "delete another inbox": lambda channel: channel.queue_delete(f"agent.{VICTIM}"),
    "purge another inbox": lambda channel: channel.queue_purge(f"agent.{VICTIM}"),
    "purge the ingress": lambda channel: channel.queue_purge(f"pool.{POOL}.in"),
    "read another inbox": lambda channel: channel.basic_consume(f"agent.{VICTIM}", lambda *_: None),
    "fetch from another inbox": lambda channel: channel.basic_get(f"agent.{VICTIM}"),
    "read the ingress": lambda channel: channel.basic_consume(f"pool.{POOL}.in", lambda *_: None),
    "fetch tasks": lambda channel: channel.basic_get(f"pool.{POOL}.tasks"),
    "bind its inbox to another's keys": lambda channel: channel.queue_bind(
        f"agent.{MALLORY}", "bp.agent", f"{VICTIM}.stream.*"
    ),
    "bind its inbox to everything": lambda channel: channel.queue_bind(f"agent.{MALLORY}", "bp.agent", "#"),
    "unbind the ingress": lambda channel: channel.queue_unbind(
        f"pool.{POOL}.in", "bp.agent", f"*.control.{POOL}"
    ),
    "declare an exchange": lambda channel: channel.exchange_declare("mine"),
    "delete the exchange": lambda channel: channel.exchange_delete("bp.agent"),
    "bind exchanges": lambda channel: channel.exchange_bind("amq.topic", "bp.agent", "#"),
    "publish as another": lambda channel: channel.basic_publish("bp.agent", f"{VICTIM}.control.{POOL}", b"x"),
    "publish a task": lambda channel: channel.basic_publish("", f"pool.{POOL}.tasks", b"x"),
    "publish to another's inbox": lambda channel: channel.basic_publish("", f"agent.{VICTIM}", b"x"),
    "say an event": lambda channel: channel.basic_publish("bp.events", f"source.{VICTIM}.shutdown", b"x"),
}


@pytest.fixture(scope="module")
def scene(
    postgres_server: PostgresServer,
    template_database: str,
    rabbitmq_server: RabbitServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Besieged]:
    """One installation for all of these: each of them leaves the victim's job as it should be."""
    name, vhost = postgres_server.create_database(template_database), rabbitmq_server.create_vhost()
    directory = tmp_path_factory.mktemp("besieged")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service, "ALIVE_SECONDS", 0.2)
            with besieged(postgres_server.url(name), vhost, directory, random.Random(SEED)) as made:
                yield made
    finally:
        rabbitmq_server.remove_vhost(vhost)
        postgres_server.drop_database(name)


def test_an_agents_login_declares_binds_reads_and_deletes_nothing_and_the_broker_counts_it(scene: Besieged) -> None:
    broker, answers = scene.broker.vhost.broker, {}
    before = broker.metric("rabbitmq_channels_closed_total")
    with closing(pika.BlockingConnection(pika.URLParameters(scene.url))) as connection:
        for name, act in FORBIDDEN.items():
            channel = connection.channel()
            channel.confirm_delivery()
            try:
                act(channel)
                answers[name] = 0
            except ChannelClosedByBroker as refused:
                answers[name] = refused.reply_code
    assert answers == dict.fromkeys(FORBIDDEN, 403)
    count = before + len(FORBIDDEN)
    wait_for(lambda: broker.metric("rabbitmq_channels_closed_total") >= count, "the broker's count")
    scene.protect()


def test_a_login_has_so_many_connections_and_channels_and_the_others_have_theirs(scene: Besieged) -> None:
    url = pika.URLParameters(scene.url)
    with ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(closing(pika.BlockingConnection(url)))
        with pytest.raises(AMQPConnectionError, match="limit"):
            pika.BlockingConnection(url)
        scene.protect()
    connection = pika.BlockingConnection(url)
    for _ in range(MOST_CHANNELS):
        connection.channel()
    with pytest.raises(AMQPConnectionError, match="limit"):
        connection.channel()
    scene.protect()


def test_a_message_beyond_the_brokers_limit_is_refused(scene: Besieged) -> None:
    with closing(pika.BlockingConnection(pika.URLParameters(scene.url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker, match="larger than configured max size"):
            channel.basic_publish("bp.agent", f"{MALLORY}.control.{POOL}", bytes(64 * MiB + 1))
    scene.protect()


def test_what_an_agent_says_in_anothers_name_or_of_anothers_things_is_refused_by_name(scene: Besieged) -> None:
    run = scene.fleet.row("SELECT uid FROM run ORDER BY id DESC LIMIT 1")
    assert run is not None
    forger = scene.forger
    problem = message.Problem(code="cancelled", message="forged")
    progress = [message.RunProgress(run=new_id()) for _ in range(65)]
    before = len(scene.history())
    scene.publish(
        iter(
            [
                forger.envelope(forger.hello(), name=VICTIM),
                forger.envelope(message.Failed(run=run["uid"], problem=problem)),
                forger.envelope(message.Answer(request=new_id(), answer={})),
                forger.envelope(message.Heartbeat(runs=progress)),
                forger.envelope(message.Heartbeat())[:-1],
            ]
        )
    )
    wait_for(lambda: len(scene.history()) >= before + 6, "six refusals")
    told = scene.history()[before:]
    assert {row["actor"] for row in told} == {f"login {MALLORY}"}
    assert Counter(row["details"]["reason"] for row in told) == Counter(
        {"agent": 2, "no_such_run": 1, "malformed": 1, "altered": 1, "truncated": 1}
    )
    with closing(pika.BlockingConnection(pika.URLParameters(scene.url))) as connection:
        posing = forger.envelope(message.Heartbeat(), name=VICTIM)
        connection.channel().basic_publish("bp.agent", f"{MALLORY}.control.{POOL}", posing)
    wait_for(lambda: scene.refused("agent") == 3, "one more")
    scene.protect()


def test_a_disk_alarm_in_the_midst_of_a_run_is_named_and_costs_nothing(scene: Besieged) -> None:
    ride_out(scene, "disk")


def test_a_database_that_restarts_in_mid_commit_costs_nothing(
    scene: Besieged, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "RESEND_SECONDS", 1.0)
    restart_in_commit(scene, postgres_server, "journal")


def test_a_flood_of_right_messages_is_cut_to_its_share_and_another_agents_run_goes_on(scene: Besieged) -> None:
    quiet = scene.protect()
    scene.publish(scene.heartbeats(1500))
    assert scene.protect() < 3 * quiet + 5.0
    wait_for(lambda: scene.refused("flood") > 1500 - 2 * BURST, "the flood to be refused")
    told = [row for row in scene.history() if row["details"]["reason"] == "flood"]
    assert {row["actor"] for row in told} == {f"login {MALLORY}"}
    assert 0 < len(told) <= 2 * MOST
