"""The agent's way to the control plane, where the broker has no room at the moment."""

from __future__ import annotations

import pytest

from bootpoint_common import message
from bootpoint_common.cipher import AgentKey
from bootpoint_common.identity import new_id
from bootpoint_common.stream.carrier import CarrierLost, QueueFull, Undeliverable
from bootpoint_common.stream.memory import MemoryAgentCarrier, MemoryBroker
from bootpoint_producer import link
from bootpoint_producer.link import FULL_SECONDS, Link
from bootpoint_producer.state import Identity

ME = Identity("web1", "kvm", "", AgentKey(1, bytes(range(32))), {})


class Refusing(MemoryAgentCarrier):
    """Refuses so many messages before it takes one."""

    def __init__(self, broker: MemoryBroker, refusals: int, why: type[CarrierLost]) -> None:
        super().__init__(broker._state, ME.name)
        self.left, self.why, self.asked = refusals, why, 0

    def send(self, pool: str, body: bytes) -> None:
        self.asked += 1
        if self.left:
            self.left -= 1
            raise self.why("not now")
        super().send(pool, body)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    monkeypatch.setattr(link, "FULL_SECONDS", (0.0,) * len(FULL_SECONDS))
    made = MemoryBroker()
    made.worker_carrier().declare_pool(ME.pool)
    return made


@pytest.mark.parametrize(
    ("refusals", "why", "sent", "asked"),
    [
        (0, QueueFull, True, 1),
        (3, QueueFull, True, 4),
        (len(FULL_SECONDS), QueueFull, True, len(FULL_SECONDS) + 1),
        (len(FULL_SECONDS) + 1, QueueFull, False, len(FULL_SECONDS) + 1),
        (1, Undeliverable, False, 1),
        (1, CarrierLost, False, 1),
    ],
)
def test_only_an_ingress_that_is_full_is_asked_again_and_not_for_ever(
    broker: MemoryBroker, refusals: int, why: type[CarrierLost], sent: bool, asked: int
) -> None:
    carrier = Refusing(broker, refusals, why)
    assert Link(ME, carrier, new_id()).send(message.Heartbeat()) is sent
    assert carrier.asked == asked
    ingress = broker.worker_carrier().ingress(ME.pool, 10)
    assert (ingress.get(0.0) is not None) is sent
    assert ingress.get(0.0) is None


def test_an_agent_gives_a_full_ingress_a_moment_and_no_more() -> None:
    assert 1.0 < sum(FULL_SECONDS) < 2.0
