"""Refusals that the history gets."""

from __future__ import annotations

from bootpoint_worker.refusal import MOST, PERIOD, Refusals


def test_a_flood_is_written_a_few_times_in_a_while_and_says_how_many_were_left_out() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    assert [refusals.admit("pool", "altered") for _ in range(MOST + 5)] == [0] * MOST + [None] * 5
    assert refusals.admit("pool", "replayed") == 0
    now = PERIOD
    assert refusals.admit("pool", "altered") == 5
    assert refusals.admit("pool", "altered") == 0


def test_kinds_of_long_ago_are_forgotten() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    for stream in range(3000):
        now += PERIOD
        assert refusals.admit(stream, "altered") == 0
    assert len(refusals._kinds) < 1100
