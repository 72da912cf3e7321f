"""A worker that dies between any two steps of a verb, and another one that is to do the rest.

On hosts whose points are their own snapshots; how KVM's driver dies is `tests/integration/kvm/test_crash.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest, Target
from bootpoint_worker.targets.snapshots.target import SnapshotTarget
from tests.contract.drivers import Driver
from tests.contract.test_target import Bench, _at, _pattern, _replica

T = TypeVar("T")

#: Into how many tests the steps are parted, each with a time limit of its own.
PARTS = 6

AT = datetime(2026, 12, 4, 9, 0, tzinfo=UTC)


class Died(BaseException):
    """The worker is gone; nothing may catch it."""


@dataclass
class Mortal:
    """A session that dies at one step, and is followed by one that doesn't.

    Attributes:
        driver: The host's driver.
        die_at: Number of the step.
        steps: Names of the steps that were come to.
    """

    driver: Driver
    die_at: int | None = None
    steps: list[str] = field(default_factory=list)
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        self.target = self._connect()

    def _connect(self) -> Target:
        target = self.driver.connect()
        assert isinstance(target, SnapshotTarget)
        target.host.step = self._step
        return target

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if self.die_at == len(self.steps) - 1:
            raise Died(name)

    def do(self, call: Callable[[Target], T]) -> T:
        """Let a verb be carried out, by a second worker if the first one dies."""
        try:
            return call(self.target)
        except Died:
            self.close()
            self.target = self._connect()
            return call(self.target)

    def close(self) -> None:
        """End the session, as the end of a process ends its connections."""
        self.target.close()


def live(mortal: Mortal) -> None:
    """Let a replica go through all verbs, and look at what it shows in the end."""
    driver = mortal.driver
    bench = Bench(driver, mortal.target, _replica(driver, disks=1))
    replica, do = bench.replica, mortal.do
    do(lambda target: target.create(replica))
    head, content = None, None
    points = []
    for number in range(3):
        wanted = bench.opened(head)
        (layer,) = do(lambda target, wanted=wanted: target.open(replica, wanted))  # type: ignore[misc]
        data = (number * GRAIN, _pattern(number, 2 * GRAIN))
        with closing(do(lambda target, layer=layer: target.open_writer(replica, layer, 1))) as writer:  # type: ignore[misc]
            writer.write(*data)
            writer.flush()
        if number == 1:
            do(lambda target, layer=layer: target.abort(replica, layer.point_id, [layer]))  # type: ignore[misc]
            continue
        sealed = bench.commit_point({"system": layer})
        head = do(lambda target, sealed=sealed: target.commit(replica, sealed))  # type: ignore[misc]
        content = _at(content, data)
        points.append(head)
    first, last = points
    do(lambda target: target.revert(replica, first.point_id))
    do(lambda target: target.start(replica, StartRequest(paused=True)))
    do(lambda target: target.revert(replica, None))
    do(lambda target: target.start(replica, StartRequest(point_id=last.point_id, test_id="t1", paused=True)))
    do(lambda target: target.stop(replica, "t1"))
    do(lambda target: target.discard(replica, AT))
    do(lambda target: target.restore(replica))
    bench.target = mortal.target
    journal = bench.journal()
    assert [point.point_id for point in journal.points] == [first.point_id, last.point_id]
    assert (journal.open_point_id, journal.drift, journal.standby) == (None, None, "off")
    assert bench.read(first.point_id) == _at(None, (0, _pattern(0, 2 * GRAIN)))
    assert bench.read(last.point_id) == content
    do(lambda target: target.remove(replica))
    with closing(driver.connect()) as fresh:
        assert fresh.inspect(replica) is None
        assert not [vm for vm in fresh.inspect_host().vms if vm.name.startswith(replica.vm_name)]


def try_each_step(driver: Driver, part: int) -> None:
    """Let a worker die at each step of one part of all, and look whether the next one does the rest.

    Args:
        driver: The host's driver.
        part: Which of `PARTS`.
    """
    with closing(Mortal(driver)) as counted:
        live(counted)
    assert len(counted.steps) > 40
    for number in range(part, len(counted.steps), PARTS):
        with closing(Mortal(driver, die_at=number)) as mortal:
            try:
                live(mortal)
            except Exception as exc:
                exc.add_note(f"the worker died at step {number}, {counted.steps[number]}")
                raise
