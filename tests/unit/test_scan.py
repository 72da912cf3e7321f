"""What a scan sends, applied to what the replica held, gives the source; and it sends no more than that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootpoint_common import digest
from bootpoint_common.blockmap import BlockMap
from bootpoint_common.bundle import MAX_EXTENTS, MAX_RAW
from bootpoint_common.digest import SEGMENT, SegmentTable
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, MiB, TiB
from bootpoint_producer.chunk import Chunk, Counters
from bootpoint_producer.grain import whole_grains
from bootpoint_producer.scan import scan
from bootpoint_producer.sources import Source, open_source
from bootpoint_producer.trackers.hash import HashTracker
from tests.unit.memory import peak_below


class Listed:
    """A tracker that names what it was told."""

    name = "bitmap"

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._extents = extents

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        return iter(self._extents)


@dataclass
class Disk:
    """A raw file and what a replica of it holds."""

    path: Path
    replica: bytearray = field(default_factory=bytearray)
    base: BlockMap | None = None
    runs: int = 0

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def resize(self, size: int) -> None:
        with self.path.open("ab") as file:
            file.truncate(size)

    def run(
        self, *, tracker: Listed | None = None, lost: bool = False, resend: frozenset[int] = frozenset()
    ) -> tuple[list[Chunk], Counters]:
        """Scan, apply the chunks, and check map, replica and the other side's root."""
        self.runs += 1
        counters = Counters()
        source = open_source(self.path)
        candidate_path = self.path.with_suffix(f".{self.runs}")
        size = source.size_bytes
        held = None if self.base is None else SegmentTable(self.base.size_bytes, self.base.segment_digests())
        other_side = SegmentTable(size) if held is None else held.grown(size)
        if self.base is None or lost:
            candidate = BlockMap.create(candidate_path, size)
        else:
            candidate = self.base.copy_to(candidate_path, size)
        base, head = (None, held) if lost else (self.base, None)
        tracked = tracker or HashTracker()
        scanned = scan(source, tracked, candidate, base=base, head=head, resend=resend, counters=counters)
        chunks = list(scanned)
        source.close()
        self.replica.extend(bytes(size - len(self.replica)))
        for chunk in chunks:
            self.apply(chunk)
        other_side.update(candidate.rehash(head))
        content = self.path.read_bytes()
        assert self.replica == content
        assert candidate.entries(0, candidate.grains) == digest.grain_digests(content)
        assert other_side.root() == candidate.root()
        self.base = candidate
        return chunks, counters

    def apply(self, chunk: Chunk) -> None:
        assert len(chunk.payload) <= MAX_RAW
        assert 0 < len(chunk.extents) <= MAX_EXTENTS
        at, last = 0, -1
        for extent in chunk.extents:
            assert extent.offset % GRAIN == 0
            assert extent.offset >= last
            assert extent.length % GRAIN == 0 or extent.end == len(self.replica)
            last = extent.end
            data = bytes(extent.length) if extent.zero else chunk.payload[at : at + extent.length]
            at += 0 if extent.zero else extent.length
            self.replica[extent.offset : extent.end] = data
        assert at == len(chunk.payload)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    path = tmp_path / "disk"
    path.touch()
    made = Disk(path)
    made.resize(2 * SEGMENT + 3 * GRAIN + 512)
    return made


def extents(chunks: list[Chunk]) -> list[Extent]:
    return [extent for chunk in chunks for extent in chunk.extents]


def test_an_empty_disk_sends_nothing_and_reads_nothing(disk: Disk) -> None:
    chunks, counters = disk.run()
    assert (chunks, counters) == ([], Counters())


def test_zeros_that_are_written_out_do_not_travel(disk: Disk) -> None:
    disk.write(0, bytes(4 * MiB))
    chunks, counters = disk.run()
    assert chunks == []
    assert counters.scanned_bytes == 4 * MiB


def test_only_the_grains_that_differ_travel(disk: Disk) -> None:
    disk.write(0, os.urandom(3 * MiB))
    disk.run()
    disk.write(GRAIN + 100, b"x")
    disk.write(3 * MiB - 1, b"y")
    disk.write(2 * SEGMENT + 3 * GRAIN + 511, b"z")  # last byte of the partial last grain
    chunks, counters = disk.run()
    last = Extent(2 * SEGMENT + 3 * GRAIN, 512)
    assert extents(chunks) == [Extent(GRAIN, GRAIN), Extent(3 * MiB - GRAIN, GRAIN), last]
    assert len(chunks) == 1
    assert counters.changed_bytes == 2 * GRAIN + 512


@pytest.mark.parametrize("how", ["written", "punched"])
def test_what_became_zero_travels_once_as_zero(disk: Disk, how: str) -> None:
    disk.write(GRAIN, os.urandom(4 * GRAIN))
    disk.run()
    if how == "written":
        disk.write(2 * GRAIN, bytes(2 * GRAIN))
    else:
        content = disk.path.read_bytes()
        disk.resize(0)
        disk.resize(len(content))
        disk.write(GRAIN, content[GRAIN : 2 * GRAIN])
        disk.write(4 * GRAIN, content[4 * GRAIN : 5 * GRAIN])
    chunks, counters = disk.run()
    assert extents(chunks) == [Extent(2 * GRAIN, 2 * GRAIN, zero=True)]
    assert counters.zero_bytes == 2 * GRAIN
    assert disk.run()[0] == []


@pytest.mark.parametrize("lost", [False, True], ids=["base held", "base lost"])
def test_a_damaged_segment_travels_whole_though_nothing_changed(disk: Disk, *, lost: bool) -> None:
    disk.write(SEGMENT + GRAIN, os.urandom(2 * GRAIN))
    disk.write(2 * SEGMENT, os.urandom(3 * GRAIN + 512))
    disk.run()
    disk.write(0, os.urandom(GRAIN))
    disk.replica[SEGMENT + GRAIN + 5] ^= 0xFF  # the replica's medium is bad: the scan can't know
    disk.replica[2 * SEGMENT + 3 * GRAIN + 511] ^= 0xFF
    disk.replica[SEGMENT + 77 * GRAIN] ^= 0xFF
    chunks, counters = disk.run(lost=lost, resend=frozenset({1, 2, 40_000}))
    assert counters.changed_bytes + counters.zero_bytes == SEGMENT + 3 * GRAIN + 512 + (SEGMENT if lost else GRAIN)
    assert any(extent.zero and extent.offset <= SEGMENT < extent.end for extent in extents(chunks))
    assert disk.run()[0] == []


def test_a_grown_disk(disk: Disk) -> None:
    disk.write(2 * SEGMENT + 3 * GRAIN, os.urandom(512))
    disk.run()
    disk.resize(3 * SEGMENT + 512)
    disk.write(3 * SEGMENT, b"end")
    chunks, _ = disk.run(tracker=Listed([]))  # the tracker knows nothing of what is new
    assert extents(chunks) == [Extent(2 * SEGMENT + 3 * GRAIN, GRAIN), Extent(3 * SEGMENT, 512)]


def test_a_lost_base_sends_whole_segments_that_differ(disk: Disk) -> None:
    disk.write(0, os.urandom(2 * GRAIN))
    disk.write(SEGMENT + GRAIN, os.urandom(GRAIN))
    disk.run()
    disk.write(SEGMENT + GRAIN, bytes(GRAIN))
    disk.write(SEGMENT + 5 * GRAIN, b"new")
    chunks, _ = disk.run(lost=True)
    assert extents(chunks) == [
        Extent(SEGMENT, 5 * GRAIN, zero=True),
        Extent(SEGMENT + 5 * GRAIN, GRAIN),
        Extent(SEGMENT + 6 * GRAIN, SEGMENT - 6 * GRAIN, zero=True),
    ]


def test_a_tracker_is_believed(disk: Disk) -> None:
    disk.write(0, os.urandom(MiB))
    disk.run()
    disk.write(5 * GRAIN, b"changed")
    chunks, counters = disk.run(tracker=Listed([Extent(5 * GRAIN + 512, 512)]))
    assert extents(chunks) == [Extent(5 * GRAIN, GRAIN)]
    assert counters.scanned_bytes == GRAIN


def test_a_grain_that_a_tracker_knows_to_be_zero_in_part_is_read(disk: Disk) -> None:
    disk.write(0, os.urandom(3 * GRAIN))
    disk.run()
    disk.write(GRAIN // 2, bytes(2 * GRAIN))
    chunks, counters = disk.run(tracker=Listed([Extent(GRAIN // 2, 2 * GRAIN, zero=True)]))
    assert extents(chunks) == [Extent(0, GRAIN), Extent(GRAIN, GRAIN, zero=True), Extent(2 * GRAIN, GRAIN)]
    assert counters.scanned_bytes == 2 * GRAIN


ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40), st.booleans()), max_size=8)


@given(ranges)
def test_whole_grains_cover_what_they_were_made_of(parts: list[tuple[int, int, bool]]) -> None:
    size, given_, at = 20 * GRAIN + 4096, [], 0
    for gap, length, zero in parts:  # in units of 4 KiB
        start, end = at + gap * 4096, min(size, at + (gap + length) * 4096)
        if start < end:
            given_.append(Extent(start, end - start, zero))
        at = end
    made = list(whole_grains(iter(given_), size))

    def blocks(found: list[Extent], *, zero: bool) -> set[int]:
        return {block for each in found if each.zero is zero for block in range(each.offset // 4096, each.end // 4096)}

    assert blocks(made, zero=True) <= blocks(given_, zero=True)
    assert blocks(made, zero=False) >= blocks(given_, zero=False)
    assert blocks(made, zero=True) | blocks(made, zero=False) >= blocks(given_, zero=True)
    assert not blocks(made, zero=True) & blocks(made, zero=False)
    assert all(each.offset % GRAIN == 0 and (each.length % GRAIN == 0 or each.end == size) for each in made)
    assert made == sorted(made)


writes = st.lists(st.tuples(st.integers(0, 600), st.integers(1, 20), st.booleans()), max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 600), min_size=3, max_size=3),
    each=st.lists(writes, min_size=3, max_size=3),
    lost=st.sets(st.integers(1, 2)),
)
def test_any_sequence_of_runs(
    tmp_path: Path, sizes: list[int], each: list[list[tuple[int, int, bool]]], lost: set[int]
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"")
    disk = Disk(path)
    for run, (size, changes) in enumerate(zip(sorted(sizes), each, strict=True)):
        disk.resize(size * (GRAIN - 512))
        for start, count, zero in changes:
            offset = start * GRAIN // 2 % (size * (GRAIN - 512))
            length = min(count * GRAIN // 2, size * (GRAIN - 512) - offset)
            disk.write(offset, bytes(length) if zero else os.urandom(length))
        disk.run(lost=run in lost)


class Synthetic:
    """A disk of ``size_bytes`` with a changed grain at every ``step``-th byte, holes elsewhere; kept nowhere."""

    def __init__(self, size_bytes: int, step: int) -> None:
        self.path, self.size_bytes, self._step = "synthetic", size_bytes, step
        self._data = os.urandom(GRAIN)

    def read(self, offset: int, length: int) -> bytes:
        assert (offset % self._step, length) == (0, GRAIN)
        return self._data

    def data_extents(self, offset: int, length: int) -> Iterator[Extent]:
        for start in range(offset, offset + length, self._step):
            yield Extent(start, GRAIN)
            yield Extent(start + GRAIN, self._step - GRAIN, zero=True)

    def close(self) -> None:
        pass


def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    step = TiB // 2**17  # 131,072 changed grains
    with (
        peak_below(40 * MiB),
        BlockMap.create(tmp_path / "base", TiB) as base,
        base.copy_to(tmp_path / "map") as candidate,
    ):
        chunks = sum(1 for _ in scan(Synthetic(TiB, step), HashTracker(), candidate, base=base))
        assert len(candidate.rehash()) == candidate.segments
    assert chunks == 2**17 // 16


def test_many_tiny_zero_extents_are_packed(tmp_path: Path) -> None:
    size = 3 * MAX_EXTENTS * 2 * GRAIN
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, size)
    with BlockMap.create(tmp_path / "base", size) as base:
        base.put(0, (bytes(15) + b"\x01" + bytes(16)) * (size // GRAIN // 2))
        with base.copy_to(tmp_path / "map") as candidate:
            chunks = list(scan(open_source(path), HashTracker(), candidate, base=base))
            assert candidate.root() == SegmentTable(size).root()
    assert [len(chunk.extents) for chunk in chunks] == [MAX_EXTENTS] * 3


def test_a_disk_that_ends_too_early_says_so(disk: Disk, tmp_path: Path) -> None:
    source = open_source(disk.path)
    disk.resize(GRAIN)
    with pytest.raises(BootpointError) as caught:
        source.read(0, 2 * GRAIN)
    assert caught.value.code == Code.DISK_READ_ERROR
    assert "ends at byte 65536" in caught.value.message
    source.close()
    source.close()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: path.parent, Code.DISK_MISSING),
        (lambda path: path.mkdir(), Code.SOURCE_INELIGIBLE),
        (lambda path: path.write_bytes(b""), Code.SOURCE_INELIGIBLE),
        (lambda path: path.write_bytes(b"x" * 513), Code.SOURCE_INELIGIBLE),
    ],
    ids=["nothing", "directory", "empty", "odd size"],
)
def test_what_is_no_disk_is_refused(tmp_path: Path, make, code: Code) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "it")
    with pytest.raises(BootpointError) as caught:
        open_source(tmp_path / "it")
    assert caught.value.code == code
