"""What is kept of writes between runs, what makes a tracker doubtful, and how soon a sample finds a bad one out."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.extent import Extent
from bootpoint_common.identity import new_id
from bootpoint_common.message import Base
from bootpoint_common.units import GRAIN, GiB
from bootpoint_producer.chunk import Counters
from bootpoint_producer.scan import scan
from bootpoint_producer.sources import Source, open_source
from bootpoint_producer.state import AgentState
from bootpoint_producer.trackers.base import Tracker
from bootpoint_producer.trackers.grains import Grains
from bootpoint_producer.trackers.hash import HashTracker
from bootpoint_producer.trackers.keeper import Cut, TrackerKeeper
from bootpoint_producer.trackers.provider import Armed, Generation
from bootpoint_producer.trackers.sample import LEAST, MOST, Sample, Sampled

#: Grains of the disks here.
COUNT = 512
SIZE = COUNT * GRAIN


@dataclass
class Follower:
    """A provider in memory."""

    name: str = "ebpf"
    armed: Armed = field(default_factory=lambda: Armed("t1", 1, "boot", "serial=1", SIZE))
    refusal: str | None = None
    broken: bool = False
    overflow: bool = False
    written: set[int] = field(default_factory=set)
    closed: dict[int, set[int]] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)

    def write(self, *grains: int) -> None:
        self.written.update(grains)

    def anew(self, **changes: object) -> None:
        """Begin anew, with a new id."""
        self.armed = replace(self.armed, tracker=os.urandom(4).hex(), sequence=1, **changes)  # type: ignore[arg-type]
        self.written, self.closed = set(), {}

    def why_not(self, path: Path) -> str | None:
        return self.refusal

    def arm(self, path: Path) -> Armed:
        if self.broken:
            raise OSError("the kernel refuses")
        return self.armed

    def instant(self, path: Path) -> int:
        number = self.armed.sequence
        self.closed[number], self.written = self.written, set()
        self.armed = replace(self.armed, sequence=number + 1)
        return number

    def collect(self, path: Path) -> list[Generation]:
        return [Generation(number, self._grains(found), self.overflow) for number, found in self.closed.items()]

    def let_go(self, path: Path, sequence: int) -> None:
        self.closed = {number: found for number, found in self.closed.items() if number > sequence}

    def written_since(self, path: Path) -> Grains | None:
        return self._grains(self.written)

    def picture(self, path: Path, picture: Path) -> None:
        self.pictures.append(picture)

    def upkeep(self) -> None:
        pass

    def keep_only(self, trackers: Collection[str]) -> None:
        self.kept = set(trackers)

    def _grains(self, found: set[int]) -> Grains:
        return Grains.of([Extent(number * GRAIN, 1) for number in found], self.armed.size_bytes)


@dataclass
class Rig:
    """A keeper, and runs for replicas of one disk."""

    directory: Path
    follower: Follower = field(default_factory=Follower)

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.disk = self.directory / "erp"
        self.disk.touch()
        self.restart()

    def restart(self) -> None:
        self.state = AgentState(self.directory)
        self.keeper = TrackerKeeper(self.state, [self.follower])

    def begin(self, *, settled: bool = True) -> Cut:
        cut = self.keeper.cut({"a": self.disk})
        cut.instant()
        cut.taken(settled=settled)
        return cut

    def keep(self, replica: UUID, cut: Cut) -> UUID:
        point = new_id()
        mark = cut.mark("a")
        self.state.map_path(replica, point, "a")
        self.state.keep_point(replica, point, {"a": (SIZE, bytes(32))}, {} if mark is None else {"a": mark})
        return point

    def commit(self, replica: UUID, cut: Cut) -> None:
        assert self.state.adopt(replica, self.keep(replica, cut))
        cut.close()

    def since(self, replica: UUID, cut: Cut) -> set[int] | str | None:
        """Return what a cut says was written since a replica's base, or why it doesn't know."""
        tracker, reason = cut.tracker(replica, "a", self.base(replica))
        if isinstance(tracker, HashTracker):
            return reason
        assert reason is None
        with_base = BlockMap.create(self.directory / "any.map", SIZE)
        (self.directory / "disk").write_bytes(b"")
        os.truncate(self.directory / "disk", SIZE)
        source = open_source(self.directory / "disk")
        try:
            extents = list(tracker.candidates(source, with_base))
        finally:
            source.close()
            with_base.close()
        return {grain for extent in extents for grain in range(extent.offset // GRAIN, -(-extent.end // GRAIN))}

    def base(self, replica: UUID) -> Base | None:
        return self.state.base(replica)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "state")


# --- generations ----------------------------------------------------------------------------------------------------


def test_a_run_looks_at_what_was_written_since_its_base_only(rig: Rig) -> None:
    replica = new_id()
    first = rig.begin()
    assert rig.since(replica, first) is None  # no base: a full copy, and no fallback
    rig.commit(replica, first)
    rig.follower.write(3, 4, 511)
    second = rig.begin()
    rig.follower.write(100)  # after the instant: the next run's
    assert rig.since(replica, second) == {3, 4, 511}
    rig.commit(replica, second)
    assert rig.since(replica, rig.begin()) == {100}


def test_how_much_a_run_would_find_is_known_before_it_begins(rig: Rig) -> None:
    replica = new_id()
    assert rig.keeper.written(replica, "a", rig.disk) is None  # no base
    rig.commit(replica, rig.begin())
    assert rig.keeper.written(replica, "a", rig.disk) == 0
    rig.follower.write(3, 4)
    rig.begin().close()  # of another job, perhaps: what it closed still counts
    rig.follower.write(4, 9)
    assert rig.keeper.written(replica, "a", rig.disk) == 3 * GRAIN
    rig.follower.anew(boot="another")
    assert rig.keeper.written(replica, "a", rig.disk) is None
    rig.follower.broken = True
    assert rig.keeper.written(replica, "a", rig.disk) is None


def test_an_aborted_point_leaves_its_writes_to_the_next_one(rig: Rig) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    rig.follower.write(1)
    aborted = rig.begin()
    point = rig.keep(replica, aborted)
    rig.state.drop(replica, point)
    aborted.close()
    rig.follower.write(2)
    failed = rig.keeper.cut({"a": rig.disk})
    failed.close()  # the snapshot was never taken
    rig.restart()
    assert rig.since(replica, rig.begin()) == {1, 2}


def test_a_provider_hears_what_is_read_and_which_trackings_are_needed(rig: Rig) -> None:
    cut = rig.keeper.cut({"a": rig.disk})
    cut.instant()
    cut.taken(settled=True, pictures={"a": Path("/dev/erp-picture")})
    assert rig.follower.pictures == [Path("/dev/erp-picture")]
    rig.keeper.sweep()
    assert rig.follower.kept == {"t1"}, "a run that isn't over needs its tracking"
    rig.state.drop(new_id(), rig.keep(new_id(), cut))
    cut.close()
    assert rig.follower.kept == {"t1"}, "a held point needs its tracking"
    shutil.rmtree(rig.state.directory / "maps")
    rig.keeper.sweep()
    assert rig.follower.kept == set()


def test_each_replica_gets_what_was_written_since_its_own_base(rig: Rig) -> None:
    quick, slow = new_id(), new_id()
    begun = rig.begin()
    rig.state.adopt(quick, rig.keep(quick, begun))
    rig.commit(slow, begun)
    for grain in range(5):
        rig.follower.write(grain)
        rig.commit(quick, rig.begin())
    rig.follower.write(7)
    cut = rig.begin()
    assert rig.since(quick, cut) == {7}
    assert rig.since(slow, cut) == {0, 1, 2, 3, 4, 7}


def test_a_run_that_lasts_long_keeps_what_it_will_need(rig: Rig) -> None:
    slow, quick = new_id(), new_id()
    lasting = rig.begin()  # the full copy of another job: nothing on disk says yet what it needs
    for grain in range(3):
        rig.follower.write(grain)
        rig.commit(quick, rig.begin())
    rig.commit(slow, lasting)
    assert rig.since(slow, rig.begin()) == {0, 1, 2}


def test_what_nobody_needs_is_dropped(rig: Rig) -> None:
    replica = new_id()
    for grain in range(6):
        rig.follower.write(grain)
        rig.commit(replica, rig.begin())
    assert len(list((rig.directory / "trackers").rglob("*.grains"))) == 0
    assert rig.follower.closed == {}
    rig.follower.anew()
    rig.commit(replica, rig.begin())
    assert len(list((rig.directory / "trackers").iterdir())) <= 1


def test_what_was_on_its_way_at_the_instant_counts_for_the_next_run_too(rig: Rig) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    rig.follower.write(5)
    rig.commit(replica, rig.begin(settled=False))  # the write of grain 5 may have reached the disk after it was read
    rig.follower.write(6)
    assert rig.since(replica, rig.begin()) == {5, 6}


def test_stored_generations_come_back_after_the_agent_was_killed(rig: Rig) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    rig.follower.write(9)
    cut = rig.keeper.cut({"a": rig.disk})
    cut.instant()  # killed before anything was stored
    rig.restart()
    rig.follower.write(10)
    assert rig.since(replica, rig.begin()) == {9, 10}


# --- doubt ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "tracker_lost"),
        ({"boot": "another", "identity": "diskseq=9"}, "boot_id"),
        ({"identity": "serial=2"}, "disk_identity"),
        ({"size_bytes": 2 * SIZE}, "grown"),
    ],
)
def test_whatever_differs_demotes_one_run_to_a_hash_scan(rig: Rig, changes: dict[str, object], reason: str) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    rig.follower.write(1)
    rig.follower.anew(**changes)
    rig.follower.write(2)
    cut = rig.begin()
    assert rig.since(replica, cut) == reason
    rig.commit(replica, cut)
    rig.follower.write(3)
    assert rig.since(replica, rig.begin()) == {3}


def test_a_base_from_before_there_was_a_tracker_is_scanned_against(rig: Rig) -> None:
    replica = new_id()
    rig.state.map_path(replica, point := new_id(), "a")
    rig.state.keep_point(replica, point, {"a": (SIZE, bytes(32))})
    rig.state.adopt(replica, point)
    assert rig.since(replica, rig.begin()) == "first"


def test_overflow_is_a_full_scan(rig: Rig) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    rig.follower.write(1)
    rig.follower.overflow = True
    assert rig.since(replica, rig.begin()) == "overflow"


def test_a_state_directory_that_came_back_old_is_noticed(rig: Rig, tmp_path: Path) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    shutil.copytree(rig.directory, tmp_path / "old")
    for grain in range(3):
        rig.follower.write(grain)
        rig.commit(replica, rig.begin())
    shutil.rmtree(rig.directory)
    (tmp_path / "old").rename(rig.directory)
    rig.restart()
    assert rig.since(replica, rig.begin()) == "tracker_lost"


def test_a_damaged_generation_is_not_believed(rig: Rig) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    rig.follower.write(1)
    aborted = rig.begin()
    aborted.close()
    (file,) = (rig.directory / "trackers").rglob("*.grains")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert rig.since(replica, rig.begin()) == "tracker_lost"


def test_a_tracker_that_breaks_costs_the_scan_and_not_the_run(rig: Rig) -> None:
    replica = new_id()
    rig.commit(replica, rig.begin())
    rig.follower.broken = True
    cut = rig.begin()
    assert rig.since(replica, cut) == "tracker_lost"
    assert cut.mark("a") is None
    cut.close()
    cut.close()


def test_the_choice_says_why(rig: Rig) -> None:
    assert rig.keeper.choose(rig.disk).name == "ebpf"
    rig.follower.refusal = "no BPF file system is mounted at /sys/fs/bpf"
    choice = rig.keeper.choose(rig.disk)
    assert (choice.name, choice.reason) == ("hash", "ebpf: no BPF file system is mounted at /sys/fs/bpf")
    replica = new_id()
    cut = rig.begin()
    assert cut.tracker(replica, "a", None)[1] is None
    assert cut.mark("a") is None


# --- sets of grains -------------------------------------------------------------------------------------------------


def test_sets_of_grains_keep_what_they_are_given(rng: Random) -> None:
    size = 1000 * GRAIN - 512
    given = {rng.randrange(1000) for _ in range(150)}
    made = Grains.of([Extent(number * GRAIN + rng.randrange(100), 100) for number in given], size)
    assert made.count == len(given)
    assert Grains.unpacked(made.packed(), 1000, GRAIN) == made
    extents = list(made.extents(size))
    assert sum(extent.length for extent in extents) == len(given) * GRAIN - (512 if 999 in given else 0)
    assert all(first.end < second.offset for first, second in pairwise(extents))
    with pytest.raises(ValueError, match="different disks"):
        made.union(Grains(b"\x01"))
    with pytest.raises(ValueError, match="another disk"):
        Grains.unpacked(made.packed(), 999, GRAIN)


# --- the sample -----------------------------------------------------------------------------------------------------


@dataclass
class Liar:
    """A tracker that reports something else than what was written."""

    reported: list[Extent]
    name: str = "ebpf"

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        return iter(self.reported)


@dataclass
class Changed:
    """A disk, and the map of its base, which differs in some grains."""

    source: Source
    base: BlockMap
    directory: Path

    def sampled(self, tracker: Tracker, sample: Sample, unknown: tuple[Extent, ...] = ()) -> tuple[Sampled, int]:
        """Scan with a sample; return the tracker as it came out, and the bytes that travel."""
        counters = Counters()
        with (
            Sampled(tracker, sample, unknown=unknown, counters=counters) as doubted,
            self.base.copy_to(self.directory / "candidate.map") as candidate,
        ):
            for _ in scan(self.source, doubted, candidate, base=self.base, left_out=unknown, counters=counters):
                pass
            if doubted.missed():
                for _ in scan(self.source, HashTracker(), candidate, left_out=unknown, counters=counters):
                    pass
        (self.directory / "candidate.map").unlink()
        return doubted, counters.changed_bytes


@pytest.fixture
def changed(tmp_path: Path, rng: Random) -> Iterator[Changed]:
    """Make a disk of 512 grains; the last 16 have changed since the base."""
    path = tmp_path / "disk"
    with path.open("wb") as stream:
        stream.truncate(SIZE)
        stream.seek((COUNT - 16) * GRAIN)
        stream.write(rng.randbytes(16 * GRAIN))
    source = open_source(path)
    with BlockMap.create(tmp_path / "base.map", SIZE) as base:
        base.rehash()
        yield Changed(source, base, tmp_path)
    source.close()


def grains(*numbers: int) -> list[Extent]:
    return [Extent(number * GRAIN, GRAIN) for number in numbers]


def odds(unchanged: int, lost: int, drawn: int) -> float:
    """Return the odds that a sample hits at least one of the lost grains."""
    return 1 - math.comb(unchanged - lost, drawn) / math.comb(unchanged, drawn)


@pytest.mark.parametrize("lost", [1, 4, 16])
def test_a_tracker_that_loses_writes_is_caught_within_the_odds(changed: Changed, rng: Random, lost: int) -> None:
    # It reports the other changes, and some grains that didn't change.
    liar = Liar(grains(3, 4, 5, *range(COUNT - 16 + lost, COUNT)))
    unchanged = COUNT - len(liar.reported)
    chance, rounds = odds(unchanged, lost, LEAST), 150
    caught = 0
    for _ in range(rounds):
        doubted, sent = changed.sampled(liar, Sample(random=rng))
        assert doubted.compared == LEAST
        if doubted.fallback is not None:
            assert (doubted.name, doubted.fallback, sent) == ("hash", "sample_miss", 16 * GRAIN)
            caught += 1
        else:
            assert (doubted.name, sent) == ("ebpf", (16 - lost) * GRAIN)
    deviation = math.sqrt(rounds * chance * (1 - chance))
    assert abs(caught - rounds * chance) <= 4 * deviation + 1, f"{caught} of {rounds}, odds {chance:.3f}"


def test_a_tracker_that_delays_its_reports_is_caught_like_one_that_loses_them(changed: Changed, rng: Random) -> None:
    # What it reports now was written in the generation before: none of it is what has changed.
    late = Liar(grains(*range(100, 116)))
    caught = sum(changed.sampled(late, Sample(random=rng))[0].fallback == "sample_miss" for _ in range(60))
    chance = odds(COUNT - 16, 16, LEAST)
    assert caught >= 60 * chance - 4 * math.sqrt(60 * chance * (1 - chance)) - 1


def test_a_tracker_that_names_too_much_is_never_called_bad(changed: Changed, rng: Random) -> None:
    everything = Liar([Extent(0, SIZE)])
    doubted, sent = changed.sampled(everything, Sample(random=rng))
    assert (doubted.fallback, doubted.compared, sent) == (None, 0, 16 * GRAIN)
    more = Liar([Extent(100 * GRAIN + 7, 1), Extent(200 * GRAIN, SIZE - 200 * GRAIN)])
    for _ in range(10):
        doubted, sent = changed.sampled(more, Sample(random=rng))
        assert (doubted.fallback, doubted.compared, sent) == (None, LEAST, 16 * GRAIN)


def test_what_is_left_out_is_not_sampled(changed: Changed, rng: Random) -> None:
    nothing = Liar([])
    for _ in range(10):
        doubted, sent = changed.sampled(nothing, Sample(random=rng), (Extent((COUNT - 16) * GRAIN, 16 * GRAIN),))
        assert (doubted.fallback, sent) == (None, 0)


def test_what_was_written_after_the_instant_is_no_miss(changed: Changed, rng: Random) -> None:
    later = Grains.of([Extent((COUNT - 16) * GRAIN, 16 * GRAIN)], SIZE)
    doubted, _ = changed.sampled(Liar([]), Sample(share=1.0, random=rng, since=lambda: later))
    assert (doubted.fallback, doubted.compared) == (None, COUNT)
    some = Grains.of([Extent((COUNT - 16) * GRAIN, 15 * GRAIN)], SIZE)
    doubted, _ = changed.sampled(Liar([]), Sample(share=1.0, random=rng, since=lambda: some))
    assert doubted.fallback == "sample_miss"


def test_the_size_of_a_sample_is_the_share_within_its_bounds() -> None:
    sample = Sample()
    assert [sample.size(count) for count in (0, 10, 6_400, 20_000, 16 * GiB // GRAIN, 10**9)] == [
        0, 10, LEAST, 200, 2622, MOST,
    ]  # fmt: skip
    assert Sample(share=0.0).size(10_000) == LEAST
