"""The token bucket lets the rate through, and not more."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootpoint_producer.throttle import BURST_SECONDS, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_no_limit_never_waits() -> None:
    throttle = Throttle(0)
    assert [throttle.reserve(1 << 30) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_burst_then_rate() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock=clock)
    assert throttle.reserve(250) == 0.0
    assert throttle.reserve(500) == 0.0  # an empty bucket lets one piece pass
    assert throttle.reserve(1) == pytest.approx(0.5)
    clock.now += 0.501
    assert throttle.reserve(1) == pytest.approx(0.0)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 2)), min_size=1, max_size=50))
def test_rate_is_kept_over_any_sequence(pieces: list[tuple[int, float]]) -> None:
    clock, rate = Clock(), 1000
    throttle = Throttle(rate, clock=clock)
    passed, largest, start = 0, 0, clock.now
    for size, pause in pieces:
        clock.now += pause
        clock.now += throttle.reserve(size)
        passed, largest = passed + size, max(largest, size)
        assert passed <= rate * (clock.now - start + BURST_SECONDS) + largest + 0.01


def test_rate_can_change_and_end() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock=clock)
    throttle.reserve(1250)
    assert throttle.reserve(0) == pytest.approx(1.0)
    throttle.set_rate(2000)
    assert throttle.reserve(0) == pytest.approx(0.5)
    throttle.set_rate(0)
    assert throttle.reserve(10**9) == 0.0
    throttle.set_rate(1000)
    assert throttle.reserve(250) == 0.0
    assert throttle.bytes_per_second == 1000


def test_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        Throttle(-1)
    with pytest.raises(ValueError, match="-1"):
        Throttle(1).set_rate(-1)


def test_wait_ends_when_stopped() -> None:
    throttle, stop = Throttle(1), threading.Event()
    throttle.take(1000)
    stop.set()
    started = time.monotonic()
    assert throttle.take(1, stop) > 900
    assert time.monotonic() - started < 60
