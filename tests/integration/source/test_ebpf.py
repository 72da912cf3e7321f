"""Following writes in the kernel, for real: which are seen, that no cut loses one, and what ends the trust in it."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from bootpoint_common.units import GRAIN, GiB, KiB, MiB
from bootpoint_producer.diskmap import inventory
from bootpoint_producer.trackers import providers
from bootpoint_producer.trackers.ebpf import library, program
from bootpoint_producer.trackers.ebpf.program import OBJECT, Program
from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
from tests.integration.source.loop import Attach, node, run
from tests.service.component import need
from tests.service.cutting import cut_under_load
from tests.service.tracked import TrackedDisk, bpf_mount, differing, numbers

#: linux/loop.h
_LOOP_CTL_ADD = 0x4C80

SIZE = 256 * MiB
COUNT = SIZE // GRAIN

#: What a child does that holds two capabilities only: it follows a disk, writes a grain and prints what it saw.
CHILD = """
import os, sys
from pathlib import Path
from bootpoint_producer.trackers.ebpf.program import Program
from bootpoint_producer.trackers.ebpf.provider import EbpfProvider
device, pins = map(Path, sys.argv[1:])
provider = EbpfProvider(Program(pins))
assert provider.why_not(device) is None, provider.why_not(device)
provider.arm(device)
descriptor = os.open(device, os.O_WRONLY | os.O_SYNC)
os.pwrite(descriptor, b"x" * 512, 7 * 65536)
provider.arm(device)
provider.instant(device)
(closed,) = provider.collect(device)
print([number for number, cell in enumerate(closed.grains.cells) if cell])
"""


@pytest.fixture(autouse=True)
def kernel() -> None:
    need("root", "loop", "bpf", "fio")


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    with bpf_mount(tmp_path) as folder:
        yield folder


@pytest.fixture
def device(tmp_path: Path, attach: Attach) -> Path:
    file = tmp_path / "disk.img"
    with file.open("wb") as stream:
        stream.truncate(SIZE)
    return attach(file)


@pytest.fixture
def tracked(device: Path, pins: Path) -> TrackedDisk:
    made = TrackedDisk(device, pins)
    made.cut()
    return made


def own_loop() -> Path:
    """Make a loop device of a number that nobody is given who asks for a free one: it is empty for a moment."""
    number = 900 + os.getpid() % 100
    with Path("/dev/loop-control").open("rb") as control, suppress(FileExistsError):
        fcntl.ioctl(control, _LOOP_CTL_ADD, number)
    return node(f"loop{number}")


def write(device: Path, offset: int, length: int, *, direct: bool = True) -> None:
    """Write random bytes, and see that they reach the device."""
    descriptor = os.open(device, os.O_WRONLY | (os.O_DIRECT if direct else 0))
    try:
        with mmap.mmap(-1, length) as buffer:
            buffer.write(os.urandom(length))
            assert os.pwrite(descriptor, buffer, offset) == length
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- what is seen ---------------------------------------------------------------------------------------------------


def test_each_write_marks_the_grains_that_it_touches(tracked: TrackedDisk) -> None:
    write(tracked.device, 0, 512)
    write(tracked.device, 5 * GRAIN - 512, 1024)
    write(tracked.device, 63 * GRAIN, 3 * GRAIN)
    write(tracked.device, SIZE - 512, 512)
    write(tracked.device, 1000 * GRAIN, 10, direct=False)
    assert numbers(tracked.cut()) == {0, 4, 5, 63, 64, 65, COUNT - 1, 1000}
    assert numbers(tracked.cut()) == set()


@pytest.mark.parametrize("zeroout", [False, True])
def test_discarded_and_zeroed_ranges_are_changes(tracked: TrackedDisk, rng: Random, zeroout: bool) -> None:
    how = ["--zeroout"] if zeroout else []
    for _ in range(8):
        first = rng.randrange(COUNT)
        count = min(COUNT - first, max(1, int(COUNT * rng.random() ** 3)))
        place = ["--offset", str(first * GRAIN), "--length", str(count * GRAIN)]
        run("blkdiscard", "-f", *how, *place, str(tracked.device))
        assert numbers(tracked.cut()) == set(range(first, first + count))


def test_the_largest_discards_fit_in_the_coarser_levels(tmp_path: Path, attach: Attach, pins: Path) -> None:
    file = tmp_path / "large.img"
    with file.open("wb") as stream:
        stream.truncate(40 * GiB)
    tracked = TrackedDisk(attach(file), pins)
    tracked.cut()
    run("blkdiscard", "-f", "--offset", str(3 * GRAIN), "--length", str(33 * GiB), str(tracked.device))
    write(tracked.device, 39 * GiB, 4 * KiB)
    assert numbers(tracked.cut()) == {*range(3, 3 + 33 * GiB // GRAIN), 39 * GiB // GRAIN}


def test_writes_to_a_partition_are_writes_to_its_disk(tracked: TrackedDisk) -> None:
    device = tracked.device
    subprocess.run(["sfdisk", "-q", device], input="start=2MiB, size=100MiB\n", text=True, check=True)
    run("partx", "--update", device)
    try:
        tracked.cut()
        partition = node(f"{device.name}p1")
        write(partition, 5 * GRAIN, 4 * KiB)
        before = tracked.digests()
        run("mkfs.ext4", "-q", "-E", "nodiscard", partition)
        run("blockdev", "--flushbufs", device)
        found = numbers(tracked.cut())
        assert 2 * MiB // GRAIN + 5 in found
        assert differing(before, tracked.digests()) <= found
        assert found <= set(range(2 * MiB // GRAIN, 102 * MiB // GRAIN))
        assert "partition" in str(tracked.provider.why_not(partition))
    finally:
        run("partx", "--delete", device)


def test_other_disks_are_left_alone(tracked: TrackedDisk, tmp_path: Path, attach: Attach) -> None:
    shutil.copy(tmp_path / "disk.img", tmp_path / "other.img")
    other = attach(tmp_path / "other.img")
    write(other, 0, MiB)
    write(tracked.device, GRAIN, 512)
    assert numbers(tracked.cut()) == {1}


# --- cuts -----------------------------------------------------------------------------------------------------------


def test_no_cut_loses_a_write_that_is_under_way(tracked: TrackedDisk, tmp_path: Path) -> None:
    counts = cut_under_load(tracked, tmp_path, COUNT, 100)
    assert counts.cuts == 100
    assert counts.writes > 200
    assert counts.lost == 0


def test_following_goes_on_while_the_agent_is_away(tracked: TrackedDisk) -> None:
    before = tracked.provider.arm(tracked.device)
    write(tracked.device, 3 * GRAIN, 512)
    closed = tracked.provider.instant(tracked.device)  # and then the agent is killed, before it took anything
    tracked.restart()
    write(tracked.device, 4 * GRAIN, 512)
    after = tracked.provider.arm(tracked.device)
    assert (after.tracker, after.sequence) == (before.tracker, before.sequence + 1)
    assert numbers(tracked.take(closed)) == {3}
    assert numbers(tracked.cut()) == {4}


def test_a_crash_in_the_midst_of_a_cut_loses_nothing(tracked: TrackedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tracked.provider.arm(tracked.device)
    write(tracked.device, 3 * GRAIN, 512)
    with monkeypatch.context() as patch:
        patch.setattr(library, "put", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            tracked.provider.instant(tracked.device)
    tracked.restart()
    assert tracked.provider.arm(tracked.device).tracker == before.tracker
    assert numbers(tracked.cut()) == {3}


def test_what_was_written_since_a_cut_can_be_asked(tracked: TrackedDisk) -> None:
    write(tracked.device, 9 * GRAIN, 512)
    found = tracked.provider.written_since(tracked.device)
    assert found is not None
    assert numbers(found) == {9}


def test_a_disk_that_nobody_needs_is_not_followed_any_more(tracked: TrackedDisk, pins: Path) -> None:
    armed = tracked.provider.arm(tracked.device)
    tracked.provider.keep_only([armed.tracker])
    assert tracked.provider.arm(tracked.device).tracker == armed.tracker
    tracked.provider.keep_only([])
    assert list(pins.glob("*/disk-*")) == []
    assert tracked.provider.arm(tracked.device).tracker != armed.tracker


def test_two_agents_do_not_take_each_other_s_disks(tracked: TrackedDisk) -> None:
    other = EbpfProvider(Program(tracked.pins, owner="other"))
    other.arm(tracked.device)
    other.keep_only([])
    write(tracked.device, 5 * GRAIN, 512)
    assert numbers(tracked.cut()) == {5}


# --- doubt ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["queue-link", "remap-link", "queue-program", "disks", "disk-*", "."])
def test_whatever_is_taken_from_the_kernel_begins_a_new_tracker(tracked: TrackedDisk, pins: Path, gone: str) -> None:
    before = tracked.provider.arm(tracked.device)
    (folder,) = pins.iterdir()
    if gone == ".":
        shutil.rmtree(pins)
    else:
        for path in folder.glob(gone):
            path.unlink()
    write(tracked.device, 0, 512)
    after = tracked.provider.arm(tracked.device)
    assert (after.tracker != before.tracker, after.sequence) == (True, 1)
    write(tracked.device, GRAIN, 512)
    assert numbers(tracked.cut()) == {1}


def test_a_link_that_was_lost_before_the_instant_is_found_after_it(tracked: TrackedDisk, pins: Path) -> None:
    tracked.provider.arm(tracked.device)
    for path in pins.glob("*/queue-link"):
        path.unlink()
    with pytest.raises(OSError, match="queue-link"):
        tracked.provider.instant(tracked.device)
    with pytest.raises(OSError, match="queue-link"):
        tracked.provider.collect(tracked.device)


def test_a_disk_in_the_place_of_another_of_the_same_size_is_another_disk(tmp_path: Path, pins: Path) -> None:
    file, other = tmp_path / "disk.img", tmp_path / "other.img"
    for made in (file, other):
        made.write_bytes(os.urandom(MiB))
    device = own_loop()
    run("losetup", device, file)
    tracked = TrackedDisk(device, pins)
    before = tracked.provider.arm(device)
    run("losetup", "--detach", device)
    with pytest.raises(OSError, match="no disk any more"):
        tracked.provider.arm(device)
    run("losetup", device, other)
    try:
        after = tracked.provider.arm(device)
        assert after.tracker != before.tracker
        assert after.identity != before.identity
        assert after.size_bytes == before.size_bytes
    finally:
        run("losetup", "--detach", device)


def test_a_disk_that_grows_begins_a_new_tracker_and_what_lies_beyond_is_an_overflow(
    tracked: TrackedDisk, tmp_path: Path
) -> None:
    before = tracked.provider.arm(tracked.device)
    with (tmp_path / "disk.img").open("r+b") as stream:
        stream.truncate(2 * SIZE)
    run("losetup", "--set-capacity", tracked.device)
    write(tracked.device, SIZE, 512)
    tracked.provider.instant(tracked.device)
    assert [closed.overflow for closed in tracked.provider.collect(tracked.device)] == [True]
    after = tracked.provider.arm(tracked.device)
    assert after.tracker != before.tracker
    assert (after.identity, after.size_bytes) == (before.identity, 2 * SIZE)


def test_two_capabilities_are_all_it_needs(device: Path, pins: Path) -> None:
    dropped = ["setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all"]
    done = subprocess.run(
        [*dropped, sys.executable, "-c", CHILD, device, pins], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[7]"), done.stderr
    refused = subprocess.run(
        ["setpriv", "--bounding-set=-all,+bpf", sys.executable, "-c", CHILD, device, pins],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the agent needs CAP_BPF and CAP_PERFMON" in refused.stderr


def test_why_a_disk_is_not_followed_is_said(device: Path, pins: Path, tmp_path: Path) -> None:
    provider = EbpfProvider(Program(pins))
    assert provider.why_not(device) is None
    assert "file" in str(provider.why_not(tmp_path / "disk.img"))
    elsewhere = tmp_path / "elsewhere" / "bootpoint"
    assert EbpfProvider(Program(elsewhere)).why_not(device) == (
        f"no BPF file system is mounted at {tmp_path}/elsewhere"
    )
    unbuilt = EbpfProvider(Program(pins, tmp_path / "writes.bpf.o"))
    assert unbuilt.why_not(device) == "this installation was built without writes.bpf.o"
    assert not pins.exists()  # asking changed nothing


def test_the_list_of_disks_says_which_tracker_each_one_gets_and_why(
    device: Path, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(wanted: str) -> tuple[str, str]:
        (item,) = inventory([device], trackers=providers(wanted))["items"][-1:]
        return item["tracker"], item["tracker_reason"]

    monkeypatch.setattr(program, "PINS", pins)
    assert told("auto") == ("ebpf", "its writes are followed")
    assert told("hash") == ("hash", "the configuration wants no other")
    monkeypatch.setattr(program, "PINS", Path("/nowhere/bootpoint"))
    assert told("ebpf") == ("hash", "ebpf: no BPF file system is mounted at /nowhere")
    assert not pins.exists()  # asking changed nothing


def test_a_program_that_the_kernel_refuses_is_not_tried_again(device: Path, pins: Path, tmp_path: Path) -> None:
    broken = tmp_path / "writes.bpf.o"
    broken.write_bytes(OBJECT.read_bytes()[:4000])
    provider = EbpfProvider(Program(pins, broken))
    with pytest.raises(OSError, match="open"):
        provider.arm(device)
    assert str(provider.why_not(device)).startswith("the kernel refuses the program")
