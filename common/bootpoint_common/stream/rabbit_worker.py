"""The workers' end of RabbitMQ: they alone declare and delete queues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ChannelClosedByBroker,
    ProbableAuthenticationError,
)

from bootpoint_common.stream.carrier import CONTROL_LIMIT, CONTROL_MESSAGES, EVENT_LIMIT, CarrierLost
from bootpoint_common.stream.rabbit_access import parameters, refusal
from bootpoint_common.stream.rabbit_agent import agent_queue
from bootpoint_common.stream.rabbit_part import (
    AGENT_EXCHANGE,
    EVENT_EXCHANGE,
    EVENT_KEYS,
    EVENT_QUEUE,
    EVENT_SECONDS,
    RabbitConsumer,
    RabbitPublisher,
    stream_key,
    stream_queue,
)
from bootpoint_common.tls import NOTHING_OF_OURS, Trust

T = TypeVar("T")

#: Deliveries of one message before a quorum queue drops it. -1, "for ever", drops at once on RabbitMQ 3.10, and
#: the default of RabbitMQ 4 is 20.
DELIVERY_LIMIT = 1_000_000

#: A routing key that no queue has.
_NOBODY = "bootpoint.nobody"

_NOT_FOUND, _PRECONDITION_FAILED = 404, 406


class _Admin:
    """Declares, deletes and asks, over a connection that is made anew when it was lost; thread-safe.

    Every operation is idempotent, so one that met a lost connection is simply done again.
    """

    def __init__(self, params: pika.URLParameters) -> None:
        # Nobody would serve heartbeats between two calls; TCP's keepalive notices a broker that vanished.
        params.heartbeat = 0
        self._params = params
        self._lock = threading.Lock()
        self._connection: pika.BlockingConnection | None = None
        self._channel: BlockingChannel | None = None

    def do(self, action: Callable[[BlockingChannel], T]) -> T:
        """Run an operation.

        Raises:
            CarrierLost: The broker isn't reachable.
            ChannelClosedByBroker: The broker refuses.
        """
        with self._lock:
            try:
                try:
                    return action(self._open())
                except ChannelClosedByBroker:
                    raise
                except AMQPError:
                    self._drop()
                    return action(self._open())
            except ChannelClosedByBroker:
                raise
            except (AMQPError, OSError) as exc:
                self._drop()
                why = None if isinstance(exc, ProbableAuthenticationError) else refusal(self._params)
                raise CarrierLost(why or f"the broker isn't reachable: {exc!r}") from exc

    def close(self) -> None:
        """May be called twice."""
        with self._lock:
            self._drop()

    def _open(self) -> BlockingChannel:
        if self._connection is None or not self._connection.is_open:
            self._connection = pika.BlockingConnection(self._params)
            self._channel = None
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
        return self._channel

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.is_open:
            with suppress(AMQPConnectionError):  # it is gone, which is what was wanted
                connection.close()


class RabbitWorkerCarrier:
    """Our own processes' end: `carrier.WorkerCarrier`.

    Args:
        url: AMQP URL of a user with all rights on the virtual host.
        trust: Whom an encrypted connection believes, and what it shows.

    Raises:
        CarrierLost: The certificates can't be used.
    """

    def __init__(self, url: str, trust: Trust = NOTHING_OF_OURS) -> None:
        self._url = url
        self._trust = trust
        self._admin = _Admin(parameters(url, "worker: queues", trust))
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._control: RabbitPublisher | None = None
        self._was_blocked = False
        self._consumers: list[RabbitConsumer] = []
        self._closed = False

    def setup(self) -> None:
        """Make the exchanges, idempotent."""
        for exchange in (AGENT_EXCHANGE, EVENT_EXCHANGE):
            self._declare(
                partial(BlockingChannel.exchange_declare, exchange=exchange, exchange_type="topic", durable=True)
            )

    def declare_agent(self, agent: str) -> None:
        """Make the agent's queue, idempotent."""
        self._declare_queue(agent_queue(agent), CONTROL_LIMIT)

    def declare_pool(self, pool: str) -> None:
        """Make the pool's ingress queue and its binding, idempotent."""
        queue = f"pool.{pool}.in"
        self._declare_queue(queue, CONTROL_LIMIT, most=CONTROL_MESSAGES)
        self._declare(lambda channel: channel.queue_bind(queue, AGENT_EXCHANGE, f"*.control.{pool}"))

    def declare_events(self) -> None:
        """Make the queue of what others say of sources, and its binding, idempotent."""
        self._declare_queue(EVENT_QUEUE, EVENT_LIMIT, seconds=EVENT_SECONDS)
        self._declare(lambda channel: channel.queue_bind(EVENT_QUEUE, EVENT_EXCHANGE, EVENT_KEYS))

    def declare_stream(self, agent: str, stream: UUID, limit_bytes: int) -> None:
        """Make a stream that only this agent can publish to, idempotent."""
        queue = stream_queue(stream)
        self._declare_queue(queue, limit_bytes, single=True)
        self.bind_stream(agent, stream)

    def bind_stream(self, agent: str, stream: UUID) -> None:
        """Let what the agent publishes reach a stream that is there, idempotent."""
        queue, key = stream_queue(stream), stream_key(agent, stream)
        self._declare(lambda channel: channel.queue_bind(queue, AGENT_EXCHANGE, key))

    def delete_stream(self, stream: UUID) -> None:
        """Delete a stream and what it holds; nothing when there is none."""
        self._declare(lambda channel: channel.queue_delete(stream_queue(stream)))

    def depth(self, stream: UUID) -> int | None:
        """Messages that wait in the stream (those handed out and not acked are not counted); None when there is
        no such stream."""
        try:
            answer = self._admin.do(lambda channel: channel.queue_declare(stream_queue(stream), passive=True))
        except ChannelClosedByBroker as exc:
            if exc.reply_code == _NOT_FOUND:
                return None
            raise CarrierLost(f"the broker refused: {exc}") from exc
        return int(answer.method.message_count)

    def consume(self, stream: UUID, prefetch: int) -> RabbitConsumer:
        """Consume a stream, in order; one consumer at a time gets messages.

        Raises:
            CarrierLost: No broker, or no such stream.
        """
        return self._consume(stream_queue(stream), prefetch)

    def ingress(self, pool: str, prefetch: int) -> RabbitConsumer:
        """Consume a pool's ingress, together with others.

        Raises:
            CarrierLost: No broker, or no such pool.
        """
        return self._consume(f"pool.{pool}.in", prefetch)

    def events(self, prefetch: int) -> RabbitConsumer:
        """Consume what others say of sources, together with others; the queue is made.

        Raises:
            CarrierLost: No broker.
        """
        self.declare_events()
        return self._consume(EVENT_QUEUE, prefetch)

    def reach(self) -> None:
        """Connect what `send` uses, unless it is.

        Raises:
            CarrierLost: The broker isn't reachable.
        """
        with self._sending:
            self._publisher()

    def send(self, agent: str, body: bytes) -> None:
        """Send one control message to an agent and return when the broker holds it.

        Raises:
            CarrierLost: The broker isn't reachable or didn't take it; it may be sent again.
        """
        with self._sending:
            self._publisher().send("", agent_queue(agent), body)

    def _publisher(self) -> RabbitPublisher:
        """Return the connection for control messages; the lock is held."""
        if self._closed:
            raise CarrierLost("the carrier was closed")
        control = self._control
        if control is None or not control.alive:
            made = RabbitPublisher(parameters(self._url, "worker: control", self._trust))
            made.open()
            self._was_blocked = self.blocked
            self._control = control = made
        return control

    def ask_alarm(self) -> None:
        """Publish a message to nobody, unless one is on its way: its answer is for no one, an alarm is told.

        Raises:
            CarrierLost: The broker isn't reachable.
        """
        if self._sending.acquire(blocking=False):
            try:
                control = self._publisher()
                control.poll(0)
                control.publish_to("", _NOBODY, b"")
            finally:
                self._sending.release()

    @property
    def blocked(self) -> bool:
        """Whether the broker holds publishers back at this moment (an alarm).

        A connection that is held back ends after a minute, and the broker tells the next one only when it publishes:
        until then what the last one knew holds.
        """
        control = self._control
        if control is None or (control.answered and not control.blocked):
            return False
        return control.blocked or self._was_blocked

    def close(self) -> None:
        """May be called twice."""
        with self._lock:
            self._closed = True
            consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            consumer.close()
        if self._control is not None:
            self._control.close()
        self._admin.close()

    def _consume(self, queue: str, prefetch: int) -> RabbitConsumer:
        if self._closed:
            raise CarrierLost("the carrier was closed")
        made = RabbitConsumer(parameters(self._url, f"worker: {queue}", self._trust), queue, prefetch)
        made.open()
        with self._lock:
            self._consumers = [kept for kept in self._consumers if kept.alive]
            self._consumers.append(made)
        return made

    def _declare(self, action: Callable[[BlockingChannel], Any]) -> None:
        try:
            self._admin.do(action)
        except ChannelClosedByBroker as exc:
            raise CarrierLost(f"the broker refused: {exc}") from exc

    def _declare_queue(
        self,
        queue: str,
        limit_bytes: int,
        *,
        single: bool = False,
        seconds: int | None = None,
        most: int | None = None,
    ) -> None:
        """Declare a queue of the virtual host's default type: quorum in a cluster, else classic."""
        arguments: dict[str, Any] = {"x-overflow": "reject-publish", "x-max-length-bytes": limit_bytes}
        if single:
            arguments["x-single-active-consumer"] = True
        if seconds is not None:
            arguments["x-message-ttl"] = seconds * 1000
        if most is not None:
            arguments["x-max-length"] = most
        # Over AMQP nobody can ask for the default type, and the two types refuse each other's arguments: so the
        # one that matters more is tried first.
        quorum = {**arguments, "x-delivery-limit": DELIVERY_LIMIT}
        try:
            self._admin.do(lambda channel: channel.queue_declare(queue, durable=True, arguments=quorum))
        except ChannelClosedByBroker as exc:
            if exc.reply_code != _PRECONDITION_FAILED:
                raise CarrierLost(f"the broker refused: {exc}") from exc
            self._declare(lambda channel: channel.queue_declare(queue, durable=True, arguments=arguments))
