"""The present by the control plane's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bootpoint_producer.present import Present

NOON = datetime(2026, 12, 3, 12, tzinfo=UTC)


class Boot:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_it_goes_on_from_the_control_planes_word_whatever_becomes_of_the_machines_clock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    boot, own = Boot(), [NOON + timedelta(days=1)]
    present = Present(since_boot=boot, own=lambda: own[0])
    assert present.now() == own[0]
    present.told(NOON)
    assert "clock is wrong" in caplog.text
    boot.seconds += 60
    own[0] -= timedelta(days=400)
    assert present.now() == NOON + timedelta(seconds=60)


def test_a_clock_of_the_control_plane_that_was_set_right_counts_from_the_next_word_on() -> None:
    boot = Boot()
    present = Present(since_boot=boot, own=lambda: NOON)
    present.told(NOON + timedelta(hours=5))
    boot.seconds += 60
    present.told(NOON + timedelta(seconds=60))
    present.told(None)
    assert present.now() == NOON + timedelta(seconds=60)
    boot.seconds += 60
    present.told(NOON + timedelta(seconds=121))
    assert present.now() == NOON + timedelta(seconds=121)
