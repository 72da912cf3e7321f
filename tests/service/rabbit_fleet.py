"""An installation in this process whose broker is RabbitMQ: what `fleet` takes instead of one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bootpoint_common.stream.rabbit import agent_permissions, connect_agent, connect_worker, setup
from bootpoint_common.stream.rabbit_agent import Permissions, RabbitAgentCarrier
from bootpoint_common.stream.rabbit_worker import RabbitWorkerCarrier
from tests.service.rabbitmq import VirtualHost


@dataclass(frozen=True)
class RabbitBroker:
    """A virtual host, as `fleet.Broker`."""

    vhost: VirtualHost
    _made: list[RabbitAgentCarrier | RabbitWorkerCarrier] = field(default_factory=list)

    def __post_init__(self) -> None:
        setup(self.vhost.url)

    def login(self, name: str, rights: Permissions) -> str:
        """Make a user with these rights, and return its URL."""
        return self.vhost.login(f"{self.vhost.name}-{name}", rights)

    def agent_carrier(self, agent: str) -> RabbitAgentCarrier:
        """Connect as an agent, with a login of its own."""
        made = connect_agent(self.login(agent, agent_permissions(agent)), agent)
        self._made.append(made)
        return made

    def worker_carrier(self) -> RabbitWorkerCarrier:
        """Connect as one of our own processes."""
        made = connect_worker(self.vhost.url)
        self._made.append(made)
        return made

    def close(self) -> None:
        """Close every carrier that was made."""
        for made in self._made:
            made.close()


@contextmanager
def rabbit_broker(vhost: VirtualHost) -> Iterator[RabbitBroker]:
    """Give a virtual host as the broker of a fleet, and close what was made of it."""
    made = RabbitBroker(vhost)
    try:
        yield made
    finally:
        made.close()
