"""The driver dies between any two steps; called again it finishes, and the head is intact at every moment."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.kvm import KvmTarget
from tests.integration.kvm.conftest import Bench


class Died(BaseException):
    """The worker died here."""


def _dying_at(number: int, seen: list[str]) -> Callable[[str], None]:
    def step(name: str) -> None:
        seen.append(name)
        if len(seen) == number:
            raise Died

    return step


def _steps(bench: Bench, work: Callable[[KvmTarget], object]) -> int:
    """Do the work once undisturbed, and return how many steps it has."""
    seen: list[str] = []
    bench.step = seen.append
    work(bench.connect())
    bench.step = lambda _name: None
    assert seen
    return len(seen)


def _die(bench: Bench, number: int, work: Callable[[KvmTarget], object]) -> None:
    """Do the work with a target that dies at a step and leaves everything as it was at that moment."""
    bench.step = _dying_at(number, [])
    target = bench.connect()
    with pytest.raises(Died):
        work(target)
    bench.step = lambda _name: None
    target.close()


@pytest.mark.timeout(400)  # some ten deaths, each followed by a commit that libvirt may take seconds for
def test_a_commit_that_died_at_any_step_is_finished_by_the_next(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    head = bench.point(target, None, b"0" * GRAIN)
    sealed = bench.filled(target, head, b"1" * GRAIN)
    steps = _steps(bench, lambda other: other.commit(bench.replica, sealed))
    for number in range(1, steps + 1):
        before = target.inspect(bench.replica)
        assert before is not None
        assert before.head is not None
        data = bytes([number]) * GRAIN
        sealed = bench.filled(target, before.head, data)
        _die(bench, number, lambda other, sealed=sealed: other.commit(bench.replica, sealed))  # type: ignore[misc]
        between = target.inspect(bench.replica)
        assert between is not None
        assert between.points[: len(before.points)] == before.points
        # Half a point is never seen: it is there with both disks, or not at all.
        assert all(len(point.disks) == 2 for point in between.points)
        point = target.commit(bench.replica, sealed)
        after = target.inspect(bench.replica)
        assert after is not None
        assert (after.head, after.open_point_id, after.drift) == (point, None, None)
        assert bench.start_of(target, point, GRAIN) == [data] * 2
        _check_standby(bench, sealed.name)
    assert bench.start_of(target, head, GRAIN) == [b"0" * GRAIN] * 2


def _check_standby(bench: Bench, name: str) -> None:
    """The definition stands on empty scratch layers over the head, and nothing else of the kind is left."""
    used = [line.split()[-1] for line in bench.host.virsh("domblklist", bench.replica.vm_name).splitlines() if line]
    scratch = sorted(str(path) for path in bench.directory.glob("*.scratch-*"))
    assert sorted(used) == scratch
    assert all(name in path for path in scratch)
    assert not list(bench.directory.glob("*.branch-*"))
    assert name in (bench.directory / "RUNBOOK.txt").read_text()


def test_an_open_that_died_at_any_step_is_repeated(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    opening = bench.opening(None)
    steps = _steps(bench, lambda other: other.open(bench.replica, opening))
    target.abort(bench.replica, opening.point_id, [])
    for number in range(1, steps + 1):
        opening = bench.opening(None)
        _die(bench, number, lambda other, opening=opening: other.open(bench.replica, opening))  # type: ignore[misc]
        layers = target.open(bench.replica, opening)
        assert sorted(path.name for path in bench.directory.glob("*.qcow2")) == sorted(
            layer.identity for layer in layers
        )
        target.abort(bench.replica, opening.point_id, layers)
        assert not list(bench.directory.glob("*.qcow2"))


def test_a_start_that_died_at_any_step_is_repeated(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    head = bench.point(target, None, b"0" * GRAIN)
    request = StartRequest(test_id="t1", paused=True)
    target.examine(bench.replica, head.point_id)  # else the first start does
    steps = _steps(bench, lambda other: other.start(bench.replica, request))
    target.stop(bench.replica, "t1")
    for number in range(1, steps + 1):
        _die(bench, number, lambda other: other.start(bench.replica, request))
        vm = target.start(bench.replica, request)
        assert vm.name in bench.host.virsh("list", "--all", "--name").split()
        target.stop(bench.replica, "t1")
    # The next commit clears what the deaths left behind.
    bench.point(target, head, b"1" * GRAIN)
    assert len(list(bench.directory.glob("*.scratch-*"))) == 2
    assert not list(bench.directory.glob("*.branch-*"))


def test_an_examination_that_died_at_any_step_is_repeated(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    head = bench.point(target, None, b"0" * GRAIN)
    steps = _steps(bench, lambda other: other.examine(bench.replica, head.point_id))
    files = sorted(path.name for path in bench.directory.glob("*.qcow2"))
    for number in range(1, steps + 1):
        _die(bench, number, lambda other: other.examine(bench.replica, head.point_id))
        profile = target.examine(bench.replica, head.point_id)
        journal = target.inspect(bench.replica)
        assert journal is not None
        assert journal.profile == profile
        assert not profile.bootable
        assert sorted(path.name for path in bench.directory.glob("*.qcow2")) == files


def test_a_revert_that_died_at_any_step_is_repeated(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    points = [bench.point(target, None, b"0" * GRAIN)]
    points.append(bench.point(target, points[0], b"1" * GRAIN))
    steps = _steps(bench, lambda other: other.revert(bench.replica, points[0].point_id))
    for number in range(1, steps + 1):
        # There and back, so that each time new layers are made.
        target.revert(bench.replica, points[1].point_id)
        _die(bench, number, lambda other: other.revert(bench.replica, points[0].point_id))
        target.revert(bench.replica, points[0].point_id)
        journal = target.inspect(bench.replica)
        assert journal is not None
        assert journal.standing is not None
        assert (journal.standing.point_id, journal.standing.held) == (points[0].point_id, True)
        assert (journal.points, journal.standby, journal.drift) == (tuple(points), "off", None)
        _check_standby(bench, points[0].name)
    assert [bench.start_of(target, point, GRAIN) for point in points] == [[b"0" * GRAIN] * 2, [b"1" * GRAIN] * 2]


def test_a_frozen_worker_that_thaws_changes_nothing(bench: Bench) -> None:
    """Between reading the journal and writing it another worker aborted and opened anew."""
    target, other = bench.connect(), bench.connect()
    target.create(bench.replica)
    sealed = bench.filled(target, None, b"1" * GRAIN)
    later: list[object] = []

    def frozen(name: str) -> None:
        if name == "commit:publish" and not later:
            later.append(None)
            other.abort(bench.replica, sealed.point_id, sealed.layers)
            later.append(other.open(bench.replica, bench.opening(None)))

    bench.step = frozen
    with pytest.raises(Exception, match="layer_lost"):
        target.commit(bench.replica, sealed)
    journal = other.inspect(bench.replica)
    assert journal is not None
    assert (journal.points, journal.open_layers) == ((), later[1])


def test_every_overlay_names_its_own_and_its_backing_format(bench: Bench) -> None:
    target = bench.connect()
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    bench.point(target, first, b"1" * GRAIN)
    backed = 0
    for path in bench.directory.glob("*.qcow2"):
        info = subprocess.run(["qemu-img", "info", str(path)], capture_output=True, text=True, check=True).stdout
        assert "file format: qcow2" in info
        if "backing file:" in info:
            backed += 1
            assert "backing file format: qcow2" in info
            line = next(line for line in info.splitlines() if line.startswith("backing file:"))
            assert not line.split()[2].startswith("/")
    assert backed == 4
    for point in (first,):
        for disk in point.disks:
            assert (bench.directory / disk.identity).stat().st_mode & 0o777 == 0o440
