"""The window that tells a message that came before from one that was overtaken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bootpoint_common.store.agent import OVERTAKEN, _seen


@given(st.lists(st.one_of(st.integers(1, 3 * OVERTAKEN), st.integers(1, 2**63 - 1)), max_size=200))
def test_each_counter_is_taken_once_and_none_that_is_too_old(counters: list[int]) -> None:
    newest, seen, taken = 0, 0, {0}
    for counter in counters:
        after = _seen(newest, seen, counter)
        due = counter not in taken and counter >= newest - OVERTAKEN
        assert (after is not None) is due
        if after is not None:
            assert 0 <= after < 1 << OVERTAKEN
            newest, seen = max(newest, counter), after
            taken.add(counter)


def test_a_window_fits_a_signed_bigint() -> None:
    seen = 0
    for counter in range(1, 200):
        found = _seen(counter - 1, seen, counter)
        assert found is not None
        seen = found
    assert seen == 2**OVERTAKEN - 1 < 2**63
