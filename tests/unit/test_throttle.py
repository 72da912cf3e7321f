"""The token bucket lets the rate through, and not more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootpoint_common.units import GRAIN, KiB, MiB
from bootpoint_producer.throttle import BURST_SECONDS, PIECE_SECONDS, Throttle, piece_bytes


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_no_limit_never_waits() -> None:
    throttle = Throttle(0)
    for _ in range(3):
        assert throttle.delay() == 0.0
        throttle.spend(1 << 30)
        assert throttle.take(1 << 30)


def test_burst_then_rate() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock=clock)
    throttle.spend(250)
    assert throttle.delay() == 0.0
    throttle.spend(500)  # an empty bucket lets one piece pass
    assert throttle.delay() == pytest.approx(0.5)
    clock.now += 0.501
    assert throttle.delay() == pytest.approx(0.0)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 2)), min_size=1, max_size=50))
def test_rate_is_kept_over_any_sequence(pieces: list[tuple[int, float]]) -> None:
    clock, rate = Clock(), 1000
    throttle = Throttle(rate, clock=clock)
    passed, largest, start = 0, 0, clock.now
    for size, pause in pieces:
        clock.now += pause
        clock.now += throttle.delay()
        throttle.spend(size)
        passed, largest = passed + size, max(largest, size)
        assert passed <= rate * (clock.now - start + BURST_SECONDS) + largest + 0.01


def test_rate_can_change_and_end() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock=clock)
    throttle.spend(1250)
    assert throttle.delay() == pytest.approx(1.0)
    throttle.set_rate(2000)
    assert throttle.delay() == pytest.approx(0.5)
    throttle.set_rate(0)
    assert throttle.delay() == 0.0
    throttle.set_rate(1000)
    throttle.spend(250)
    assert throttle.delay() == 0.0
    assert throttle.bytes_per_second == 1000


def test_a_debt_of_a_high_rate_is_no_long_wait_at_a_low_one() -> None:
    clock = Clock()
    throttle = Throttle(100 * MiB, clock=clock)
    throttle.spend(26 * MiB)
    owed = throttle.delay()
    assert owed == pytest.approx(0.01)
    throttle.set_rate(10 * KiB)
    assert throttle.delay() == pytest.approx(owed)


def test_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        Throttle(-1)
    with pytest.raises(ValueError, match="-1"):
        Throttle(1).set_rate(-1)


@pytest.mark.parametrize(("wake", "passes"), [(lambda throttle: throttle.set_rate(0), True), (Throttle.close, False)])
def test_who_waits_is_woken_by_another_rate_and_by_the_end(wake: Callable[[Throttle], None], passes: bool) -> None:
    throttle, began = Throttle(1), time.monotonic()
    throttle.take(100_000)
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(throttle.take(1)))
    waiting.start()
    wake(throttle)
    waiting.join(30)
    assert results == [passes]
    assert time.monotonic() - began < 30


def test_pieces_are_small_enough_for_their_rate() -> None:
    assert piece_bytes(0, MiB) == MiB
    assert piece_bytes(1000 * MiB, MiB) == MiB
    assert piece_bytes(1, MiB) == GRAIN
    for rate in (330 * KiB, MiB, 3 * MiB, 10 * MiB):
        piece = piece_bytes(rate, MiB)
        assert piece % GRAIN == 0
        assert piece <= rate * PIECE_SECONDS
        assert rate * BURST_SECONDS + piece <= 0.05 * 10 * rate
