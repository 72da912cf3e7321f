"""What carries bundles and control messages, seen from the two ends.

An agent reaches three things only: its own inbox, the ingress of its pools, and the streams of its own
open points. A worker reaches everything else. Both carriers, in memory and over RabbitMQ, pass the same
contract suite.

Delivery is at least once and, after a reconnect, out of order; nothing here hides that. Order and
exactly-once are made above it, by sequence numbers, credit and go-back-N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from bootpoint_common.units import MiB

#: Bytes that a stream may hold at most, as a multiple of the largest window: a publisher that ignores its
#: credit is refused (reject-publish) before it can hurt the broker.
STREAM_LIMIT_WINDOWS = 2

#: Bytes that an agent's queue and a pool's ingress may hold, so that neither a dead agent nor a mad one fills
#: the broker. The segment digests of a 16 TiB disk, the largest message, are 32 MiB.
CONTROL_LIMIT = 128 * MiB

#: Messages that a pool's ingress may hold beside that. A worker takes some hundreds a second, and drops some thousands
#: of who floods it: so what waits is seconds old, and behind a flood less than one. When it is full, agents are
#: refused and say again what still holds.
CONTROL_MESSAGES = 2_000

#: Bytes that the queue of events may hold: thousands of them.
EVENT_LIMIT = 4 * MiB

#: Messages that an agent's inbox hands out before one is acked.
INBOX_PREFETCH = 100


class CarrierLost(ConnectionError):  # noqa: N818 - a state of the way, which goes on anew
    """The way to the broker is gone; the object that raised it is of no further use: make a new one."""


class Undeliverable(CarrierLost):
    """The broker is there and did not take this one message: its queue is missing, or full."""


class QueueFull(Undeliverable):
    """The broker has no room for this message now: there may be some in a moment."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came.

    Attributes:
        tag: What `ack` takes.
        body: The message.
        redelivered: Whether it may have been delivered before.
        route: Under which routing key it came, where a broker tells.
    """

    tag: int
    body: bytes
    redelivered: bool = False
    route: str = ""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker holds every publication up to and including ``tag`` that was not refused before.

    With ``multiple`` false only ``tag`` itself.
    """

    tag: int
    multiple: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker did not take publication ``tag``: a nack, or no such stream (``returned``)."""

    tag: int
    returned: bool = False


class Consumer(Protocol):
    """Takes messages off one queue; used by one thread; closing gives back what wasn't acked."""

    def get(self, timeout: float) -> Delivery | None:
        """Return the next message, or None after ``timeout`` seconds.

        Raises:
            CarrierLost: The connection or the queue is gone.
        """

    def ack(self, tag: int) -> None:
        """Acknowledge every message up to and including ``tag``."""

    def close(self) -> None:
        """Give back what wasn't acked; may be called twice."""


class StreamPublisher(Protocol):
    """Publishes bundles, with confirms in a window that the caller keeps; used by one thread."""

    def publish(self, stream: UUID, body: bytes) -> int:
        """Send one bundle.

        Returns:
            The tag that `Confirmed` and `Refused` name.

        Raises:
            CarrierLost: Nothing is known about any unconfirmed publication.
        """

    def poll(self, timeout: float) -> list[Confirmed | Refused]:
        """Return what the broker said since the last call; waits up to ``timeout`` seconds for the first.

        Raises:
            CarrierLost: Nothing is known about any unconfirmed publication.
        """

    def wake(self) -> None:
        """Make a `poll` that waits, or else the next one, return at once; safe from any thread.

        Credit comes in on another thread, and nobody should poll for it.
        """

    def close(self) -> None:
        """May be called twice."""


class AgentCarrier(Protocol):
    """An agent's end. Safe to use from several threads; what it makes belongs to one thread each."""

    def publisher(self) -> StreamPublisher:
        """Open a connection for bundles.

        Raises:
            CarrierLost: The broker isn't reachable.
        """

    def send(self, pool: str, body: bytes) -> None:
        """Send one control message to a pool's ingress, and return when the broker holds it.

        Raises:
            CarrierLost: The broker isn't reachable or didn't take it; it may be sent again.
        """

    def inbox(self) -> Consumer:
        """Consume the agent's own queue.

        Raises:
            CarrierLost: The broker isn't reachable.
        """

    @property
    def blocked(self) -> bool:
        """Whether the broker holds publishers back at this moment (an alarm)."""

    def close(self) -> None:
        """May be called twice."""


class WorkerCarrier(Protocol):
    """Our own processes' end. Safe to use from several threads; a consumer belongs to one thread."""

    def declare_agent(self, agent: str) -> None:
        """Make the agent's queue, idempotent."""

    def declare_pool(self, pool: str) -> None:
        """Make the pool's ingress queue and its binding, idempotent."""

    def declare_stream(self, agent: str, stream: UUID, limit_bytes: int) -> None:
        """Make a stream that only this agent can publish to, idempotent."""

    def bind_stream(self, agent: str, stream: UUID) -> None:
        """Let what the agent publishes reach a stream that is there, idempotent."""

    def delete_stream(self, stream: UUID) -> None:
        """Delete a stream and what it holds; nothing when there is none."""

    def depth(self, stream: UUID) -> int | None:
        """Messages that wait in the stream (those a consumer holds unacked not counted); None when there is
        no such stream."""

    def consume(self, stream: UUID, prefetch: int) -> Consumer:
        """Consume a stream, in order; one consumer at a time gets messages (single active consumer).

        Raises:
            CarrierLost: No broker, or no such stream.
        """

    def ingress(self, pool: str, prefetch: int) -> Consumer:
        """Consume a pool's ingress."""

    def events(self, prefetch: int) -> Consumer | None:
        """Consume what others say of sources, together with others; None where nobody else reaches this broker.

        Raises:
            CarrierLost: No broker.
        """

    def reach(self) -> None:
        """Connect what `send` uses, unless it is: within a transaction nothing may wait for a connection to be made.

        Raises:
            CarrierLost: The broker isn't reachable.
        """

    def send(self, agent: str, body: bytes) -> None:
        """Send one control message to an agent and return when the broker holds it.

        Raises:
            CarrierLost: The broker isn't reachable or didn't take it; it may be sent again.
        """

    @property
    def blocked(self) -> bool:
        """Whether the broker is known to hold publishers back at this moment (an alarm)."""

    def ask_alarm(self) -> None:
        """Have the broker tell whether it does: it tells nobody who publishes nothing. `blocked` has the answer soon.

        Raises:
            CarrierLost: The broker isn't reachable.
        """

    def close(self) -> None:
        """May be called twice."""


#: Makes an agent's carrier anew after it was lost.
AgentConnect = Callable[[], AgentCarrier]
