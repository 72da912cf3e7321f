"""What an agent may say in a while."""

from __future__ import annotations

from bootpoint_common.envelope import MAX_ENVELOPE
from bootpoint_common.units import MiB
from bootpoint_worker.allowance import BURST, RATE, Allowances


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_is_cut_to_its_share_and_takes_nothing_from_others() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    taken = sum(allowances.take("mallory", 100) for _ in range(100_000))
    assert taken == BURST
    assert allowances.take("web1", 100)
    clock.now = 10.0
    assert sum(allowances.take("mallory", 100) for _ in range(100_000)) == 10 * RATE


def test_large_messages_count_for_more_and_the_largest_that_is_allowed_gets_through() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    assert allowances.take("web1", MAX_ENVELOPE)
    assert sum(allowances.take("web1", MAX_ENVELOPE) for _ in range(1000)) < 10
    clock.now = 3600.0
    assert not allowances.take("web1", 64 * MiB)


def test_thousands_of_agents_are_served_and_forgotten_and_a_flood_is_not() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    while allowances.take("mallory", 100):
        pass
    for number in range(20_000):
        clock.now += 0.001
        assert allowances.take(f"agent-{number}", 100)
    assert len(allowances._buckets) < 2000
    assert sum(allowances.take("mallory", 100) for _ in range(1000)) <= clock.now * RATE + 1
