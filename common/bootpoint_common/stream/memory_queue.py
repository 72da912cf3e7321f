"""Queues within one process: the parts of `memory`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from bootpoint_common.stream.carrier import CarrierLost, Confirmed, Delivery, QueueFull, Refused, Undeliverable

T = TypeVar("T")

Event = Confirmed | Refused


@dataclass(slots=True, eq=False)
class Queue:
    """One queue.

    Attributes:
        owner: The agent that may publish to it; None for the control queues.
        limit_bytes: What it holds at most; a publication that goes beyond is refused.
        most: Messages that may wait in it at most; None for no such limit.
        shared: Whether all consumers get messages, or only the first (single active consumer).
        exclusive: Whether a second consumer is refused.
        messages: What waits: (body, redelivered, routing key).
        held_bytes: What waits and what consumers hold unacked.
        consumers: In the order they came.
        deleted: Whether it is gone.
    """

    owner: str | None
    limit_bytes: int
    most: int | None = None
    shared: bool = False
    exclusive: bool = False
    messages: deque[tuple[bytes, bool, str]] = field(default_factory=deque)
    held_bytes: int = 0
    consumers: list[MemoryConsumer] = field(default_factory=list)
    deleted: bool = False


class Broker:
    """Every queue, under one lock; thread-safe.

    Attributes:
        changed: The lock, and the news that something under it changed.
        streams, inboxes, pools: The queues by their names.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.streams: dict[UUID, Queue] = {}
        self.inboxes: dict[str, Queue] = {}
        self.pools: dict[str, Queue] = {}

    def wait(self, timeout: float, ready: Callable[[], T | None]) -> T | None:
        """Return what ``ready`` gives as soon as it isn't None; the lock is held. None after the timeout."""
        end = time.monotonic() + timeout if timeout > 0 else 0.0
        while (found := ready()) is None:
            left = end - time.monotonic() if timeout > 0 else 0.0
            if left <= 0:
                return None
            self.changed.wait(left)
        return found

    def put(self, queue: Queue | None, body: bytes, route: str = "") -> bool:
        """Append a message; the lock is held. Return False when there is no room or no queue."""
        if queue is None or queue.held_bytes + len(body) > queue.limit_bytes:
            return False
        if queue.most is not None and len(queue.messages) >= queue.most:
            return False
        queue.messages.append((body, False, route))
        queue.held_bytes += len(body)
        self.changed.notify_all()
        return True

    def send(self, queues: dict[str, Queue], name: str, body: bytes, route: str = "") -> None:
        """Append a control message, with the routing key that its receiver is told.

        Raises:
            QueueFull: It is full.
            Undeliverable: There is no such queue.
        """
        with self.changed:
            if name not in queues:
                raise Undeliverable(f"there is no queue {name!r}")
            if not self.put(queues[name], body, route):
                raise QueueFull(f"queue {name!r} is full")


class Part:
    """What a carrier made: usable until it, or its carrier, is closed."""

    def __init__(self, state: Broker) -> None:
        self._state = state
        self.closed = False

    def _require(self) -> None:
        if self.closed:
            raise CarrierLost("the connection was closed")

    def close(self) -> None:
        """May be called twice."""
        with self._state.changed:
            self.closed = True
            self._state.changed.notify_all()


class MemoryConsumer(Part):
    """`carrier.Consumer` over a queue of this process."""

    def __init__(self, state: Broker, queue: Queue, prefetch: int) -> None:
        super().__init__(state)
        self._queue = queue
        self._prefetch = prefetch
        self._tag = 0
        self._unacked: deque[tuple[int, bytes, str]] = deque()
        queue.consumers.append(self)

    def get(self, timeout: float) -> Delivery | None:
        """Return the next message, or None after ``timeout`` seconds.

        Raises:
            CarrierLost: The consumer was closed, or the queue deleted.
        """
        with self._state.changed:
            return self._state.wait(timeout, self._next)

    def _next(self) -> Delivery | None:
        self._require()
        queue = self._queue
        if queue.deleted:
            raise CarrierLost("the queue was deleted")
        active = queue.shared or queue.consumers[0] is self
        if not active or not queue.messages or 0 < self._prefetch <= len(self._unacked):
            return None
        body, redelivered, route = queue.messages.popleft()
        self._tag += 1
        self._unacked.append((self._tag, body, route))
        return Delivery(self._tag, body, redelivered, route)

    def ack(self, tag: int) -> None:
        """Acknowledge every message up to and including ``tag``."""
        with self._state.changed:
            self._require()
            while self._unacked and self._unacked[0][0] <= tag:
                self._queue.held_bytes -= len(self._unacked.popleft()[1])
            self._state.changed.notify_all()

    def close(self) -> None:
        """Give back what wasn't acked, in its order; may be called twice."""
        with self._state.changed:
            if not self.closed:
                self._queue.messages.extendleft((body, True, route) for _, body, route in reversed(self._unacked))
                self._unacked.clear()
                self._queue.consumers.remove(self)
            super().close()


class MemoryPublisher(Part):
    """`carrier.StreamPublisher` over the streams of this process."""

    def __init__(self, state: Broker, agent: str) -> None:
        super().__init__(state)
        self._agent = agent
        self._tag = 0
        self._events: list[Event] = []
        self._woken = False

    def publish(self, stream: UUID, body: bytes) -> int:
        """Send one bundle, and return its tag.

        Raises:
            CarrierLost: The publisher was closed.
        """
        with self._state.changed:
            self._require()
            self._tag += 1
            queue = self._state.streams.get(stream)
            if queue is None or queue.owner != self._agent:
                self._events.append(Refused(self._tag, returned=True))
            elif self._state.put(queue, body):
                self._events.append(Confirmed(self._tag))
            else:
                self._events.append(Refused(self._tag))
            self._state.changed.notify_all()
            return self._tag

    def poll(self, timeout: float) -> list[Event]:
        """Return what the broker said since the last call; waits up to ``timeout`` seconds for the first.

        Raises:
            CarrierLost: The publisher was closed.
        """
        with self._state.changed:
            events = self._state.wait(timeout, self._said) or []
            self._woken = False
            return events

    def _said(self) -> list[Event] | None:
        self._require()
        if not self._events and not self._woken:
            return None
        events, self._events = self._events, []
        return events

    def wake(self) -> None:
        """Make a `poll` that waits, or else the next one, return at once; safe from any thread."""
        with self._state.changed:
            self._woken = True
            self._state.changed.notify_all()
