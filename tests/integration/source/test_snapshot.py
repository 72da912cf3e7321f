"""Snapshots on real file systems: who is found to use a disk, what is frozen, and what a copy shows."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_producer.snapshots import Consistency, SnapshotSet, choose
from bootpoint_producer.snapshots.freeze import Freeze
from bootpoint_producer.snapshots.reflink import can_clone, remove_leftovers
from bootpoint_producer.snapshots.usage import usage
from bootpoint_producer.sources import Source
from tests.integration.source.loop import Attach, Mount, run
from tests.service import zfs_fake

#: Seconds within which something that isn't held back has happened, on a busy machine.
SOON = 20.0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(MiB))
    return path


class Writer:
    """A thread that writes one file, and so finds out whether its file system is frozen."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _write(self) -> None:
        self._path.write_bytes(b"x")
        self.done.set()


def take(kind: str, **disks: Path) -> SnapshotSet:
    return choose(disks, kind).snapshot.take(disks)


def content(source: Source) -> bytes:
    try:
        return source.read(0, source.size_bytes)
    finally:
        source.close()


# -- who uses a disk ---------------------------------------------------------------------------------------


def test_a_file_that_nobody_uses_reaches_fs(disk: Path) -> None:
    with disk.open("rb"):  # somebody reads it
        taken = take("none", system=disk)
        assert (taken.consistency, taken.reason) == (Consistency.FS, "")
        assert content(taken.source("system")) == disk.read_bytes()
        assert taken.confirm() == Consistency.FS


def test_a_file_that_another_process_writes_reaches_crash(disk: Path) -> None:
    program = f"f = open({str(disk)!r}, 'r+b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken = take("none", system=disk)
        assert taken.consistency == Consistency.CRASH
        assert "open for writing by python" in taken.reason
        assert str(process.pid) in taken.reason
        process.communicate(b"\n")
    assert usage(disk).quiet


def test_a_write_during_the_run_is_found_afterwards(disk: Path, attach: Attach) -> None:
    device = attach(disk)
    taken = take("none", system=disk, data=device)
    assert taken.consistency == Consistency.FS
    with device.open("r+b", buffering=0) as file:
        file.write(b"x" * 4096)
        os.fsync(file.fileno())
    assert taken.confirm() == Consistency.CRASH


@pytest.mark.parametrize("fs", ["ext4", "xfs", "btrfs"])
def test_a_mount_is_found_through_its_loop_device(mounted: Mount, tmp_path: Path, fs: str) -> None:
    point = mounted(fs, "a")
    image = tmp_path / "a.img"
    device = Path(run("findmnt", "-n", "-o", "SOURCE", point))
    for path in (image, device):
        assert [mount.point for mount in usage(path).mounts] == [str(point)]
        assert take("none", system=path).consistency == Consistency.CRASH
    run("mount", "-o", "remount,ro", point)
    assert usage(image).quiet, "a file system that is read-only as a whole changes nothing"
    run("mount", "-o", "remount,rw", point)


def test_a_disk_of_a_stack_of_files_is_found_at_the_bottom(mounted: Mount, tmp_path: Path) -> None:
    lower = mounted("ext4", "lower")
    upper = mounted("ext4", "upper", lower, "64M")
    assert [mount.point for mount in usage(lower / "upper.img").mounts] == [str(upper)]
    assert [mount.point for mount in usage(tmp_path / "lower.img").mounts] == [str(lower)]


def test_a_disk_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(BootpointError) as caught:
        take("none", system=tmp_path / "none")
    assert caught.value.code == Code.DISK_MISSING


# -- reflink -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", ["xfs", "btrfs"])
def test_a_copy_shows_the_instant_and_leaves_nothing(mounted: Mount, fs: str) -> None:
    folder = mounted(fs, "store")
    disks = {"system": folder / "one.img", "data": folder / "two.img"}
    for path in disks.values():
        path.write_bytes(os.urandom(4 * MiB))
    before = {slot: path.read_bytes() for slot, path in disks.items()}
    taken = choose(disks, "reflink").snapshot.take(disks)
    for path in disks.values():
        path.write_bytes(b"changed" * 512 * 1024)
    assert {slot: content(taken.source(slot)) for slot in disks} == before
    assert (taken.kind, taken.consistency, taken.confirm()) == ("reflink", Consistency.FS, Consistency.FS)
    assert sorted(path.name for path in folder.iterdir()) == ["one.img", "two.img"]
    taken.release()
    taken.release()


def test_a_copy_of_a_file_in_use_is_like_after_a_power_cut(mounted: Mount) -> None:
    disk = mounted("xfs", "store") / "disk.img"
    disk.write_bytes(bytes(MiB))
    with disk.open("r+b"):
        taken = take("reflink", system=disk)
    assert taken.consistency == Consistency.CRASH
    assert "open for writing" in taken.reason
    taken.release()


def test_where_copies_are_impossible(mounted: Mount) -> None:
    disk = mounted("ext4", "store") / "disk.img"
    disk.write_bytes(bytes(MiB))
    assert not can_clone(disk)
    with pytest.raises(BootpointError, match="of the kind reflink") as caught:
        choose({"system": disk}, "reflink")
    assert caught.value.code == Code.SNAPSHOT_FAILED
    assert choose({"system": disk}).snapshot.kind == "none"


def test_leftovers_of_a_dead_agent_go(tmp_path: Path) -> None:
    disk, leftover = tmp_path / "disk.img", tmp_path / ".bootpoint-snapshot-x1y2"
    disk.touch()
    leftover.touch()
    remove_leftovers([disk])
    assert [path.name for path in tmp_path.iterdir()] == ["disk.img"]


# -- freeze ------------------------------------------------------------------------------------------------


def test_nothing_is_written_while_frozen(mounted: Mount) -> None:
    points = [mounted("ext4", "one"), mounted("xfs", "two")]
    with Freeze(mounts=[str(point) for point in points]):
        writers = [Writer(point / "file") for point in points]
        for writer in writers:
            writer.__enter__()
        assert not any(writer.done.wait(0.3) for writer in writers)
    assert all(writer.done.wait(SOON) for writer in writers)
    for writer in writers:
        writer.__exit__()


def test_a_file_system_in_a_file_of_another_one_is_frozen_first(mounted: Mount) -> None:
    lower = mounted("ext4", "lower")
    upper = mounted("ext4", "upper", lower, "64M")
    (upper / "file").write_bytes(os.urandom(4 * MiB))  # dirty: has to get through to the lower one
    with Freeze(mounts=[str(lower), str(upper)], timeout=SOON):
        pass


def test_the_watchdog_thaws_and_the_run_is_told(mounted: Mount) -> None:
    point = mounted("ext4", "one")

    def wait_too_long() -> None:
        with Freeze(mounts=[str(point)], timeout=0.5), Writer(point / "file") as writer:
            assert writer.done.wait(SOON), "nothing thawed it"

    with pytest.raises(BootpointError) as caught:
        wait_too_long()
    assert caught.value.code == Code.FREEZE_TIMEOUT


def test_a_freeze_that_hangs_is_given_up_and_thawed_when_it_gets_through(mounted: Mount) -> None:
    lower = mounted("ext4", "lower")
    other, upper = mounted("ext4", "other"), mounted("ext4", "upper", lower, "64M")
    run("fsfreeze", "--freeze", lower)
    try:
        (upper / "dirty").write_bytes(os.urandom(MiB))  # its flush waits for the lower one, and nothing can end that
        with (
            pytest.raises(BootpointError, match=f"{upper} could not be frozen within 0.5 s") as caught,
            Freeze(mounts=[str(upper), str(other)], timeout=0.5),
        ):
            pass
        assert caught.value.code == Code.FREEZE_TIMEOUT
        with Writer(other / "file") as writer:
            assert writer.done.wait(SOON), "what was frozen before it is thawed at once"
    finally:
        run("fsfreeze", "--unfreeze", lower)
    with Writer(upper / "file") as writer:
        assert writer.done.wait(SOON), "it stays frozen"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_stopped_agent_leaves_nothing_frozen(mounted: Mount, how: signal.Signals) -> None:
    point = mounted("ext4", "one")
    program = (
        "from bootpoint_producer.snapshots.freeze import Freeze\n"
        f"with Freeze(mounts=[{str(point)!r}], timeout=2.0):\n"
        "    print(flush=True); input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Writer(point / "file") as writer:
            assert not writer.done.wait(0.3)
            process.send_signal(how)
            assert writer.done.wait(SOON)
        process.kill()


def test_what_somebody_else_froze_stays_frozen(mounted: Mount) -> None:
    one, two = mounted("ext4", "one"), mounted("ext4", "two")
    run("fsfreeze", "--freeze", one)
    try:
        with pytest.raises(BootpointError, match="frozen already"), Freeze(mounts=[str(one), str(two)]):
            pass
        with Writer(one / "file") as writer, Writer(two / "file") as other:
            assert other.done.wait(SOON), "what was frozen before the failure is thawed"
            assert not writer.done.wait(0.3)
            run("fsfreeze", "--unfreeze", one)
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", one], check=False, capture_output=True)


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_a_mounted_file_on_reflink_storage_reaches_fs(mounted: Mount, tmp_path: Path, fs: str) -> None:
    store = mounted("xfs", "store", size="700M")
    point = mounted(fs, "disk", store)
    (point / "before").write_bytes(os.urandom(2 * MiB))
    before = (point / "before").read_bytes()
    disks = {"system": store / "disk.img"}
    taken = choose(disks).snapshot.take(disks)
    (point / "after").write_bytes(b"too late")
    assert (taken.kind, taken.consistency, taken.reason) == ("fsfreeze", Consistency.FS, "")
    copy = tmp_path / "copy.img"
    copy.write_bytes(content(taken.source("system")))
    taken.release()
    # Read-only and without the journal: a copy that isn't clean shows it.
    options = {"ext4": "ro,noload,loop", "xfs": "ro,norecovery,nouuid,loop"}[fs]
    shown = tmp_path / "shown"
    shown.mkdir()
    run("mount", "-t", fs, "-o", options, copy, shown)
    try:
        assert (shown / "before").read_bytes() == before
        assert not (shown / "after").exists()
    finally:
        run("umount", shown)


def test_a_plain_device_reaches_crash_only(mounted: Mount) -> None:
    point = mounted("ext4", "disk")
    (point / "file").write_bytes(b"flushed by the freeze")
    device = Path(run("findmnt", "-n", "-o", "SOURCE", point))
    taken = take("auto", system=device)
    assert (taken.kind, taken.consistency) == ("fsfreeze", Consistency.CRASH)
    assert "nothing here can hold it still (no volume of LVM's lies on it)" in taken.reason
    assert b"flushed by the freeze" in content(taken.source("system"))
    taken.release()


# -- the instant -------------------------------------------------------------------------------------------


def test_the_instant_is_told_once_and_the_picture_has_a_path_for_others(mounted: Mount) -> None:
    store = mounted("xfs", "store", size="700M")
    quiet, busy = store / "quiet.img", store / "busy.img"
    quiet.write_bytes(os.urandom(MiB))
    point = mounted("ext4", "busy", store)
    for kind, disk in (("none", quiet), ("reflink", quiet), ("reflink", busy)):
        told: list[bytes] = []

        def at_instant(disk: Path = disk, told: list[bytes] = told) -> None:
            told.append(disk.read_bytes())

        taken = choose({"system": disk}, kind).snapshot.take({"system": disk}, at_instant=at_instant)
        (point / kind).write_bytes(b"later")
        os.sync()
        shown = run("sha256sum", taken.path("system")).split()[0]
        assert [hashlib.sha256(seen).hexdigest() for seen in told] == [shown], kind
        assert hashlib.sha256(content(taken.source("system"))).hexdigest() == shown
        with pytest.raises(KeyError):
            taken.path("other")
        taken.release()


def test_the_instant_lies_within_the_freeze(mounted: Mount) -> None:
    point = mounted("ext4", "disk")
    device = Path(run("findmnt", "-n", "-o", "SOURCE", point))
    with Writer(point / "file") as writer:
        assert writer.done.wait(SOON)
    writers = [Writer(point / "file")]

    def at_instant() -> None:
        writers[0].__enter__()
        assert not writers[0].done.wait(0.3), "something is written though the instant has come"

    choose({"system": device}).snapshot.take({"system": device}, at_instant=at_instant).release()
    assert writers[0].done.wait(SOON)
    writers[0].__exit__()


# -- disks of several kinds --------------------------------------------------------------------------------


def test_a_run_of_several_kinds_has_one_instant_and_the_name_of_the_weakest(
    mounted: Mount, attach: Attach, tmp_path: Path
) -> None:
    image = tmp_path / "device.img"
    image.write_bytes(bytes(4 * MiB))
    disks = {"system": mounted("xfs", "one") / "a.img", "data": mounted("btrfs", "two") / "b.img"}
    for path in disks.values():
        path.write_bytes(b"before" * 4096)
    choice = choose({**disks, "quiet": attach(image)}, owner="erp-db")
    assert choice.kinds == {"system": "reflink", "data": "btrfs", "quiet": "none"}
    assert choice.reasons == {
        "system": "it is a file on storage that copies by reference",
        "data": "it is a file on btrfs",
        "quiet": "nobody uses it",
    }
    taken = choice.snapshot.take({**disks, "quiet": attach(image)})
    for path in disks.values():
        path.write_bytes(b"later.")
    assert (taken.kind, taken.consistency, taken.confirm()) == ("none", Consistency.FS, Consistency.FS)
    assert {content(taken.source(slot)) for slot in disks} == {b"before" * 4096}
    taken.release()
    for path in disks.values():
        assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_is_not_copied_on_storage_that_is_frozen_with_it(mounted: Mount) -> None:
    store = mounted("xfs", "store")
    (store / "disk.img").write_bytes(bytes(MiB))
    disks = {"system": Path(run("findmnt", "-n", "-o", "SOURCE", store)), "data": store / "disk.img"}
    choice = choose(disks)
    assert choice.kinds == {"system": "fsfreeze", "data": "none"}
    taken = choice.snapshot.take(disks)
    assert taken.consistency == Consistency.CRASH
    with pytest.raises(BootpointError, match="is frozen with the others"):
        choose(dict(reversed(disks.items())), "reflink")
    taken.release()


def test_a_kind_that_is_unknown_or_impossible_is_refused_by_name(disk: Path) -> None:
    for kind, words in (("vss", "no snapshot of the kind 'vss'"), ("lvm-thin", "of the kind lvm-thin")):
        with pytest.raises(BootpointError, match=words) as caught:
            choose({"system": disk}, kind)
        assert caught.value.code == Code.SNAPSHOT_FAILED


# -- ZFS ---------------------------------------------------------------------------------------------------


def test_a_volume_of_zfs_is_read_through_a_clone(
    mounted: Mount, attach: Attach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = mounted("xfs", "store")
    zfs_fake.install(monkeypatch, tmp_path, store)
    image = tmp_path / "volume.img"
    image.write_bytes(os.urandom(4 * MiB))
    before = image.read_bytes()
    volume = zfs_fake.add_volume(tmp_path, "vol", attach(image))
    (store / "other.img").write_bytes(before)
    disks = {"system": volume, "data": store / "other.img"}
    choice = choose(disks, owner="erp-db")
    assert choice.reasons == {"system": "it is a volume of ZFS", "data": "it is a file on ZFS"}
    taken = choice.snapshot.take(disks)
    with volume.open("r+b") as file:
        file.write(b"later")
    (store / "other.img").write_bytes(b"later" * 4096)
    assert (taken.kind, taken.consistency) == ("zfs", Consistency.FS)
    assert [content(taken.source(slot)) for slot in disks] == [before, before]
    run("zfs", "destroy", taken.path("system").removeprefix(f"{tmp_path}/zfs/dev/"))
    for name in run("zfs", "list", "-H", "-o", "name", "-t", "snapshot").splitlines():
        run("zfs", "destroy", name)
    with pytest.raises(BootpointError) as caught:
        taken.confirm()
    assert caught.value.code == Code.SNAPSHOT_LOST
    taken.release()
    assert run("zfs", "list", "-H", "-o", "name", "-t", "snapshot,volume") == "tank/vol"
