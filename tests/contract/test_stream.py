"""One suite over both carriers, in memory and over RabbitMQ; then what only a real broker can do to a stream."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import pika
import pytest

from bootpoint_common.bundle import Kind, Opener, Place, Sealer, encode
from bootpoint_common.crypto import AgentKey
from bootpoint_common.extent import Extent
from bootpoint_common.identity import new_id
from bootpoint_common.stream.carrier import (
    AgentCarrier,
    CarrierLost,
    Confirmed,
    Consumer,
    QueueFull,
    Refused,
    StreamPublisher,
    Undeliverable,
    WorkerCarrier,
)
from bootpoint_common.stream.memory import MemoryBroker
from bootpoint_common.stream.rabbit import agent_permissions, connect_agent, connect_worker, setup
from bootpoint_common.stream.rabbit_part import AGENT_EXCHANGE, stream_key, stream_queue
from bootpoint_common.stream.sender import Outlet, StreamSender
from bootpoint_common.units import GRAIN, KiB, MiB
from tests.service.faulty import Faults, FaultyConsumer, FaultyPublisher
from tests.service.process import wait_for
from tests.service.rabbitmq import RabbitServer, VirtualHost

#: Seconds within which anything that is to come has come.
SOON = 30.0
#: Seconds of waiting for what must not come.
NEVER = 0.3
ALL = 1 << 60
KEY = AgentKey(1, bytes(range(32)))
POINT = UUID("0193b3a0-0000-7000-8000-000000000001")


@dataclass
class Fleet:
    """Carriers of agents and workers over one broker; they are closed with the test."""

    connect_agent: Callable[[str], AgentCarrier]
    connect_worker: Callable[[], WorkerCarrier]
    vhost: VirtualHost | None = None
    made: list[AgentCarrier | WorkerCarrier] = field(default_factory=list)

    def agent(self, name: str = "web1") -> AgentCarrier:
        carrier = self.connect_agent(name)
        self.made.append(carrier)
        return carrier

    def worker(self) -> WorkerCarrier:
        carrier = self.connect_worker()
        self.made.append(carrier)
        return carrier

    def stream(self, agent: str = "web1", limit_bytes: int = 128 * MiB) -> UUID:
        stream = new_id()
        self.worker().declare_stream(agent, stream, limit_bytes)
        return stream

    def close(self) -> None:
        for carrier in self.made:
            carrier.close()
            carrier.close()


def rabbit_fleet(vhost: VirtualHost) -> Fleet:
    """Workers are the administrator; each agent has a user with exactly an agent's rights."""
    setup(vhost.url)
    urls: dict[str, str] = {}

    def agent(name: str) -> AgentCarrier:
        if name not in urls:
            urls[name] = vhost.login(f"{vhost.name}-{name}", agent_permissions(name))
        return connect_agent(urls[name], name)

    return Fleet(agent, lambda: connect_worker(vhost.url), vhost)


@pytest.fixture(params=["memory", "rabbitmq"])
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    if request.param == "memory":
        broker = MemoryBroker()
        made = Fleet(broker.agent_carrier, broker.worker_carrier)
    else:
        made = rabbit_fleet(request.getfixturevalue("vhost"))
    yield made
    made.close()


@pytest.fixture
def rabbit(vhost: VirtualHost) -> Iterator[Fleet]:
    made = rabbit_fleet(vhost)
    yield made
    made.close()


def answers(publisher: StreamPublisher, count: int, first: int = 1) -> list[Confirmed | Refused]:
    """Return what the broker says until it has spoken of ``count`` tags from ``first`` on, one event a tag."""
    events: dict[int, Confirmed | Refused] = {}
    end = time.monotonic() + SOON
    while len(events) < count:
        assert time.monotonic() < end, f"only {events} of {count}"
        for event in publisher.poll(SOON):
            many = isinstance(event, Confirmed) and event.multiple
            for tag in range(first, event.tag + 1) if many else [event.tag]:
                events.setdefault(tag, Confirmed(tag) if isinstance(event, Confirmed) else event)
    return [events[tag] for tag in sorted(events)]


def bodies(consumer: Consumer, count: int) -> list[bytes]:
    """Take and ack ``count`` messages."""
    got = []
    for _ in range(count):
        delivery = consumer.get(SOON)
        assert delivery is not None
        got.append(delivery.body)
        consumer.ack(delivery.tag)
    return got


def test_bundles_are_confirmed_counted_and_handed_out_in_order(fleet: Fleet) -> None:
    worker, stream = fleet.worker(), fleet.stream()
    publisher = fleet.agent().publisher()
    sent = [bytes([number]) * 1000 for number in range(20)]
    assert [publisher.publish(stream, body) for body in sent] == list(range(1, 21))
    assert answers(publisher, 20) == [Confirmed(tag) for tag in range(1, 21)]
    assert worker.depth(stream) == 20
    consumer = worker.consume(stream, 5)
    assert bodies(consumer, 20) == sent
    assert consumer.get(0) is None
    assert consumer.get(NEVER) is None
    wait_for(lambda: worker.depth(stream) == 0, "the stream to be empty")


def test_prefetch_bounds_what_is_handed_out_and_an_ack_covers_all_before_it(fleet: Fleet) -> None:
    worker, stream = fleet.worker(), fleet.stream()
    publisher = fleet.agent().publisher()
    for number in range(6):
        publisher.publish(stream, bytes([number]))
    answers(publisher, 6)
    consumer = worker.consume(stream, 3)
    first = [consumer.get(SOON) for _ in range(3)]
    assert consumer.get(NEVER) is None
    assert first[2] is not None
    consumer.ack(first[2].tag)
    assert bodies(consumer, 3) == [b"\3", b"\4", b"\5"]


def test_what_was_not_acked_comes_back_in_order_and_says_so(fleet: Fleet) -> None:
    worker, stream = fleet.worker(), fleet.stream()
    publisher = fleet.agent().publisher()
    for number in range(6):
        publisher.publish(stream, bytes([number]))
    answers(publisher, 6)
    first = worker.consume(stream, 4)
    taken = [first.get(SOON) for _ in range(4)]
    assert [one.redelivered for one in taken if one] == [False] * 4
    assert taken[0] is not None
    first.ack(taken[0].tag)
    first.close()
    first.close()
    second = worker.consume(stream, 10)
    again = [second.get(SOON) for _ in range(5)]
    assert [one.body[0] for one in again if one] == [1, 2, 3, 4, 5]
    assert [one.redelivered for one in again if one][:3] == [True] * 3
    with pytest.raises(CarrierLost):
        first.get(0)
    with pytest.raises(CarrierLost):
        first.ack(1)


def test_one_consumer_at_a_time_and_the_next_takes_over(fleet: Fleet) -> None:
    worker, stream = fleet.worker(), fleet.stream()
    publisher = fleet.agent().publisher()
    first, second = worker.consume(stream, 2), fleet.worker().consume(stream, 2)
    for number in range(4):
        publisher.publish(stream, bytes([number]))
    assert bodies(first, 2) == [b"\0", b"\1"]
    assert second.get(NEVER) is None
    first.close()
    assert bodies(second, 2) == [b"\2", b"\3"]


def test_a_carrier_that_ends_gives_back_what_it_held(fleet: Fleet) -> None:
    stream, worker = fleet.stream(), fleet.worker()
    agent = fleet.agent()
    publisher = agent.publisher()
    publisher.publish(stream, b"x")
    answers(publisher, 1)
    assert worker.consume(stream, 1).get(SOON) is not None
    worker.close()
    agent.close()
    with pytest.raises(CarrierLost):
        agent.publisher()
    with pytest.raises(CarrierLost):
        publisher.publish(stream, b"y")
    with pytest.raises(CarrierLost):
        publisher.poll(0)
    assert bodies(fleet.worker().consume(stream, 1), 1) == [b"x"]


def test_a_stream_that_does_not_exist_returns_the_bundle(fleet: Fleet) -> None:
    worker = fleet.worker()
    publisher = fleet.agent().publisher()
    missing, stream = new_id(), fleet.stream()
    assert worker.depth(missing) is None
    with pytest.raises(CarrierLost):
        worker.consume(missing, 1)
    publisher.publish(missing, b"lost")
    publisher.publish(stream, b"kept")
    assert answers(publisher, 2) == [Refused(1, returned=True), Confirmed(2)]
    worker.delete_stream(missing)
    assert worker.depth(stream) == 1


def test_an_agent_reaches_no_other_agents_stream(fleet: Fleet) -> None:
    stream = fleet.stream("web2")
    publisher = fleet.agent("web1").publisher()
    publisher.publish(stream, b"forged")
    assert answers(publisher, 1) == [Refused(1, returned=True)]
    assert fleet.worker().depth(stream) == 0


def test_a_full_stream_refuses_and_takes_again_when_it_was_drained(fleet: Fleet) -> None:
    stream, worker = fleet.stream(limit_bytes=64 * KiB), fleet.worker()
    publisher = fleet.agent().publisher()
    for _ in range(20):
        publisher.publish(stream, bytes(16 * KiB))
    said = answers(publisher, 20)
    taken = [event for event in said if isinstance(event, Confirmed)]
    assert 3 <= len(taken) <= 5
    assert said[len(taken) :] == [Refused(tag) for tag in range(len(taken) + 1, 21)]
    assert worker.depth(stream) == len(taken)
    bodies(worker.consume(stream, 0), len(taken))
    publisher.publish(stream, b"again")
    assert answers(publisher, 1, first=21) == [Confirmed(21)]


def test_declaring_again_changes_nothing(fleet: Fleet) -> None:
    worker, stream = fleet.worker(), fleet.stream(limit_bytes=MiB)
    publisher = fleet.agent().publisher()
    publisher.publish(stream, b"x")
    answers(publisher, 1)
    for _ in range(2):
        worker.declare_stream("web1", stream, MiB)
        worker.declare_agent("web1")
        worker.declare_pool("kvm")
    assert worker.depth(stream) == 1


def test_a_deleted_stream_ends_its_consumer_and_returns_bundles(fleet: Fleet) -> None:
    stream, worker = fleet.stream(), fleet.worker()
    publisher = fleet.agent().publisher()
    consumer = worker.consume(stream, 1)
    threading.Timer(0.2, worker.delete_stream, [stream]).start()
    with pytest.raises(CarrierLost):
        consumer.get(SOON)
    publisher.publish(stream, b"x")
    assert answers(publisher, 1) == [Refused(1, returned=True)]
    assert worker.depth(stream) is None


def test_a_poll_that_waits_can_be_woken(fleet: Fleet) -> None:
    publisher = fleet.agent().publisher()
    threading.Timer(0.2, publisher.wake).start()
    started = time.monotonic()
    assert publisher.poll(SOON) == []
    assert time.monotonic() - started < SOON / 2
    publisher.wake()
    assert publisher.poll(SOON) == []
    assert time.monotonic() - started < SOON / 2


def test_control_messages_go_both_ways(fleet: Fleet) -> None:
    worker, agent = fleet.worker(), fleet.agent()
    worker.declare_pool("kvm")
    worker.declare_agent("web1")
    agent.send("kvm", b"hello")
    ingress, other = worker.ingress("kvm", 1), worker.ingress("kvm", 1)
    assert bodies(ingress, 1) == [b"hello"]
    inbox = agent.inbox()
    worker.send("web1", b"run")
    worker.send("web1", bytes(4 * MiB))
    assert bodies(inbox, 2) == [b"run", bytes(4 * MiB)]
    agent.send("kvm", b"1")
    agent.send("kvm", b"2")
    # Both take part: with a prefetch of one, each holds one.
    assert {one.body for one in (ingress.get(SOON), other.get(SOON)) if one} == {b"1", b"2"}
    assert not agent.blocked


def test_an_ingress_holds_so_many_messages_and_takes_more_when_it_was_drained(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("memory", "rabbit_worker"):
        monkeypatch.setattr(f"bootpoint_common.stream.{place}.CONTROL_MESSAGES", 20)
    worker, agent = fleet.worker(), fleet.agent()
    worker.declare_pool("kvm")
    for number in range(20):
        agent.send("kvm", bytes([number]))
    with pytest.raises(QueueFull, match="full"):
        agent.send("kvm", b"one too many")
    consumer = worker.ingress("kvm", 10)
    assert bodies(consumer, 20) == [bytes([number]) for number in range(20)]
    agent.send("kvm", b"again")
    assert bodies(consumer, 1) == [b"again"]


def test_a_control_message_says_under_whose_key_it_came(fleet: Fleet) -> None:
    worker = fleet.worker()
    worker.declare_pool("kvm")
    fleet.agent("web1").send("kvm", b"x")
    delivery = worker.ingress("kvm", 1).get(SOON)
    assert delivery is not None
    assert delivery.route == "web1.control.kvm"


def test_control_messages_to_nobody_are_refused(fleet: Fleet) -> None:
    with pytest.raises(Undeliverable) as of_an_agent:
        fleet.agent().send("nowhere", b"x")
    with pytest.raises(Undeliverable) as of_a_worker:
        fleet.worker().send("nobody", b"x")
    assert not isinstance(of_an_agent.value, QueueFull)
    assert not isinstance(of_a_worker.value, QueueFull)


def test_an_inbox_has_one_reader(fleet: Fleet) -> None:
    fleet.worker().declare_agent("web1")
    agent = fleet.agent()
    first = agent.inbox()
    with pytest.raises(CarrierLost):
        fleet.agent().inbox()
    first.close()
    fleet.worker().send("web1", b"x")
    assert bodies(agent.inbox(), 1) == [b"x"]


class Way:
    """A stream's whole way: sealed, sent through a faulty publisher, consumed, opened; nothing may be missing.

    Args:
        outlet: The agent's end.
        connect: Makes a consumer.
        bundles: How many are to arrive.
        size: Payload of each.
        mend: What the worker does about a stream that nothing comes out of.
    """

    def __init__(
        self,
        outlet: Outlet,
        connect: Callable[[], Consumer],
        *,
        bundles: int,
        size: int = 512,
        mend: Callable[[], None] = lambda: None,
    ) -> None:
        self.outlet = outlet
        self.sealer = Sealer(KEY, POINT, outlet.stream)
        self.opener = Opener({1: KEY.secret}, POINT, outlet.stream, bundles * GRAIN + size)
        self._connect = connect
        self._bundles = bundles
        self._mend = mend
        self._payload = os.urandom(size)
        self.agent = threading.Thread(target=self._seal, daemon=True)
        self.agent.start()

    def _seal(self) -> None:
        extent = [Extent(self._bundles * GRAIN, len(self._payload))]
        for _ in range(self._bundles):
            body = self.sealer.seal(encode(Kind.DATA, extent, self._payload))
            self.outlet.offer(body, self.sealer.offset)

    def receive(self, timeout: float = 90.0) -> None:
        """Open all bundles, each once, dropping what comes again and what lies beyond a gap."""
        end, consumer = time.monotonic() + timeout, None
        while self.opener.sequence < self._bundles:
            assert time.monotonic() < end, self._stand()
            try:
                consumer = consumer or self._connect()
                self._take(consumer)
            except CarrierLost:
                if consumer is not None:
                    consumer.close()
                consumer = None
                time.sleep(0.1)
        self.agent.join(SOON)
        assert not self.agent.is_alive()
        assert self.opener.chain == self.sealer.chain
        if consumer is not None:
            consumer.close()

    def _stand(self) -> str:
        outlet = self.outlet
        return (
            f"{self.opener.sequence} of {self._bundles} arrived; of {self.sealer.offset} bytes"
            f" {outlet.confirmed_offset} are confirmed, {outlet.republished_bytes} were published again;"
            f" the broker has {'no queue' if outlet.returned else 'a queue'} for them"
        )

    def _take(self, consumer: Consumer) -> None:
        delivery = consumer.get(0.5)
        if delivery is None:
            # Nothing comes although something is missing: the worker would wait for longer before it asks.
            self._mend()
            self.outlet.resend_from(self.opener.sequence)
            return
        if self.opener.place(delivery.body) is Place.NEXT:
            assert self.opener.open(delivery.body).payload == self._payload
        consumer.ack(delivery.tag)


FAULTS = [
    Faults(refuse=0.1),
    Faults(lose=0.05),
    Faults(repeat=0.2),
    Faults(reorder=0.1),
    Faults(disconnect=0.03),
    Faults(refuse=0.05, lose=0.02, repeat=0.1, reorder=0.05, disconnect=0.02),
]


@pytest.mark.parametrize("faults", FAULTS, ids=["refuse", "lose", "repeat", "reorder", "disconnect", "all"])
def test_every_bundle_arrives_once_in_order_whatever_happens(
    fleet: Fleet, faults: Faults, rng: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Connections that are lost every few milliseconds would make the sender wait ever longer.
    monkeypatch.setattr("bootpoint_common.stream.sender.CONNECT_LAST", 0.2)
    agent, worker, stream = fleet.agent(), fleet.worker(), fleet.stream()
    sender = StreamSender(connect=lambda: FaultyPublisher(agent.publisher(), rng, faults))
    outlet = sender.open(stream)
    outlet.allow(ALL)
    sender.start()
    try:
        way = Way(outlet, lambda: FaultyConsumer(worker.consume(stream, 16), rng, faults), bundles=100)
        way.receive()
        assert outlet.wait_drained(SOON)
        assert outlet.confirmed_offset == way.sealer.offset
    finally:
        sender.close()


def test_several_disks_share_a_connection_and_each_keeps_its_credit(fleet: Fleet) -> None:
    agent, worker = fleet.agent(), fleet.worker()
    streams = [fleet.stream() for _ in range(3)]
    sender = StreamSender(connect=agent.publisher)
    outlets = [sender.open(stream) for stream in streams]
    sender.start()
    try:
        for outlet in outlets:
            for number in range(10):
                outlet.offer(bytes(100), (number + 1) * 100)
        outlets[0].allow(1000)
        outlets[1].allow(550)
        assert outlets[0].wait_drained(SOON)
        wait_for(lambda: outlets[1].confirmed_offset == 500, "the credit to be used")
        assert [worker.depth(stream) for stream in streams] == [10, 5, 0]
        assert [outlet.starved_seconds > 0 for outlet in outlets] == [False, True, True]
        outlets[2].allow(1000)
        assert outlets[2].wait_drained(SOON)
        assert worker.depth(streams[2]) == 10
    finally:
        sender.close()


# --- what only a real broker does ---------------------------------------------------------------------------------


def test_streams_have_the_arguments_that_losses_taught(rabbit: Fleet) -> None:
    stream, vhost = rabbit.stream(limit_bytes=5 * MiB), rabbit.vhost
    assert vhost is not None
    queue = vhost.broker.api("GET", f"queues/{vhost.name}/stream.{stream}")
    assert queue["durable"]
    assert not queue["auto_delete"]
    assert queue["arguments"] == {
        "x-overflow": "reject-publish",
        "x-max-length-bytes": 5 * MiB,
        "x-single-active-consumer": True,
    }


def test_an_agents_login_can_do_nothing_else(rabbit: Fleet) -> None:
    """The rights of the broker, not our code, hold: a mad agent that speaks AMQP as it likes is refused."""
    vhost, worker = rabbit.vhost, rabbit.worker()
    assert vhost is not None
    worker.declare_agent("web1")
    worker.declare_agent("web2")
    stream = rabbit.stream("web2")
    rabbit.agent("web1").inbox().close()
    url = rabbit.made[-1]._url  # type: ignore[union-attr]
    posing = connect_agent(url, "web2")
    with pytest.raises(CarrierLost, match=r"(?i)access_refused|access to"):
        posing.inbox()
    with pytest.raises(CarrierLost):
        posing.send("kvm", b"forged")
    own = connect_worker(url)
    with pytest.raises(CarrierLost):
        own.send("web2", b"forged")
    publisher = posing.publisher()
    publisher.publish(stream, b"forged")
    with pytest.raises(CarrierLost, match=r"(?i)access_refused|access to"):
        publisher.poll(SOON)
    refused: list[Callable[[], object]] = [
        lambda: own.declare_stream("web1", new_id(), MiB),
        lambda: own.consume(stream, 1),
        lambda: own.ingress("kvm", 1),
        lambda: own.delete_stream(stream),
        own.setup,
    ]
    for act in refused:
        with pytest.raises(CarrierLost):
            act()
    assert worker.depth(stream) == 0
    own.close()
    posing.close()


def test_the_rights_can_be_given_by_hand() -> None:
    assert agent_permissions("web1").commands("bp", "web1") == [
        "rabbitmqctl set_permissions -p bp web1 '^$' '^bp\\.agent$' '^agent\\.web1$'",
        "rabbitmqctl set_topic_permissions -p bp web1 bp.agent '^web1\\.(control|stream)\\.[^.]+$' '^$'",
        """rabbitmqctl set_user_limits web1 '{"max-connections": 12, "max-channels": 12}'""",
    ]


def test_a_stream_that_lost_its_binding_is_bound_again_with_what_is_in_it(rabbit: Fleet) -> None:
    agent, worker, stream = rabbit.agent(), rabbit.worker(), rabbit.stream()
    publisher, consumer = agent.publisher(), worker.consume(stream, 4)
    publisher.publish(stream, b"before")
    assert answers(publisher, 1) == [Confirmed(1)]
    assert rabbit.vhost is not None
    with pika.BlockingConnection(pika.URLParameters(rabbit.vhost.url)) as connection:
        connection.channel().queue_unbind(stream_queue(stream), AGENT_EXCHANGE, stream_key("web1", stream))
    publisher.publish(stream, b"lost")
    assert answers(publisher, 1, first=2) == [Refused(2, returned=True)]
    for _ in range(2):
        worker.bind_stream("web1", stream)
    publisher.publish(stream, b"after")
    assert answers(publisher, 1, first=3) == [Confirmed(3)]
    assert bodies(consumer, 2) == [b"before", b"after"]
    assert consumer.get(NEVER) is None


def test_a_stream_goes_on_when_the_broker_was_restarted(rabbit: Fleet) -> None:
    go_on_after(rabbit, lambda broker: broker.stop())


def go_on_after(rabbit: Fleet, end: Callable[[RabbitServer], None]) -> None:
    """End the broker while half of a stream is in it and the rest waits for credit; all of it arrives in the end."""
    vhost = rabbit.vhost
    assert vhost is not None
    agent, worker, stream = rabbit.agent(), rabbit.worker(), rabbit.stream()
    sender = StreamSender(connect=agent.publisher)
    outlet = sender.open(stream)
    sender.start()
    try:
        way = Way(
            outlet, lambda: worker.consume(stream, 16), bundles=400, size=16 * KiB,
            mend=lambda: worker.bind_stream("web1", stream),
        )  # fmt: skip
        outlet.allow(200 * 16 * KiB)
        wait_for(lambda: outlet.starved_seconds > 0, "the credit to be used")
        outlet.wait_drained(1)
        assert 0 < outlet.confirmed_offset < 400 * 16 * KiB
        end(vhost.broker)
        outlet.allow(ALL)
        vhost.broker.start()
        way.receive()
        assert outlet.wait_drained(SOON)
    finally:
        sender.close()


def test_under_a_memory_alarm_a_full_stream_is_drained_and_acked(rabbit: Fleet) -> None:
    vhost = rabbit.vhost
    assert vhost is not None
    agent, worker, stream = rabbit.agent(), rabbit.worker(), rabbit.stream()
    sender = StreamSender(connect=agent.publisher)
    outlet = sender.open(stream)
    outlet.allow(8 * MiB)
    sender.start()
    try:
        way = Way(outlet, lambda: worker.consume(stream, 16), bundles=400, size=32 * KiB)
        wait_for(lambda: outlet.starved_seconds > 0, "the stream to be full")
        wait_for(lambda: (worker.depth(stream) or 0) > 200, "the stream to be full")
        vhost.broker.alarm("memory", on=True)
        outlet.allow(ALL)
        wait_for(lambda: agent.blocked, "the agent to see that the broker holds it back")
        before = way.opener.sequence
        consumer = worker.consume(stream, 16)
        for _ in range(150):
            way._take(consumer)
        assert way.opener.sequence == before + 150
        # The acks reach the broker although publishers are held back.
        wait_for(lambda: (worker.depth(stream) or 0) < 120, "the stream to shrink")
        assert agent.blocked
        consumer.close()
        vhost.broker.alarm("memory", on=False)
        wait_for(lambda: not agent.blocked, "the alarm to clear")
        way.receive()
    finally:
        vhost.broker.alarm("memory", on=False)
        sender.close()


def test_a_publisher_that_is_held_back_can_be_closed_at_once(rabbit: Fleet) -> None:
    vhost = rabbit.vhost
    assert vhost is not None
    agent, stream = rabbit.agent(), rabbit.stream()
    publisher = agent.publisher()
    vhost.broker.alarm("memory", on=True)
    try:
        publisher.publish(stream, b"x")
        wait_for(lambda: agent.blocked, "the agent to see that the broker holds it back")
        started = time.monotonic()
        agent.close()
        assert time.monotonic() - started < 10
    finally:
        vhost.broker.alarm("memory", on=False)


def test_an_alarm_that_outlives_connections_is_told_once_and_until_it_ends(
    rabbit: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootpoint_common.stream.rabbit_access.BLOCKED_TIMEOUT", 1.0)
    vhost, worker = rabbit.vhost, rabbit.worker()
    assert vhost is not None
    vhost.broker.alarm("memory", on=True)
    try:
        wait_for(lambda: asked(worker), "the worker to be told of the alarm")
        # Three connections are given up meanwhile, one after the other.
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            assert asked(worker)
            time.sleep(0.05)
    finally:
        vhost.broker.alarm("memory", on=False)
    wait_for(lambda: not asked(worker), "the worker to be told that the alarm is over")


def asked(worker: WorkerCarrier) -> bool:
    """Have the broker asked, and return what is known until it answers."""
    worker.ask_alarm()
    return worker.blocked


def test_a_stream_deleted_under_the_agent_is_seen_and_does_no_harm(rabbit: Fleet) -> None:
    agent, worker = rabbit.agent(), rabbit.worker()
    gone, kept = rabbit.stream(), rabbit.stream()
    sender = StreamSender(connect=agent.publisher)
    lost, going = sender.open(gone), sender.open(kept)
    sender.start()
    try:
        for outlet in (lost, going):
            outlet.allow(ALL)
            outlet.offer(b"x", 1)
            assert outlet.wait_drained(SOON)
        worker.delete_stream(gone)
        lost.offer(b"y", 2)
        wait_for(lambda: lost.returned, "the agent to see that the stream is gone")
        going.offer(b"y", 2)
        assert going.wait_drained(SOON)
        assert sender.connected
        assert worker.depth(kept) == 2
    finally:
        sender.close()


def test_heartbeats_are_served_while_the_user_is_busy(rabbit: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootpoint_common.stream.rabbit_access.HEARTBEAT", 1)
    stream, worker = rabbit.stream(), rabbit.worker()
    publisher, consumer = rabbit.agent().publisher(), worker.consume(stream, 1)
    # Nothing is called for three heartbeats, after which the broker would have closed a silent connection.
    time.sleep(3.5)
    publisher.publish(stream, b"x")
    assert answers(publisher, 1) == [Confirmed(1)]
    assert bodies(consumer, 1) == [b"x"]


def test_no_broker_is_said_at_once() -> None:
    nowhere = "amqp://a:b@127.0.0.1:1/%2F"
    agent, worker = connect_agent(nowhere, "web1"), connect_worker(nowhere)
    for act in (
        agent.publisher,
        agent.inbox,
        lambda: agent.send("kvm", b"x"),
        lambda: worker.send("web1", b"x"),
        lambda: worker.depth(new_id()),
        lambda: worker.consume(new_id(), 1),
        lambda: setup(nowhere),
    ):
        with pytest.raises(CarrierLost):
            act()
    agent.close()
    worker.close()
