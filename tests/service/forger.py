"""An agent that a test plays, with a key and a login of its own: what it says may be right or wrong."""

from __future__ import annotations

from typing import Any

from bootpoint_common import machine, message
from bootpoint_common.cipher import AgentKey, Direction
from bootpoint_common.envelope import seal_envelope
from bootpoint_common.identity import new_id
from bootpoint_producer.state import Identity


class Forger:
    """Makes envelopes, right ones and wrong ones.

    Args:
        identity: Whose key it has.
        pool: Whose ingress they are for.
    """

    def __init__(self, identity: Identity, pool: str) -> None:
        self.identity = identity
        self.pool = pool
        self.incarnation = new_id()
        self.counter = 0

    def envelope(
        self,
        body: message.FromAgent | bytes,
        *,
        name: str | None = None,
        key: AgentKey | None = None,
        direction: Direction = Direction.TO_WORKER,
        pool: str | None = None,
    ) -> bytes:
        """Encrypt a message, or bytes that are none, as said."""
        self.counter += 1
        name = name or self.identity.name
        return seal_envelope(
            key or self.identity.key,
            direction,
            message.control_route(name, pool or self.pool),
            name,
            self.incarnation,
            self.counter,
            body if isinstance(body, bytes) else message.encode(body),
        )

    def hello(self, **changes: Any) -> message.Hello:
        """Return the hello of an agent on this machine, with some of it changed."""
        here = {"protocol": message.PROTOCOL, "version": "0", "incarnation": self.incarnation}
        return message.Hello(**{**here, "machine": machine.identity(), **changes})
