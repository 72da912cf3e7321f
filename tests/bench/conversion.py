"""What a start takes: the light conversion of a machine that knows IDE alone, and bootpoint's own time of a start."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.kvm.hypervisor import Hypervisor
from tests.bench.rig import Rig
from tests.service import guest
from tests.service.physical import Physical


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds of each round.

    Attributes:
        conversion: What a start with the light conversion takes more than one without.
        own: A start without conversion, less what libvirt's call takes that creates the VM.
        create: That call.
    """

    conversion: list[float]
    own: list[float]
    create: list[float]


def measure(rig: Rig, rounds: int) -> Starts:
    """Start tests of one point, with and without conversion in turns; a guest boots by TCG and is cut off at once."""
    starts = Starts([], [], [])
    with tempfile.TemporaryDirectory(prefix="bootpoint-guest-", dir="/var/tmp") as name:
        disk = Path(name) / "disk.raw"
        guest.ide_disk(disk, "bench")
        with closing(Physical(rig.fleet.libvirt, rig.fleet.storage, [disk])) as physical:
            physical.target.examine(physical.replica, physical.points[-1].point_id)
            for number in range(-1, rounds):
                plain, create = _start(physical, "none")
                converted, with_conversion = _start(physical, "light")
                if number < 0:  # a warm-up, which doesn't count
                    continue
                starts.own.append(plain - create)
                starts.create.append(create)
                starts.conversion.append(converted - with_conversion - (plain - create))
                print(
                    f"  start {plain:.2f} s, of which libvirt's create {create:.2f} s; converted {converted:.2f} s",
                    flush=True,
                )
    return starts


def _start(physical: Physical, conversion: str) -> tuple[float, float]:
    """Start a test and end it; returns the seconds of the start, and those of libvirt's call within it."""
    spent: list[float] = []
    create = Hypervisor.start

    def timed(hypervisor: Hypervisor, name: str) -> None:
        began = time.monotonic()
        create(hypervisor, name)
        spent.append(time.monotonic() - began)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hypervisor, "start", timed)
        seconds = _seconds(
            lambda: physical.target.start(physical.replica, StartRequest(test_id="b1", conversion=conversion))
        )
    physical.target.stop(physical.replica, "b1")
    return seconds, sum(spent)


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
