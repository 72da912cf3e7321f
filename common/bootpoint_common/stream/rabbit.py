"""The carrier over RabbitMQ (3.10 to 4.x): queues, arguments and rights.

::

    agent  ──bundles──► exchange bp.agent ──<agent>.stream.<id>──► stream.<id>   ──► one active worker
           ──control──►          "        ──*.control.<pool>─────► pool.<pool>.in ──► ingress
           ◄──────────────────────────────────────── agent.<name>  ◄── workers (default exchange)
    others ──events───► exchange bp.events ──source.#─────────────► events.in      ──► schedulers
"""

from __future__ import annotations

from bootpoint_common.stream.rabbit_agent import Permissions, RabbitAgentCarrier, agent_permissions, event_permissions
from bootpoint_common.stream.rabbit_worker import RabbitWorkerCarrier

__all__ = ["Permissions", "agent_permissions", "connect_agent", "connect_worker", "event_permissions", "setup"]


def connect_agent(url: str, agent: str) -> RabbitAgentCarrier:
    """Return an agent's carrier; it connects when something is asked of it.

    Args:
        url: AMQP URL with the agent's own login.
        agent: The agent's name.
    """
    return RabbitAgentCarrier(url, agent)


def connect_worker(url: str) -> RabbitWorkerCarrier:
    """Return a worker's carrier; it connects when something is asked of it.

    Args:
        url: AMQP URL of a user with all rights on the virtual host.
    """
    return RabbitWorkerCarrier(url)


def setup(url: str) -> None:
    """Make the exchanges of a virtual host, idempotent.

    Raises:
        CarrierLost: The broker isn't reachable, or refuses.
    """
    carrier = RabbitWorkerCarrier(url)
    try:
        carrier.setup()
    finally:
        carrier.close()
