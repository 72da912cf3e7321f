"""Digests and the block map: golden vectors, and properties against a model that keeps everything in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootpoint_common import digest
from bootpoint_common.blockmap import BlockMap, DamagedMap
from bootpoint_common.digest import ENTRY, SEGMENT, SEGMENT_GRAINS, SegmentTable
from bootpoint_common.units import GRAIN, GiB, KiB, MiB, TiB
from tests.unit.memory import peak_below

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "blockmap.json").read_text())
DISKS = [pytest.param(disk, id=disk["name"]) for disk in GOLDEN["disks"]]


def entry(number: int) -> bytes:
    return number.to_bytes(ENTRY, "big")


def content(disk: dict[str, Any]) -> bytes:
    data = bytearray(disk["size_bytes"])
    for run in disk["runs"]:
        data[run["offset"] : run["offset"] + run["length"]] = bytes([run["byte"]]) * run["length"]
    return bytes(data)


@pytest.fixture
def block_map(tmp_path: Path) -> Iterator[BlockMap]:
    with BlockMap.create(tmp_path / "map", 3 * SEGMENT + GRAIN + 512) as made:
        yield made


@pytest.mark.parametrize("disk", DISKS)
def test_golden_vectors(disk: dict[str, Any], tmp_path: Path) -> None:
    entries = digest.grain_digests(content(disk))
    listed = {int(grain): bytes.fromhex(text) for grain, text in disk["entries"].items()}
    assert entries == b"".join(listed.get(at, bytes(ENTRY)) for at in range(digest.grain_count(disk["size_bytes"])))
    with BlockMap.create(tmp_path / "map", disk["size_bytes"]) as block_map:
        for grain, value in listed.items():
            block_map.put(grain, value)
        segments = [digest.as_text(each) for each in block_map.segment_digests()]
        assert segments == disk["segments"]
        assert digest.as_text(block_map.root()) == disk["root"]
    table = SegmentTable(disk["size_bytes"], [digest.from_text(each) for each in disk["segments"]])
    assert digest.as_text(table.root()) == disk["root"]


@given(st.binary(min_size=1, max_size=3 * GRAIN))
def test_a_grain_is_zero_exactly_when_its_bytes_are(data: bytes) -> None:
    grain = data[:GRAIN]
    assert (digest.grain_digest(memoryview(grain)) == bytes(ENTRY)) == (not any(grain))


@pytest.mark.parametrize("length", [1, 512, 4096, GRAIN - 1, GRAIN])
def test_zero_grains_of_every_length(length: int) -> None:
    assert digest.grain_digest(bytes(length)) == bytes(ENTRY)
    assert digest.grain_digest(bytes(length - 1) + b"\x01") != bytes(ENTRY)


def test_the_root_names_the_size() -> None:
    assert SegmentTable(GRAIN - 512).root() != SegmentTable(GRAIN).root()


def test_text_form() -> None:
    assert digest.from_text(digest.as_text(bytes(range(32)))) == bytes(range(32))
    with pytest.raises(ValueError, match="no digest"):
        digest.from_text("sha256:00")


class Model:
    """The map as plain lists."""

    def __init__(self, size: int, entries: list[bytes] | None = None) -> None:
        self.size = size
        self.entries = (entries or []) + [bytes(ENTRY)] * (digest.grain_count(size) - len(entries or []))

    def segments(self) -> list[bytes]:
        step = SEGMENT_GRAINS
        parts = [self.entries[at : at + step] for at in range(0, len(self.entries), step)]
        return [blake3(b"".join(part)).digest() for part in parts]


sizes = st.integers(1, 3 * SEGMENT)
puts = st.lists(st.tuples(st.integers(0, 800), st.integers(1, 300), st.sampled_from([0, 0, 1, 2])), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=sizes, growth=st.integers(0, 2 * SEGMENT), before=puts, after=puts)
def test_a_base_and_changed_segments_give_the_root(
    tmp_path: Path, size: int, growth: int, before: list[tuple[int, int, int]], after: list[tuple[int, int, int]]
) -> None:
    def apply(block_map: BlockMap, model: Model, writes: list[tuple[int, int, int]]) -> None:
        for start, count, value in writes:
            first = start % block_map.grains
            count = min(count, block_map.grains - first)  # noqa: PLW2901 - cut at the end of the disk
            block_map.put(first, entry(value) * count)
            model.entries[first : first + count] = [entry(value)] * count

    base, model = BlockMap.create(tmp_path / "base", size), Model(size)
    with base:
        apply(base, model, before)
        base_table = SegmentTable(size, base.segment_digests())
        with base.copy_to(tmp_path / "next", size + growth) as copy:
            model = Model(size + growth, model.entries)
            apply(copy, model, after)
            changed = copy.rehash()
            copy.sync()
            assert copy.entries(0, copy.grains) == b"".join(model.entries)
            assert list(copy.segment_digests()) == model.segments()
        other_side = base_table.grown(size + growth)
        other_side.update(changed)
        assert other_side.root() == digest.root(size + growth, model.segments())
        if not growth and not after:
            assert changed == []
    with BlockMap.open(tmp_path / "next") as again:
        assert again.check() == []
        assert again.root() == other_side.root()
        covered = {grain for first, count in again.written(0, again.grains) for grain in range(first, first + count)}
        assert covered >= {grain for grain, value in enumerate(model.entries) if any(value)}


def test_a_copy_doesnt_share_its_original(block_map: BlockMap, tmp_path: Path) -> None:
    block_map.put(5, entry(7))
    before = block_map.root()
    with block_map.copy_to(tmp_path / "copy") as copy:
        assert copy.root() == before
        copy.put(5, entry(8))
        assert [index for index, _ in copy.rehash()] == [0]
    assert block_map.entries(5, 1) == entry(7)
    assert block_map.root() == before


@pytest.mark.parametrize("region", ["entries", "digests"])
def test_check_names_the_damaged_segment(block_map: BlockMap, region: str) -> None:
    block_map.put(SEGMENT_GRAINS + 3, entry(9))
    block_map.sync()
    offset = 4096 * 2 + 3 * ENTRY if region == "entries" else 4096 * (1 + block_map.segments) + 32
    with block_map.path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xee")
    with BlockMap.open(block_map.path) as again:
        assert again.check() == [1]


def test_an_unsynced_change_is_found(block_map: BlockMap) -> None:
    block_map.put(0, entry(1))
    block_map.close()
    with BlockMap.open(block_map.path) as again:
        assert again.check() == [0]


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "other grain"])
def test_what_is_no_map_is_refused(block_map: BlockMap, damage: str) -> None:
    with block_map.path.open("r+b") as file:
        if damage == "foreign":
            file.write(b"QFI\xfb")
        elif damage == "other grain":
            file.seek(16)
            file.write(b"\x00\x00\x10\x00")
        else:
            file.truncate(0 if damage == "empty" else 8192)
    with pytest.raises(DamagedMap):
        BlockMap.open(block_map.path)


def test_limits_of_the_disk(block_map: BlockMap, tmp_path: Path) -> None:
    last = block_map.grains - 1
    block_map.put(last, entry(1))
    for bad in (
        lambda: block_map.put(last, entry(1) * 2),
        lambda: block_map.entries(last, 2),
        lambda: block_map.entries(-1, 1),
    ):
        with pytest.raises(ValueError, match="grains"):
            bad()
    with pytest.raises(ValueError, match="entries"):
        block_map.put(0, b"short")
    with pytest.raises(ValueError, match="shrink"):
        block_map.copy_to(tmp_path / "copy", SEGMENT)
    with pytest.raises(ValueError, match="segment 4"):
        SegmentTable(4 * SEGMENT).update([(4, bytes(32))])


def test_a_tebibyte_of_holes_costs_nothing(tmp_path: Path) -> None:
    with peak_below(24 * MiB), BlockMap.create(tmp_path / "base", TiB) as base:
        base.put(TiB // GRAIN - 1, entry(3))
        base.sync()
        with base.copy_to(tmp_path / "copy", TiB + GiB) as copy:
            assert copy.check() == []
            assert len(list(copy.written(0, copy.grains))) == 1
            copy.sync()
            table = SegmentTable(TiB, base.segment_digests()).grown(TiB + GiB)
            assert copy.rehash() == []
            assert table.root() == copy.root()
        assert (tmp_path / "copy").stat().st_blocks * 512 < 64 * KiB
