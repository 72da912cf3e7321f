"""What is left out, against a model: what is used equals the source, and of what is free nothing is ever sent."""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootpoint_common import digest
from bootpoint_common.blockmap import BlockMap
from bootpoint_common.digest import SEGMENT, SEGMENT_GRAINS
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, SECTOR, GiB, MiB, TiB
from bootpoint_producer.sources import Source
from bootpoint_producer.trackers.base import Tracker
from bootpoint_producer.trackers.hash import HashTracker
from bootpoint_producer.usedblocks import lvm, partclone, record, unixfs, windowsfs
from bootpoint_producer.usedblocks.facts import DoubtError, Read
from bootpoint_producer.usedblocks.free import MOST_LEFT_OUT, FreeGrains, together, without
from tests.service.feeding import FedReplica
from tests.unit.memory import peak_below


@dataclass
class Chosen:
    """What a test leaves out, and what of it turns out to have been written to."""

    free: set[int]
    late: set[int] = field(default_factory=set)

    def begin(self, source: Source) -> Sequence[Extent]:
        return extents(self.free)

    def end(self, source: Source) -> Sequence[Extent]:
        return extents(self.free - self.late)


class Written:
    """A tracker that names the grains that were written, and nothing else."""

    name = "bitmap"

    def __init__(self, grains: set[int]) -> None:
        self._grains = grains

    def candidates(self, source: Source, base: BlockMap | None) -> Iterator[Extent]:
        if base is None:
            yield from source.data_extents(0, source.size_bytes)
            return
        for extent in extents(self._grains):
            yield Extent(extent.offset, min(extent.length, source.size_bytes - extent.offset))


def extents(grains: set[int]) -> list[Extent]:
    """Return grains as extents that are as long as they can be."""
    numbered = enumerate(sorted(grains))
    runs = [[grain for _, grain in run] for _, run in itertools.groupby(numbered, lambda each: each[1] - each[0])]
    return [Extent(run[0] * GRAIN, len(run) * GRAIN) for run in runs]


@dataclass
class Protected:
    """A disk, and what its replica holds after each run."""

    path: Path

    def __post_init__(self) -> None:
        self.fed = FedReplica(self.path, self.path.with_suffix(".replica"))

    def write(self, grain: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(grain * GRAIN)
            file.write(data)

    def run(
        self,
        chosen: Chosen,
        *,
        tracker: Tracker | None = None,
        lost: bool = False,
        resend: frozenset[int] = frozenset(),
    ) -> set[int]:
        """Feed the replica, check all that is promised, and return the grains that travelled as data."""
        content = self.path.read_bytes()
        before = self.fed.replica.read_bytes() if self.fed.runs else bytes(len(content))
        outcome = self.fed.run(chosen, tracker=tracker, lost=lost, resend=resend)
        replica = self.fed.replica.read_bytes()
        resent = {grain for grain in chosen.free if grain // SEGMENT_GRAINS in resend}
        assert outcome.skipped == chosen.free - chosen.late - resent
        assert self.fed.map_path is not None
        with BlockMap.open(self.fed.map_path) as made:
            assert made.entries(0, made.grains) == digest.grain_digests(replica)
        for grain in range(digest.grain_count(len(content))):
            at = slice(grain * GRAIN, (grain + 1) * GRAIN)
            if grain not in outcome.skipped:
                assert replica[at] == content[at], f"grain {grain} is used"
            elif not lost:
                assert replica[at] == before[at], f"grain {grain} was left out"
        assert not outcome.sent & outcome.skipped
        return outcome.sent


@pytest.fixture
def disk(tmp_path: Path) -> Protected:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(40 * GRAIN + 512))
    return Protected(path)


def test_free_blocks_are_never_sent(disk: Protected) -> None:
    free = set(range(3, 30))
    assert disk.run(Chosen(free)) == {0, 1, 2, *range(30, 41)}
    disk.write(5, os.urandom(GRAIN))
    disk.write(1, os.urandom(GRAIN))
    assert disk.run(Chosen(free)) == {1}


@pytest.mark.parametrize("tracker", [HashTracker(), Written({7})], ids=["hash", "a tracker that knows nothing of it"])
def test_what_was_left_out_is_read_when_it_is_used_again(disk: Protected, tracker: Tracker) -> None:
    disk.run(Chosen(set(range(3, 30))))
    assert disk.run(Chosen(set(range(20, 30))), tracker=tracker) == set(range(3, 20))
    assert disk.run(Chosen(set()), tracker=Written(set())) == set(range(20, 30))
    assert disk.run(Chosen(set()), tracker=Written(set())) == set()


def test_a_map_whose_record_is_lost_is_not_believed(disk: Protected) -> None:
    disk.run(Chosen(set(range(3, 30))))
    for file in disk.path.parent.glob("*.left"):
        file.unlink()
    assert disk.run(Chosen(set()), tracker=Written(set())) == set(range(3, 30))


def test_what_turned_out_to_be_written_to_is_read_after_all(disk: Protected) -> None:
    free = set(range(3, 30))
    assert disk.run(Chosen(free, late={3, 4, 17})) == {0, 1, 2, 3, 4, 17, *range(30, 41)}
    disk.write(18, os.urandom(GRAIN))
    assert disk.run(Chosen(free, late={18}), tracker=Written(set())) == {18}


def damage(file: Path, at: int) -> None:
    with file.open("r+b") as replica:
        replica.seek(at)
        replica.write(b"damaged")


def test_a_damaged_segment_is_sent_with_its_free_blocks(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(SEGMENT + 20 * GRAIN))
    disk = Protected(path)
    free = set(range(SEGMENT_GRAINS - 5, SEGMENT_GRAINS + 15))
    disk.run(Chosen(free))
    for at in (SEGMENT, SEGMENT + 3 * GRAIN + 7):
        damage(disk.fed.replica, at)
    assert disk.run(Chosen(free), resend=frozenset({1, 77})) >= set(range(SEGMENT_GRAINS, SEGMENT_GRAINS + 20))


allocation = st.sets(st.integers(0, 299))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), size=st.integers(20, 299), odd=st.booleans())
def test_any_sequence_of_allocations(tmp_path: Path, data: st.DataObject, size: int, *, odd: bool) -> None:
    """Blocks are taken, freed, taken again without a write, and written while they are free."""
    path = tmp_path / "disk"
    path.write_bytes(b"")
    os.truncate(path, size * GRAIN + 512 * odd)
    disk = Protected(path)
    whole = set(range(size))
    written = set[int]()
    for run in range(4):
        changed = data.draw(allocation, "written") & whole
        for grain in sorted(changed)[:40]:
            disk.write(grain, bytes(GRAIN) if grain % 5 == 0 else os.urandom(GRAIN))
        written |= set(sorted(changed)[:40])
        free = data.draw(allocation, "free") & whole
        late = data.draw(allocation, "late") & free
        lost = run > 0 and data.draw(st.integers(0, 3), "lost") == 0
        damaged = frozenset(data.draw(st.sets(st.integers(0, 2), max_size=1), "damaged")) if run else frozenset()
        hashed = lost or data.draw(st.booleans(), "hash")
        sent = disk.run(
            Chosen(free, late), tracker=HashTracker() if hashed else Written(written), lost=lost, resend=damaged
        )
        assert sent <= whole | ({size} if odd else set())
        written = set()


# --- what is kept of a map


def test_only_whole_free_grains_are_left_out() -> None:
    free = FreeGrains()
    free.add(1, 3 * GRAIN - 1)
    free.add(5 * GRAIN, 7 * GRAIN)
    free.add(9 * GRAIN + 1, 10 * GRAIN + 5)
    assert free.extents() == (Extent(GRAIN, GRAIN), Extent(5 * GRAIN, 2 * GRAIN))


def test_the_longest_ranges_are_kept_and_memory_is_bounded() -> None:
    free = FreeGrains()
    with peak_below(8 * MiB):
        for number in range(200_000):
            free.add(number * 8 * GRAIN, (number * 8 + 1 + (number % 40 == 0)) * GRAIN)
    kept = free.extents()
    assert len(kept) == MOST_LEFT_OUT
    assert {extent.length for extent in kept} == {2 * GRAIN}


grains = st.sets(st.integers(0, 60))


@given(grains, grains)
def test_sets_of_ranges(one: set[int], other: set[int]) -> None:
    def numbers(found: Iterator[Extent]) -> list[int]:
        return [grain for each in found for grain in range(each.offset // GRAIN, each.end // GRAIN)]

    assert numbers(without(extents(one), extents(other))) == sorted(one - other)
    both = together(extents(one), extents(other), lambda at, size: iter([Extent(at, size, zero=True)]))
    assert numbers(both) == sorted(one | other)


def test_a_record_that_makes_no_sense_leaves_everything_open(tmp_path: Path) -> None:
    made = tmp_path / "data.1.map"
    record.keep(made, [Extent(0, GRAIN), Extent(5 * GRAIN, GRAIN)])
    assert record.kept(made, TiB) == (Extent(0, GRAIN), Extent(5 * GRAIN, GRAIN))
    for nonsense in ("", "[[0, 1]]", "[[65536, 65536], [0, 65536]]", "{}x", "[1]"):
        (tmp_path / "data.1.left").write_text(nonsense)
        assert record.kept(made, TiB) == (Extent(0, TiB),)


# --- partclone's map

HEAD = [b"# Domain logfile created by partclone v0.3.23", b"# current_pos  current_status", b"0x4000     ?"]


def test_a_map_is_read() -> None:
    body = [b"# pos size status", b"0x00000000  0x00001000  +", b"0x00001000  0x00003000  ?"]
    assert list(partclone.parse(iter(HEAD + body))) == [(0x1000, 0x4000)]


@pytest.mark.parametrize(
    "body",
    [
        [b"0x00001000  0x00003000  ?"],
        [b"0x00000000  0x00001000  +", b"0x00002000  0x00003000  ?"],
        [b"0x00000000  0x00003000  +", b"0x00002000  0x00003000  ?"],
        [b"0x00000000  0x00001000  -"],
        [b"0x00000000  0x00001000"],
        [b"0x00000000  0x00000000  ?"],
        [b"Error: bitmap"],
    ],
    ids=["late", "gap", "overlap", "status", "cut", "nothing", "words"],
)
def test_what_is_no_map_is_not_believed(body: list[bytes]) -> None:
    with pytest.raises(DoubtError):
        list(partclone.parse(iter(HEAD + body)))


# --- what file systems say of themselves


def reader(pieces: dict[int, bytes]) -> Read:
    """Return what reads zeros but for some pieces."""

    def read(offset: int, length: int) -> bytes:
        found = bytearray(length)
        for at, piece in pieces.items():
            for index, byte in enumerate(piece):
                if offset <= at + index < offset + length:
                    found[at + index - offset] = byte
        return bytes(found)

    return read


def ext(*, incompat: int = 0x2C2, ro_compat: int = 0x46B, state: int = 1, magic: int = 0xEF53) -> Read:
    return reader(
        {
            1024: struct.pack("<4I", 1, 1000, 0, 700),
            1024 + 0x18: struct.pack("<I", 2),
            1024 + 0x38: struct.pack("<2H", magic, state),
            1024 + 0x4C: struct.pack("<I", 1),
            1024 + 0x60: struct.pack("<2I", incompat, ro_compat),
        }
    )


def test_a_clean_ext4_is_believed() -> None:
    facts = unixfs.ext(ext())
    assert (facts.size_bytes, facts.free_bytes) == (1000 * 4096, 700 * 4096)


@pytest.mark.parametrize(
    ("made", "doubt"),
    [
        (ext(incompat=0x2C6), "journal"),
        (ext(state=0), "cleanly"),
        (ext(state=3), "errors"),
        (ext(magic=0), "no superblock"),
        (ext(ro_compat=0x66B), "features"),
        (ext(incompat=0x2D2), "features"),
    ],
    ids=["journal", "mounted", "errors", "elsewhere", "bigalloc", "meta_bg"],
)
def test_an_ext4_that_raises_a_doubt_is_not(made: Read, doubt: str) -> None:
    with pytest.raises(DoubtError, match=doubt):
        unixfs.ext(made)


def fat16(*, state: int = 0, entry: int = 0xFFFF) -> Read:
    boot = bytearray(SECTOR)
    struct.pack_into("<HBHBHHBH", boot, 11, 512, 4, 4, 2, 512, 40000, 0xF8, 40)
    boot[37], boot[510:512] = state, b"\x55\xaa"
    return reader({0: bytes(boot), 4 * SECTOR: struct.pack("<2H", 0xFFF8, entry)})


def test_a_fat_that_is_mounted_is_not_believed() -> None:
    assert windowsfs.fat(fat16()).size_bytes == 40000 * SECTOR
    for dirty in (fat16(state=1), fat16(entry=0x7FFF)):
        with pytest.raises(DoubtError, match="cleanly"):
            windowsfs.fat(dirty)


def ntfs(*, client: int = 0xFFFF, flags: int = 0, newer: tuple[int, int] | None = None, unused: bool = False) -> Read:
    boot = bytearray(SECTOR)
    boot[3:11] = b"NTFS    "
    struct.pack_into("<HB", boot, 11, 512, 8)
    struct.pack_into("<2Q", boot, 40, 100_000, 4)
    struct.pack_into("<b", boot, 64, -10)
    log_file = bytearray(1024)
    log_file[:4] = b"FILE"
    struct.pack_into("<H", log_file, 20, 56)
    struct.pack_into("<2IBBH", log_file, 56, 0x10, 24, 0, 0, 0)
    struct.pack_into("<2IB", log_file, 80, 0x80, 72, 1)
    struct.pack_into("<H", log_file, 80 + 32, 64)
    log_file[144:149] = bytes([0x21, 0x20, 0x00, 0x01, 0x00])  # 32 clusters from 256 on
    log = bytearray(b"\xff" * 65536)
    if not unused:
        for start, (number, who, how) in {0: (5, client, flags), 4096: (6, *newer) if newer else (4, 0, 0)}.items():
            log[start : start + 4] = b"RSTR"
            struct.pack_into("<I", log, start + 16, 4096)
            struct.pack_into("<H", log, start + 24, 48)
            struct.pack_into("<Q4H", log, start + 48, number, 1, 0xFFFF, who, how)
    return reader({0: bytes(boot), 4 * 4096 + 2 * 1024: bytes(log_file), 256 * 4096: bytes(log)})


def test_an_ntfs_whose_log_waits_is_not_believed() -> None:
    for clean in (ntfs(), ntfs(client=0, flags=2), ntfs(unused=True), ntfs(client=0, newer=(0, 2))):
        assert windowsfs.ntfs(clean).size_bytes == 100_000 * SECTOR
    for waiting in (ntfs(client=0), ntfs(newer=(0, 0))):
        with pytest.raises(DoubtError, match="log was not replayed"):
            windowsfs.ntfs(waiting)


OWN = "0123456789abcdefghijklmnopqrstuv"

GROUP = """
vg {{ # a group
id = "a" seqno = 7 status = ["RESIZEABLE", "READ"] flags = [] extent_size = 8192
physical_volumes {{ pv0 {{ id = "012345-6789-abcd-efgh-ijkl-mnop-qrstuv" pe_start = 2048 pe_count = 1000 }} }}
logical_volumes {{ {volumes} }}
}}
contents = "Text Format Volume Group"
version = 1
"""


def lv(name: str, *places: int, status: str = "VISIBLE", kind: str = "striped", more: str = "") -> str:
    segments = "".join(
        f'segment{number + 1} {{ start_extent = {number * 10} extent_count = 10 type = "{kind}" stripe_count = 1'
        f' stripes = ["pv0", {place}] {more} }} '
        for number, place in enumerate(places)
    )
    return f'{name} {{ status = ["READ", "{status}"] segment_count = {len(places)} {segments} }}\n'


def physical_volume(volumes: str, *, damaged: bool = False) -> Read:
    text = GROUP.format(volumes=volumes).encode() + b"\0"
    checksum = ~zlib.crc32(text, ~0xF597A6CF & 0xFFFFFFFF) & 0xFFFFFFFF
    area, start = 1024 * 1024 - 4096, 900 * 1024
    label = struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001") + OWN.encode() + struct.pack("<Q", GiB)
    label += struct.pack("<4Q", MiB, 0, 0, 0) + struct.pack("<4Q", 4096, area, 0, 0)
    head = bytes(4) + b" LVM2 x[5A%r0N*>" + bytes(20) + struct.pack("<2Q2I", start, len(text), checksum + damaged, 0)
    return reader({SECTOR: label, 4096: head, 4096 + start: text})


def test_volumes_in_one_piece_are_found_on_a_physical_volume() -> None:
    made = physical_volume(
        lv("root", 5)
        + lv("home", 100, 110)
        + lv("torn", 200, 300)
        + lv("pool_tdata", 400, status="READ")
        + lv("mirror", 500, kind="raid1")
        + lv("kept", 600)
        + lv("snapshot0", 700, kind="snapshot", more='origin = "kept" cow_store = "cow"')
    )
    assert lvm.volumes(made, GiB) == [
        lvm.Volume("root", MiB + 5 * 4 * MiB, 40 * MiB),
        lvm.Volume("home", MiB + 100 * 4 * MiB, 80 * MiB),
    ]


@pytest.mark.parametrize(
    "made",
    [
        physical_volume(lv("root", 5), damaged=True),
        physical_volume("root {"),
        physical_volume(lv("root", 5).replace("extent_count", "extents")),
        reader({}),
    ],
    ids=["damaged", "cut", "unknown", "no label"],
)
def test_metadata_that_is_not_understood_is_not_believed(made: Read) -> None:
    with pytest.raises(DoubtError):
        lvm.volumes(made, GiB)
