"""A publisher with confirms, and a consumer, each over a link of its own.

Publishing and consuming never share a connection: under a memory alarm the broker stops reading from a connection
that publishes, acks would no longer reach it, and the alarm would never clear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pika
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from bootpoint_common.stream.carrier import CarrierLost, Confirmed, Delivery, QueueFull, Refused, Undeliverable
from bootpoint_common.stream.rabbit_link import Link

#: Exchange that agents publish to.
AGENT_EXCHANGE = "bp.agent"

#: Exchange that holders of an event credential publish to.
EVENT_EXCHANGE = "bp.events"

#: Queue of what they say, and the keys that it is bound to.
EVENT_QUEUE, EVENT_KEYS = "events.in", "source.#"

#: Seconds that such a message waits for a scheduler; later than that it would say what was.
EVENT_SECONDS = 300

#: Seconds that a control message may wait for its confirm.
SEND_TIMEOUT = 30.0

_PERSISTENT = 2


def stream_queue(stream: UUID) -> str:
    """Return the name of a stream's queue."""
    return f"stream.{stream}"


def stream_key(agent: str, stream: UUID) -> str:
    """Return the routing key that an agent publishes a stream's bundles under."""
    return f"{agent}.stream.{stream}"


class RabbitPublisher:
    """Publishes with confirms, persistent and mandatory: `carrier.StreamPublisher`, used by one thread.

    Args:
        params: Where to.
        agent: Whose streams `publish` addresses.
    """

    def __init__(self, params: pika.URLParameters, agent: str = "") -> None:
        self._agent = agent
        self._tag = 0
        self._unconfirmed: set[int] = set()
        self._events: list[Confirmed | Refused] = []
        self._woken = False
        self._answered = False
        self._link = Link(params, self._setup)

    def open(self) -> None:
        """Connect.

        Raises:
            CarrierLost: It can't.
        """
        self._link.open()

    @property
    def blocked(self) -> bool:
        """Whether the broker holds this publisher back; of one that is gone, whether it did when it went."""
        return self._link.blocked

    @property
    def answered(self) -> bool:
        """Whether the broker has taken anything from it."""
        return self._answered

    @property
    def alive(self) -> bool:
        """Whether it may be used."""
        return self._link.lost is None

    def publish(self, stream: UUID, body: bytes) -> int:
        """Send one bundle, and return its tag.

        Raises:
            CarrierLost: Nothing is known about any unconfirmed publication.
        """
        return self.publish_to(AGENT_EXCHANGE, stream_key(self._agent, stream), body)

    def publish_to(self, exchange: str, routing_key: str, body: bytes) -> int:
        """Send one message, and return its tag.

        Raises:
            CarrierLost: Nothing is known about any unconfirmed publication.
        """
        with self._link.changed:
            self._link.require()
            self._tag = tag = self._tag + 1
            self._unconfirmed.add(tag)
        # The message id is our tag: a returned message carries it, and nothing else that tells which one it is.
        properties = BasicProperties(delivery_mode=_PERSISTENT, message_id=str(tag))
        self._link.post(lambda channel: channel.basic_publish(exchange, routing_key, body, properties, mandatory=True))
        return tag

    def poll(self, timeout: float) -> list[Confirmed | Refused]:
        """Return what the broker said since the last call; waits up to ``timeout`` seconds for the first.

        Raises:
            CarrierLost: Nothing is known about any unconfirmed publication.
        """
        link = self._link
        with link.changed:
            link.changed.wait_for(lambda: self._events or self._woken or link.lost is not None, timeout)
            self._woken = False
            events, self._events = self._events, []
            if not events:
                link.require()
            return events

    def send(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Send one message and return when the broker holds it; for publishers that do nothing else.

        Raises:
            QueueFull: Its queue is full.
            Undeliverable: There is no queue for it.
            CarrierLost: The broker isn't reachable, or said nothing for `SEND_TIMEOUT`.
        """
        tag = self.publish_to(exchange, routing_key, body)
        while events := self.poll(SEND_TIMEOUT):
            for event in events:
                if event.tag == tag or (isinstance(event, Confirmed) and event.multiple and event.tag > tag):
                    if isinstance(event, Refused):
                        if event.returned:
                            raise Undeliverable(f"the broker has no queue for {routing_key!r}")
                        raise QueueFull(f"the broker's queue for {routing_key!r} is full")
                    return
        raise CarrierLost(f"the broker did not confirm within {SEND_TIMEOUT:.0f} s")

    def wake(self) -> None:
        """Make a `poll` that waits, or else the next one, return at once; safe from any thread."""
        with self._link.changed:
            self._woken = True
            self._link.changed.notify_all()

    def close(self) -> None:
        """May be called twice."""
        self._link.close()

    def _setup(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._link.ready())

    def _on_return(self, _channel: Channel, _method: Any, properties: BasicProperties, _body: bytes) -> None:
        # It comes before the ack that every returned message gets too.
        tag = int(properties.message_id or 0)
        self._say([Refused(tag, returned=True)], {tag})

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag, multiple = method.delivery_tag, method.multiple
        with self._link.changed:
            concerned = {one for one in self._unconfirmed if one <= tag} if multiple else {tag}
        if isinstance(method, Basic.Ack):
            self._say([Confirmed(tag, multiple)], concerned)
        else:
            # Each by its name: one word of the broker may refuse bundles of several streams.
            self._say([Refused(one) for one in sorted(concerned & self._unconfirmed)], concerned)

    def _say(self, events: Sequence[Confirmed | Refused], answered: set[int]) -> None:
        with self._link.changed:
            self._unconfirmed -= answered
            self._answered = True
            self._events.extend(events)
            self._link.changed.notify_all()


class RabbitConsumer:
    """Takes messages off one queue: `carrier.Consumer`, used by one thread.

    Args:
        params: Where to.
        queue: The queue, which exists.
        prefetch: Messages that are handed out before one is acked.
        exclusive: Whether to be the only one.
    """

    def __init__(self, params: pika.URLParameters, queue: str, prefetch: int, *, exclusive: bool = False) -> None:
        self._queue = queue
        self._prefetch = prefetch
        self._exclusive = exclusive
        self._acked = 0
        self._deliveries: deque[Delivery] = deque()
        self._link = Link(params, self._setup)

    def open(self) -> None:
        """Connect and begin.

        Raises:
            CarrierLost: No broker, no such queue, or somebody else has it for himself.
        """
        self._link.open()

    @property
    def alive(self) -> bool:
        """Whether it may be used."""
        return self._link.lost is None

    def get(self, timeout: float) -> Delivery | None:
        """Return the next message, or None after ``timeout`` seconds.

        Raises:
            CarrierLost: The connection or the queue is gone.
        """
        link = self._link
        with link.changed:
            link.changed.wait_for(lambda: self._deliveries or link.lost is not None, timeout)
            # What came over a connection that is gone can't be acked any more, and comes again.
            link.require()
            return self._deliveries.popleft() if self._deliveries else None

    def ack(self, tag: int) -> None:
        """Acknowledge every message up to and including ``tag``.

        Raises:
            CarrierLost: The connection is gone, and the messages come again.
        """
        if tag > self._acked:
            # The broker closes the channel of who acks something twice.
            self._link.post(partial(Channel.basic_ack, delivery_tag=tag, multiple=True))
            self._acked = tag
        self._link.require()

    def close(self) -> None:
        """Give back what wasn't acked; may be called twice."""
        self._link.close()

    def _setup(self, channel: Channel) -> None:
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _: self._consume(channel))

    def _consume(self, channel: Channel) -> None:
        channel.basic_consume(
            self._queue, self._on_message, exclusive=self._exclusive, callback=lambda _: self._link.ready()
        )

    def _on_message(self, _channel: Channel, method: Any, _properties: BasicProperties, body: bytes) -> None:
        with self._link.changed:
            self._deliveries.append(Delivery(method.delivery_tag, body, method.redelivered, method.routing_key))
            self._link.changed.notify_all()
