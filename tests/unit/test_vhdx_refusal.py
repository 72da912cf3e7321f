"""VHDX files that are damaged, or not the right ones: refused with a reason, before a byte is written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import KiB, MiB, TiB
from bootpoint_worker.vhdx.file import LocalFile
from bootpoint_worker.vhdx.header import sealed
from bootpoint_worker.vhdx.image import identify
from tests.hyperv import layout
from tests.vhdx import disk

SIZE = 16 * MiB

Damage = Callable[[bytearray], None]


@pytest.fixture
def chain(tmp_path: Path) -> list[Path]:
    """A leaf with two blocks above a base that has a block."""
    base = tmp_path / "base.vhdx"
    disk.by_qemu(base, SIZE, block=2 * MiB)
    with closing(disk.writer([base])) as writer:
        writer.write(0, b"b" * 2 * MiB)
        writer.flush()
    paths = disk.child([base], "leaf")
    with closing(disk.writer(paths)) as writer:
        writer.write(MiB, b"l" * 2 * MiB)
        writer.flush()
    return paths


def damage(path: Path, how: Damage) -> bytes:
    """Damage a file; returns its bytes."""
    raw = bytearray(path.read_bytes())
    how(raw)
    path.write_bytes(raw)
    return bytes(raw)


def put(raw: bytearray, at: int, data: bytes) -> None:
    raw[at : at + len(data)] = data


def reseal(raw: bytearray, at: int, length: int) -> None:
    put(raw, at, sealed(bytes(raw[at : at + length])))


def header(field: int, data: bytes) -> Damage:
    """Change a field of both headers, with checksums that are right."""

    def change(raw: bytearray) -> None:
        for at in (64 * KiB, 128 * KiB):
            put(raw, at + field, data)
            reseal(raw, at, 4 * KiB)

    return change


def region(field: int, data: bytes) -> Damage:
    """Change a field of both region tables, with checksums that are right."""

    def change(raw: bytearray) -> None:
        for at in (192 * KiB, 256 * KiB):
            put(raw, at + field, data)
            reseal(raw, at, 64 * KiB)

    return change


def item(kind: layout.Item, data: bytes, field: int = 0) -> Damage:
    """Change a metadata item."""

    def change(raw: bytearray) -> None:
        entry = raw.index(kind.value, layout.METADATA_OFFSET)
        (offset,) = struct.unpack_from("<I", raw, entry + 16)
        put(raw, layout.METADATA_OFFSET + offset + field, data)

    return change


def entry(number: int, value: int) -> Damage:
    """Change an entry of the BAT."""
    return lambda raw: put(raw, layout.BAT_OFFSET + 8 * number, struct.pack("<Q", value))


def both(first: Damage, second: Damage) -> Damage:
    def change(raw: bytearray) -> None:
        first(raw)
        second(raw)

    return change


def torn(*places: int) -> Damage:
    """Change bytes, and no checksum."""

    def change(raw: bytearray) -> None:
        for at in places:
            put(raw, at, b"torn")

    return change


def other_header(raw: bytearray) -> None:
    """Change the ids of one header, with a checksum that is right."""
    put(raw, 128 * KiB + 16, b"\5" * 32)
    reseal(raw, 128 * KiB, 4 * KiB)


#: Entry of the first sector bitmap of the leaf, whose chunk has 2,048 blocks.
BITMAP = 2048

OPENING: dict[str, tuple[Damage, str]] = {
    "no VHDX": (lambda raw: put(raw, 0, b"conectix"), "no VHDX"),
    "both headers torn": (torn(64 * KiB + 100, 128 * KiB + 100), "both of its headers"),
    "headers that contradict": (both(header(8, bytes(8)), other_header), "both have the sequence number 0"),
    "version 2": (header(66, b"\2\0"), "its version is 2"),
    "log not empty": (header(48, b"\1" * 16), "its log isn't empty"),
    "both region tables torn": (torn(192 * KiB + 100, 256 * KiB + 100), "region table"),
    "a region that nobody knows": (region(16, b"\7" * 16), "has to be known"),
    "a region twice": (region(16, layout.METADATA_REGION), "there twice"),
    "a region outside": (region(32, struct.pack("<Q", TiB)), "impossible"),
    "regions that overlap": (region(32, struct.pack("<Q", 2 * MiB)), "overlap"),
    "more regions than there may be": (region(8, struct.pack("<I", 2048)), "2048 entries"),
    "no metadata table": (lambda raw: put(raw, layout.METADATA_OFFSET, b"METADATA"), "metadata table"),
    "blocks of no size": (item(layout.Item.PARAMETERS, struct.pack("<I", 3 * MiB)), "power of two"),
    "sectors of 520 bytes": (item(layout.Item.LOGICAL_SECTOR, struct.pack("<I", 520)), "neither 512 nor 4096"),
    "half a sector": (item(layout.Item.SIZE, struct.pack("<Q", SIZE + 256)), "whole sectors"),
    "beyond 64 TiB": (item(layout.Item.SIZE, struct.pack("<Q", 64 * TiB + 512)), "up to 64 TiB"),
    "a disk larger than its BAT": (item(layout.Item.SIZE, struct.pack("<Q", 64 * TiB)), "too few for"),
    "a parent of another kind": (item(layout.Item.PARENT, bytes(16)), "its parent locator is of type"),
    "a locator outside": (item(layout.Item.PARENT, b"\xff\xff\xff\xff", 20), "can't be read"),
}  # fmt: skip

BLOCKS: dict[str, tuple[Damage, str]] = {
    "a state that means nothing": (entry(0, 4 * MiB | 5), "block 0 is in state 5"),
    "a block in the headers": (entry(0, 7), "block 0 can't lie at 0"),
    "a block in the BAT": (entry(0, layout.BAT_OFFSET | 6), "block 0 can't lie"),
    "a block behind the end": (entry(0, TiB | 6), "block 0 can't lie"),
    "a bitmap that isn't there": (entry(BITMAP, 0), "its sector bitmap isn't"),
    "a bitmap in the metadata": (entry(BITMAP, layout.METADATA_OFFSET | 6), "the sector bitmap of block 0 can't lie"),
}


def test_the_files_of_these_tests_are_sound(chain: list[Path]) -> None:
    with closing(disk.opened(chain)) as reader:
        assert reader.read(0, 4 * MiB) == b"b" * MiB + b"l" * 2 * MiB + bytes(MiB)


@pytest.mark.parametrize("what", OPENING)
def test_a_file_that_breaks_the_format_is_refused(chain: list[Path], what: str) -> None:
    how, reason = OPENING[what]
    raw = damage(chain[0], how)
    for use in (disk.opened, disk.writer):
        with pytest.raises(BootpointError, match=reason) as caught:
            use(chain)
        assert caught.value.code is Code.TARGET_CHECK_FAILED
        assert caught.value.value == str(chain[0])
    assert chain[0].read_bytes() == raw


@pytest.mark.parametrize("what", BLOCKS)
def test_a_block_where_none_can_be_is_never_read_nor_written(chain: list[Path], what: str) -> None:
    how, reason = BLOCKS[what]
    raw = damage(chain[0], how)
    with closing(disk.opened(chain)) as reader, pytest.raises(BootpointError, match=reason):
        reader.read(0, 2 * MiB)
    with pytest.raises(BootpointError, match=reason):
        disk.writer(chain)
    assert chain[0].read_bytes() == raw


def test_blocks_that_share_their_place_are_not_written(chain: list[Path]) -> None:
    with closing(disk.opened(chain)) as reader:
        place = reader.images[0].place(1)
    raw = damage(chain[0], entry(0, place | 6))
    with pytest.raises(BootpointError, match="two of its blocks lie at"):
        disk.writer(chain)
    assert chain[0].read_bytes() == raw


def test_a_file_that_was_cut_short_is_refused(chain: list[Path]) -> None:
    with chain[0].open("r+b") as file:
        file.truncate(5 * MiB)
    with closing(disk.opened(chain)) as reader, pytest.raises(BootpointError, match="can't lie at"):
        reader.read(2 * MiB, MiB)


@pytest.mark.parametrize("place", [64 * KiB, 128 * KiB])
def test_one_torn_header_does_no_harm_and_is_mended(chain: list[Path], place: int) -> None:
    damage(chain[0], torn(place + 500))
    with closing(disk.opened(chain)) as reader:
        assert reader.read(MiB, 4) == b"llll"
    with closing(disk.writer(chain)) as writer:
        writer.write(MiB, b"w" * 512)
        writer.flush()
    raw = chain[0].read_bytes()
    for at in (64 * KiB, 128 * KiB):
        assert layout.is_sealed(raw[at : at + 4 * KiB])
    with closing(disk.opened(chain)) as reader:
        assert reader.read(MiB, 513) == b"w" * 512 + b"l"


def test_one_torn_region_table_does_no_harm(chain: list[Path]) -> None:
    damage(chain[0], torn(192 * KiB + 9))
    with closing(disk.opened(chain)) as reader:
        assert reader.read(MiB, 4) == b"llll"


def test_a_full_log_is_told_before_the_file_is_used(chain: list[Path]) -> None:
    damage(chain[0], header(48, b"\1" * 16))
    with closing(LocalFile(chain[0])) as file:
        assert not identify(file).log_empty
    with pytest.raises(BootpointError) as caught:
        disk.opened(chain)
    assert "Mount-VHD" in (caught.value.hint or "")


def test_a_parent_that_was_written_is_not_the_parent_any_more(chain: list[Path]) -> None:
    with closing(disk.writer(chain[1:])) as writer:
        writer.write(0, b"s" * 512)
        writer.flush()
    with pytest.raises(BootpointError, match="another file, or written since"):
        disk.opened(chain)


def test_the_second_id_of_a_parent_is_taken(chain: list[Path]) -> None:
    with closing(LocalFile(chain[0])) as file:
        link = identify(file).metadata.parent
    assert link is not None
    other = UUID(int=7)
    assert not link.names(other)
    assert type(link)(linkage=other, other_linkage=link.linkage).names(link.linkage)


def test_a_chain_without_its_base_or_with_one_too_many_is_refused(chain: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BootpointError, match="has a parent, which isn't there"):
        disk.opened(chain[:1])
    with pytest.raises(BootpointError, match="has no parent, and can't stand on"):
        disk.opened([chain[1], disk.by_qemu(tmp_path / "other.vhdx", SIZE)])


def test_a_full_disk_and_a_missing_file_have_their_codes(tmp_path: Path) -> None:
    with pytest.raises(BootpointError) as caught:
        LocalFile(tmp_path / "none.vhdx")
    assert caught.value.code is Code.LAYER_LOST
    with closing(LocalFile(Path("/dev/full"), writable=True)) as file:
        with pytest.raises(BootpointError) as caught:
            file.write_at(0, b"x" * 4096)
        assert caught.value.code is Code.HOST_FULL
        with pytest.raises(BootpointError, match="a write has failed before"):
            file.flush()
