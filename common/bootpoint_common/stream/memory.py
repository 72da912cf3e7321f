"""The carrier within one process: what the embedded default and the model test run on.

It keeps RabbitMQ's promises and none beyond them: confirms, returns, a byte limit that refuses, one active
consumer for a stream, redelivery of what wasn't acked. Called from one thread with ``timeout=0`` it does the same
thing every time.
"""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from bootpoint_common.message import control_route
from bootpoint_common.stream.carrier import CONTROL_LIMIT, CONTROL_MESSAGES, INBOX_PREFETCH, CarrierLost
from bootpoint_common.stream.memory_queue import Broker, MemoryConsumer, MemoryPublisher, Part, Queue

P = TypeVar("P", bound=Part)


class MemoryBroker:
    """A broker within the process; thread-safe.

    It outlives the carriers, as a broker outlives its clients: closing a carrier gives back what its consumers
    held, and leaves the queues.
    """

    def __init__(self) -> None:
        self._state = Broker()

    def agent_carrier(self, agent: str) -> MemoryAgentCarrier:
        """Connect as an agent."""
        return MemoryAgentCarrier(self._state, agent)

    def worker_carrier(self) -> MemoryWorkerCarrier:
        """Connect as one of our own processes."""
        return MemoryWorkerCarrier(self._state)


class _Carrier:
    """What both ends share: they close what they made."""

    def __init__(self, state: Broker) -> None:
        self._state = state
        self._parts: list[Part] = []
        self._closed = False

    def _consume(self, queue: Queue | None, name: str, prefetch: int) -> MemoryConsumer:
        with self._state.changed:
            if queue is None or queue.deleted or self._closed or (queue.exclusive and queue.consumers):
                raise CarrierLost(f"the queue {name!r} can't be consumed")
            return self._keep(MemoryConsumer(self._state, queue, prefetch))

    def _keep(self, part: P) -> P:
        self._parts = [kept for kept in self._parts if not kept.closed] + [part]
        return part

    def close(self) -> None:
        """Close everything that it made; may be called twice."""
        with self._state.changed:
            self._closed = True
            parts, self._parts = self._parts, []
        for part in parts:
            part.close()


class MemoryAgentCarrier(_Carrier):
    """An agent's end: `carrier.AgentCarrier`."""

    def __init__(self, state: Broker, agent: str) -> None:
        super().__init__(state)
        self._agent = agent

    def publisher(self) -> MemoryPublisher:
        """Open a publisher of bundles."""
        with self._state.changed:
            self._require_open()
            return self._keep(MemoryPublisher(self._state, self._agent))

    def send(self, pool: str, body: bytes) -> None:
        """Send one control message to a pool's ingress.

        Raises:
            CarrierLost: There is no such pool, or its ingress is full.
        """
        self._require_open()
        self._state.send(self._state.pools, pool, body, control_route(self._agent, pool))

    def inbox(self) -> MemoryConsumer:
        """Consume the agent's own queue; one consumer at a time.

        Raises:
            CarrierLost: There is no such queue, or somebody consumes it.
        """
        return self._consume(self._state.inboxes.get(self._agent), self._agent, INBOX_PREFETCH)

    @property
    def blocked(self) -> bool:
        """Never: memory has no alarm; its byte limits refuse."""
        return False

    def _require_open(self) -> None:
        if self._closed:
            raise CarrierLost("the carrier was closed")


class MemoryWorkerCarrier(_Carrier):
    """Our own processes' end: `carrier.WorkerCarrier`."""

    def declare_agent(self, agent: str) -> None:
        """Make the agent's queue, idempotent."""
        with self._state.changed:
            self._state.inboxes.setdefault(agent, Queue(None, CONTROL_LIMIT, exclusive=True))

    def declare_pool(self, pool: str) -> None:
        """Make the pool's ingress queue, idempotent."""
        with self._state.changed:
            self._state.pools.setdefault(pool, Queue(None, CONTROL_LIMIT, CONTROL_MESSAGES, shared=True))

    def declare_stream(self, agent: str, stream: UUID, limit_bytes: int) -> None:
        """Make a stream that only this agent can publish to, idempotent."""
        with self._state.changed:
            self._state.streams.setdefault(stream, Queue(agent, limit_bytes))

    def bind_stream(self, agent: str, stream: UUID) -> None:
        """Let what the agent publishes reach a stream that is there, idempotent."""
        with self._state.changed:
            if (queue := self._state.streams.get(stream)) is not None:
                queue.owner = agent

    def delete_stream(self, stream: UUID) -> None:
        """Delete a stream and what it holds; nothing when there is none."""
        with self._state.changed:
            queue = self._state.streams.pop(stream, None)
            if queue is not None:
                queue.deleted = True
                queue.messages.clear()
                self._state.changed.notify_all()

    def depth(self, stream: UUID) -> int | None:
        """Messages that wait in the stream; None when there is no such stream."""
        with self._state.changed:
            queue = self._state.streams.get(stream)
            return None if queue is None else len(queue.messages)

    def consume(self, stream: UUID, prefetch: int) -> MemoryConsumer:
        """Consume a stream; one consumer at a time gets messages.

        Raises:
            CarrierLost: No such stream.
        """
        return self._consume(self._state.streams.get(stream), str(stream), prefetch)

    def ingress(self, pool: str, prefetch: int) -> MemoryConsumer:
        """Consume a pool's ingress, together with others.

        Raises:
            CarrierLost: No such pool.
        """
        return self._consume(self._state.pools.get(pool), pool, prefetch)

    def events(self, prefetch: int) -> None:
        """Say that nobody else reaches this broker: it is this process."""

    def reach(self) -> None:
        """Do nothing: memory is always within reach."""

    def send(self, agent: str, body: bytes) -> None:
        """Send one control message to an agent.

        Raises:
            CarrierLost: There is no such agent, or its queue is full.
        """
        self._state.send(self._state.inboxes, agent, body)

    @property
    def blocked(self) -> bool:
        """Never: memory has no alarm; its byte limits refuse."""
        return False

    def ask_alarm(self) -> None:
        """Do nothing: there is none."""
