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
from bootpoint_common.tls import NOTHING_OF_OURS, Trust

__all__ = ["Permissions", "agent_permissions", "connect_agent", "connect_worker", "event_permissions", "setup"]


def connect_agent(url: str, agent: str, trust: Trust = NOTHING_OF_OURS) -> RabbitAgentCarrier:
    """Return an agent's carrier; it connects when something is asked of it.

    Args:
        url: AMQP URL with the agent's own login.
        agent: The agent's name.
        trust: Whom an encrypted connection believes, and what it shows.
    """
    return RabbitAgentCarrier(url, agent, trust)


def connect_worker(url: str, trust: Trust = NOTHING_OF_OURS) -> RabbitWorkerCarrier:
    """Return a worker's carrier; it connects when something is asked of it.

    Args:
        url: AMQP URL of a user with all rights on the virtual host.
        trust: Whom an encrypted connection believes, and what it shows.

    Raises:
        CarrierLost: The certificates can't be used.
    """
    return RabbitWorkerCarrier(url, trust)


def setup(url: str, trust: Trust = NOTHING_OF_OURS) -> None:
    """Make the exchanges of a virtual host, idempotent.

    Raises:
        CarrierLost: The broker isn't reachable, or refuses.
    """
    carrier = RabbitWorkerCarrier(url, trust)
    try:
        carrier.setup()
    finally:
        carrier.close()
