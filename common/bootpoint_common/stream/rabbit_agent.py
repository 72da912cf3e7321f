"""An agent's end of RabbitMQ, and the rights that its broker login needs."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pika import URLParameters

from bootpoint_common.stream.carrier import INBOX_PREFETCH, CarrierLost
from bootpoint_common.stream.rabbit_access import parameters
from bootpoint_common.stream.rabbit_part import AGENT_EXCHANGE, EVENT_EXCHANGE, RabbitConsumer, RabbitPublisher
from bootpoint_common.tls import NOTHING_OF_OURS, Trust

#: Connections that a login may have at a time, and channels on all of them together. An agent has three, with a channel
#: each, and makes new ones while the broker hasn't noticed yet that the last ones are gone (40 s): four times as many.
MOST_CONNECTIONS, MOST_CHANNELS = 12, 12


def agent_queue(agent: str) -> str:
    """Return the name of an agent's queue."""
    return f"agent.{agent}"


def control_key(agent: str, pool: str) -> str:
    """Return the routing key of an agent's control messages to a pool."""
    return f"{agent}.control.{pool}"


class RabbitAgentCarrier:
    """An agent's end: `carrier.AgentCarrier`.

    Bundles, control messages and the inbox have a connection each, made when first asked for.

    Args:
        url: AMQP URL with the agent's own login.
        agent: The agent's name.
        trust: Whom an encrypted connection believes, and what it shows.
    """

    def __init__(self, url: str, agent: str, trust: Trust = NOTHING_OF_OURS) -> None:
        self._trust = trust
        self._url = url
        self._agent = agent
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._control: RabbitPublisher | None = None
        self._parts: list[RabbitPublisher | RabbitConsumer] = []
        self._closed = False

    def publisher(self) -> RabbitPublisher:
        """Open a connection for bundles.

        Raises:
            CarrierLost: The broker isn't reachable.
        """
        made = RabbitPublisher(self._parameters("bundles"), self._agent)
        self._open(made)
        return made

    def send(self, pool: str, body: bytes) -> None:
        """Send one control message to a pool's ingress, and return when the broker holds it.

        Raises:
            CarrierLost: The broker isn't reachable or didn't take it; it may be sent again.
        """
        with self._sending:
            control = self._control
            if control is None or not control.alive:
                control = RabbitPublisher(self._parameters("control"), self._agent)
                self._open(control)
                self._control = control
            control.send(AGENT_EXCHANGE, control_key(self._agent, pool), body)

    def inbox(self) -> RabbitConsumer:
        """Consume the agent's own queue; one consumer at a time.

        Raises:
            CarrierLost: The broker isn't reachable, or has no such queue, or somebody consumes it.
        """
        params = self._parameters("inbox")
        made = RabbitConsumer(params, agent_queue(self._agent), INBOX_PREFETCH, exclusive=True)
        self._open(made)
        return made

    @property
    def blocked(self) -> bool:
        """Whether the broker holds publishers back at this moment (an alarm)."""
        with self._lock:
            return any(isinstance(part, RabbitPublisher) and part.alive and part.blocked for part in self._parts)

    def close(self) -> None:
        """May be called twice."""
        with self._lock:
            self._closed = True
            parts, self._parts = self._parts, []
        for part in parts:
            part.close()

    def _parameters(self, what: str) -> URLParameters:
        return parameters(self._url, f"{self._agent}: {what}", self._trust)

    def _open(self, part: RabbitPublisher | RabbitConsumer) -> None:
        if self._closed:
            raise CarrierLost("the carrier was closed")
        part.open()
        with self._lock:
            self._parts = [kept for kept in self._parts if kept.alive]
            self._parts.append(part)


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a broker user may do, as the regular expressions of ``rabbitmqctl set_permissions``, and how much.

    Attributes:
        configure: Over the queues and exchanges that it may declare and delete.
        write: Over the exchanges that it may publish to.
        read: Over the queues that it may consume.
        topic_exchange: The topic exchange that it publishes to.
        topic_write: Over the routing keys that it may publish under there.
        topic_read: Over the routing keys that it may bind to there.
        limits: How many connections and channels it may have, by RabbitMQ's names of these limits (since 3.8.10).
    """

    configure: str
    write: str
    read: str
    topic_exchange: str
    topic_write: str
    topic_read: str
    limits: Mapping[str, int] = field(
        default_factory=lambda: {"max-connections": MOST_CONNECTIONS, "max-channels": MOST_CHANNELS}
    )

    def commands(self, vhost: str, user: str) -> list[str]:
        """Return the lines of shell that give these rights to a user."""
        rights = [self.configure, self.write, self.read]
        topic = [self.topic_exchange, self.topic_write, self.topic_read]
        return [
            shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, user, *rights]),
            shlex.join(["rabbitmqctl", "set_topic_permissions", "-p", vhost, user, *topic]),
            shlex.join(["rabbitmqctl", "set_user_limits", user, json.dumps(dict(self.limits))]),
        ]


def agent_permissions(agent: str) -> Permissions:
    """Return all that an agent's broker user needs: no queue of its own making, one to read, its own keys to write.

    The routing key of a control message names the login that sent it: `ingress` relies on that.
    """
    name = re.escape(agent)
    return Permissions(
        configure="^$",
        write=rf"^{re.escape(AGENT_EXCHANGE)}$",
        read=rf"^agent\.{name}$",
        topic_exchange=AGENT_EXCHANGE,
        topic_write=rf"^{name}\.(control|stream)\.[^.]+$",
        topic_read="^$",
    )


def event_permissions(sources: Sequence[str] = ()) -> Permissions:
    """Return all that somebody's login needs who says what happens to sources: to say that, and nothing else.

    Args:
        sources: Names of the agents of which it may speak; all by default.
    """
    names = "|".join(map(re.escape, sources)) or "[A-Za-z0-9_-]+"
    return Permissions(
        configure="^$",
        write=rf"^{re.escape(EVENT_EXCHANGE)}$",
        read="^$",
        topic_exchange=EVENT_EXCHANGE,
        topic_write=rf"^source\.({names})\.(shutdown|restart)$",
        topic_read="^$",
    )
