"""Whether a run fits before its machine goes down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.identity import new_id
from bootpoint_common.units import MiB
from bootpoint_producer.deadline import Deadline
from bootpoint_producer.trackers.keeper import TrackerKeeper

PATHS = {"system": Path("/dev/vda"), "data": Path("/dev/vdb")}


class Clock:
    """Seconds that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Known:
    """What a tracker knows: bytes by slot; None where it can't say."""

    def __init__(self, **written: int | None) -> None:
        self.found = written

    def written(self, _replica: UUID, slot: str, _path: Path) -> int | None:
        return self.found[slot]


def deadline(clock: Clock, *, seconds: float | None = 60.0, targets: int = 1) -> Deadline:
    order = message.StartRun(
        run=new_id(),
        number=1,
        job="erp",
        pool="fake",
        expires_at=datetime.now(UTC) + timedelta(hours=-1 if seconds is not None else 1),
        disks=[],
        consistency="crash",
        replicas=[message.RunReplica(replica_id=new_id(), host="h") for _ in range(targets)],
        last_breath=True,
        deadline=None
        if seconds is None
        else message.RunDeadline(
            seconds=seconds,
            bytes_per_second=10.0 * MiB,
            overhead_seconds=5.0,
            whole_bytes={"system": 1000 * MiB, "data": 100 * MiB},
        ),
    )
    return Deadline(order, now=lambda: datetime.now(UTC), clock=clock)


@pytest.mark.parametrize(
    ("known", "targets", "waited", "fits"),
    [
        (Known(system=500 * MiB, data=50 * MiB), 1, 0.0, True),  # 5 s + 55 s
        (Known(system=500 * MiB, data=51 * MiB), 1, 0.0, False),
        (Known(system=500 * MiB, data=50 * MiB), 1, 0.5, False),  # the order waited for its turn
        (Known(system=500 * MiB, data=50 * MiB), 2, 0.0, False),  # each target's stream reads for itself
        (Known(system=0, data=None), 1, 0.0, True),  # 100 MiB are read whole
        (Known(system=None, data=0), 1, 0.0, False),
    ],
)
def test_what_trackers_and_history_say_is_compared_with_what_is_left(
    known: Known, targets: int, waited: float, fits: bool
) -> None:
    clock = Clock()
    made = deadline(clock, targets=targets)
    clock.now += waited
    if fits:
        made.require_time_for(PATHS, cast(TrackerKeeper, known))
        return
    with pytest.raises(BootpointError) as refused:
        made.require_time_for(PATHS, cast(TrackerKeeper, known))
    assert refused.value.code is Code.DEADLINE


def test_the_time_is_over_by_the_machines_own_clock() -> None:
    clock = Clock()
    made = deadline(clock)
    before = made.expired
    made.require()
    clock.now += 60.1
    # By the control plane's clock, which may be wrong, it was an hour too late from the start.
    assert (before, made.expired) == (False, True)
    with pytest.raises(BootpointError) as refused:
        made.require()
    assert refused.value.code is Code.DEADLINE


def test_a_run_without_a_deadline_is_never_over() -> None:
    clock = Clock()
    made = deadline(clock, seconds=None)
    clock.now += 1e9
    made.require()
    made.require_time_for(PATHS, cast(TrackerKeeper, None))
    assert not made.expired
