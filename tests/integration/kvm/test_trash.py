"""Deleted replicas as files on a KVM host: nothing of others moves; what dies half-way, the next call finishes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GRAIN
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.kvm import KvmTarget
from tests.integration.kvm.conftest import Bench

AT = datetime(2026, 12, 4, 9, 0, tzinfo=UTC)


class Died(BaseException):
    """The worker was killed."""


@pytest.fixture
def target(bench: Bench) -> Iterator[KvmTarget]:
    connected = bench.connect()
    yield connected
    bench.step = lambda _name: None
    connected.purge(bench.replica)


def trash_of(bench: Bench) -> Path:
    return Path(bench.replica.storage) / ".bootpoint-trash" / str(bench.replica.replica_id)


def chain(bench: Bench, target: KvmTarget) -> list[JournalPoint]:
    target.create(bench.replica)
    first = bench.point(target, None, b"1" * GRAIN)
    return [first, bench.point(target, first, b"2" * GRAIN)]


def whole(bench: Bench, target: KvmTarget, points: list[JournalPoint]) -> None:
    """Assert that the replica is in its place again, with all points and a standby that is off."""
    journal = target.inspect(bench.replica)
    assert journal is not None
    assert (list(journal.points), journal.standby, journal.drift) == (points, "off", None)
    assert [bench.start_of(target, point, 1) for point in points] == [[b"1"] * 2, [b"2"] * 2]
    assert bench.replica.vm_name in bench.host.virsh("list", "--all", "--name")
    assert (bench.directory / "RUNBOOK.txt").exists()
    for file in bench.directory.glob("*.scratch-*.qcow2"):
        subprocess.run(["qemu-img", "check", "-q", file], check=True)


def strike(bench: Bench, step: str, call: Callable[[], None]) -> None:
    """Let the worker die at a step of a call."""

    def reached(name: str) -> None:
        if name == step:
            raise Died

    bench.step = reached
    with pytest.raises(Died):
        call()
    bench.step = lambda _name: None


def test_files_that_are_half_moved_are_moved_on(bench: Bench, target: KvmTarget) -> None:
    """As when the host lost its power in the midst of a script: between any two files."""
    points = chain(bench, target)
    strike(bench, "discard:move", lambda: target.discard(bench.replica, AT))
    trash_of(bench).mkdir(parents=True)
    file = points[0].disks[0].identity
    (bench.directory / file).rename(trash_of(bench) / file)
    # Nobody uses it meanwhile.
    for verb in (target.inspect, target.create):
        with pytest.raises(BootpointError) as caught:
            verb(bench.replica)
        assert caught.value.code is Code.BUSY
    assert target.find_replicas() == []
    target.discard(bench.replica, AT)
    assert not bench.directory.exists()

    bench.directory.mkdir()
    (trash_of(bench) / file).rename(bench.directory / file)
    target.restore(bench.replica)
    whole(bench, target, points)

    # Its new journal is written, and the old one not yet removed.
    target.discard(bench.replica, AT)
    old = (trash_of(bench) / "manifest.json").read_bytes()
    target.restore(bench.replica)
    trash_of(bench).mkdir(parents=True)
    (trash_of(bench) / "manifest.json").write_bytes(old)
    target.restore(bench.replica)
    whole(bench, target, points)
    assert not trash_of(bench).exists()

    # Half taken back, and given up: all of it goes for good.
    target.discard(bench.replica, AT)
    bench.directory.mkdir()
    (trash_of(bench) / file).rename(bench.directory / file)
    target.purge(bench.replica)
    assert list(Path(bench.replica.storage).iterdir()) == []


def test_nothing_of_others_is_touched(bench: Bench, target: KvmTarget) -> None:
    points = chain(bench, target)
    stem = bench.replica.disks[0].disk_name
    others = {
        "notes.txt": b"mine",
        f"{stem}.backup.qcow2": b"named alike, and not ours",
        f"{stem}.qcow2": b"another",
        "photos.d": None,
    }
    for name, content in others.items():
        if content is None:
            (bench.directory / name).mkdir()
        else:
            (bench.directory / name).write_bytes(content)
    beside = Path(bench.replica.storage) / "other-vm"
    beside.mkdir()
    (beside / f"{stem}.0.qcow2").write_bytes(b"x")

    def there() -> None:
        for name, content in others.items():
            found = bench.directory / name
            assert found.is_dir() if content is None else found.read_bytes() == content
        assert (beside / f"{stem}.0.qcow2").read_bytes() == b"x"

    target.discard(bench.replica, AT)
    there()
    assert {file.name for file in bench.directory.iterdir()} == set(others)
    assert not set(others) & {file.name for file in trash_of(bench).iterdir()}
    target.restore(bench.replica)
    there()
    whole(bench, target, points)
    target.discard(bench.replica, AT)
    target.purge(bench.replica)
    there()
    assert {file.name for file in bench.directory.iterdir()} == set(others)
    assert not trash_of(bench).parent.exists()
    shutil.rmtree(bench.directory)
    shutil.rmtree(beside)


def test_an_overlay_that_somebody_made_keeps_the_replica_where_it_is(bench: Bench, target: KvmTarget) -> None:
    points = chain(bench, target)
    mine = bench.directory / "mine.img"
    below = bench.directory / points[0].disks[0].identity
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, mine], check=True)
    for dry_run in (True, False):
        with pytest.raises(BootpointError) as caught:
            target.discard(bench.replica, AT, dry_run=dry_run)
        assert (caught.value.code, "mine.img" in caught.value.message) == (Code.POINT_IN_USE, True)
    whole(bench, target, points)
    mine.unlink()
    target.discard(bench.replica, AT)
