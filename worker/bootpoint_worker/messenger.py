"""Messages to agents: encrypted with the agent's key and handed to the broker."""

from __future__ import annotations

import logging
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.cipher import Direction
from bootpoint_common.envelope import seal_envelope
from bootpoint_common.store import agent
from bootpoint_common.stream.carrier import CarrierLost

from .context import Context

_log = logging.getLogger(__name__)

#: Messages to an agent carry no incarnation of ours: each names what it is about, and may come again.
_NO_INCARNATION = UUID(int=0)


def send(context: Context, name: str, body: bytes) -> None:
    """Send an encoded message to an agent; nothing when it has no key (never joined, or revoked).

    Raises:
        CarrierLost: The broker didn't take it.
    """
    with context.database.transaction() as connection:
        found = agent.find(connection, name)
    key = None if found is None else found.current_key(context.vault)
    if key is None:
        _log.warning("message dropped: the agent has no key", extra={"agent": name})
        return
    route = message.inbox_route(name)
    context.carrier.send(name, seal_envelope(key, Direction.TO_AGENT, route, name, _NO_INCARNATION, 0, body))


def send_lossy(context: Context, name: str, body: message.ToAgent) -> None:
    """Send a message whose loss does no harm, because the agent asks again (credit, gaps)."""
    if context.carrier.blocked:
        # It would wait for half a minute, in a slice that could drain the broker meanwhile.
        return
    try:
        send(context, name, message.encode(body))
    except CarrierLost:
        _log.info("credit lost: the broker is away", extra={"agent": name})
