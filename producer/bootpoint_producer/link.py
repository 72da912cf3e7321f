"""The agent's way to the control plane: encrypted messages out, through whatever connection there is."""

from __future__ import annotations

import logging
import random
import threading
import time
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.cipher import Direction
from bootpoint_common.envelope import open_envelope, seal_envelope
from bootpoint_common.stream.carrier import AgentCarrier, CarrierLost, QueueFull

from .present import Present
from .state import Identity

#: Seconds at most between two attempts to put a message into an ingress that is full; the last one gives up.
FULL_SECONDS = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64)

_log = logging.getLogger(__name__)


class Link:
    """Encrypts and sends; thread-safe. A message that the broker doesn't take is lost, and said again by its sender.

    Args:
        identity: Who the agent is.
        carrier: Its connections.
        incarnation: This start of the agent.

    Attributes:
        present: The present by the control plane's clock.
    """

    def __init__(self, identity: Identity, carrier: AgentCarrier, incarnation: UUID) -> None:
        self.identity = identity
        self.carrier = carrier
        self.incarnation = incarnation
        self.present = Present()
        self._counter = 0
        self._lock = threading.Lock()

    def send(self, body: message.FromAgent, *, pool: str | None = None) -> bool:
        """Send one message.

        Args:
            body: The message.
            pool: Which pool's ingress; the home pool by default.

        Returns:
            Whether the broker holds it.
        """
        to = pool or self.identity.pool
        name = self.identity.name
        route = message.control_route(name, to)
        with self._lock:
            # Under the lock, so that counters arrive in their order: one that isn't greater is refused as a replay.
            self._counter += 1
            sealed = seal_envelope(
                self.identity.key,
                Direction.TO_WORKER,
                route,
                name,
                self.incarnation,
                self._counter,
                message.encode(body),
            )
            try:
                self._deliver(to, sealed)
            except CarrierLost as lost:
                _log.info(
                    "message not sent: the broker is away", extra={"type": type(body).__name__, "cause": str(lost)}
                )
                return False
        return True

    def _deliver(self, pool: str, sealed: bytes) -> None:
        """Send what is sealed; to an ingress that has no room again and again for a moment.

        Its room comes back hundreds of times a second, and whoever asks only once a period is left out for periods.

        Raises:
            CarrierLost: The broker didn't take it.
        """
        for wait in FULL_SECONDS:
            try:
                self.carrier.send(pool, sealed)
            except QueueFull:
                # Not all at the same instant: who is refused at once, asks at once.
                time.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads, hides nothing
            else:
                return
        self.carrier.send(pool, sealed)

    def open(self, body: bytes) -> message.ToAgent:
        """Open a message from the control plane.

        Raises:
            FatalError: ``bundle_rejected``.
            msgspec.DecodeError: It is no message of this protocol.
        """
        route = message.inbox_route(self.identity.name)
        keys = {self.identity.key.key_id: self.identity.key.secret}
        return message.decode_to_agent(open_envelope(keys, Direction.TO_AGENT, route, body).body)
