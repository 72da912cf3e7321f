"""Chains of VHDX files that the updater has written, as two independent readers see them."""

from __future__ import annotations

import random
import subprocess
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from bootpoint_common.units import GiB, MiB, TiB
from bootpoint_worker.vhdx.file import LocalFile
from bootpoint_worker.vhdx.image import identify
from tests.hyperv import avhdx, vhdtest
from tests.vhdx import disk
from tests.vhdx.judge import Libvhdi, StandIn, agreed


def test_each_point_of_a_chain_reads_as_it_was_written(tmp_path: Path, rng: random.Random) -> None:
    size = 10 * GiB + 7 * MiB  # three chunks of a bitmap
    paths = [disk.by_qemu(tmp_path / "base.vhdx", size)]
    content = disk.Content(size)
    points = []
    for number in range(4):
        with closing(disk.writer(paths)) as writer:
            disk.apply(writer, disk.increment(rng, size, (4 * GiB, 8 * GiB, 2 * MiB)), content)
        points.append((paths, content.copy()))
        paths = disk.child(paths, f"point{number}")
    for chain, then in points:
        assert agreed(chain, then.ranges()) == then.expected()
        with closing(disk.opened(chain)) as reader:
            assert [reader.read(*one) for one in then.ranges()] == then.expected()
            assert [bytes(data) for _, data in reader.stream(then.ranges())] == then.expected()
        vhdtest.check_chain(chain[0])


def test_sectors_of_any_number_are_written_alone(tmp_path: Path, rng: random.Random) -> None:
    size = 8 * MiB
    base = disk.by_qemu(tmp_path / "base.vhdx", size, block=MiB)
    expected = bytearray(size)
    paths = [base]
    for number in range(3):
        with closing(disk.writer(paths)) as writer:
            for _ in range(60):
                offset = rng.randrange(size // 512) * 512
                data = rng.randbytes(min(rng.choice((512, 1024, 7 * 512, 3000 * 512)), size - offset))
                writer.write(offset, data)
                expected[offset : offset + len(data)] = data
                assert writer.read(offset, len(data)) == data, "what was written shows at once"
            writer.flush()
        assert agreed(paths, [(0, size)], (Libvhdi, StandIn)) == [expected]
        paths = disk.child(paths, f"child{number}", MiB)


def test_parts_of_sectors_keep_what_is_around_them(tmp_path: Path) -> None:
    avhdx.create_dynamic(tmp_path / "base.vhdx", 8 * MiB, 2 * MiB, sector_size=4096)
    paths = [tmp_path / "base.vhdx"]
    with closing(disk.writer(paths)) as writer:
        writer.write(0, b"a" * 16384)
        writer.flush()
    paths = disk.child(paths, "child")
    with closing(disk.writer(paths)) as writer:
        writer.write(3000, b"b" * 2000)
        writer.flush()
    (shown,) = agreed(paths, [(0, 32768)])
    assert shown == b"a" * 3000 + b"b" * 2000 + b"a" * 11384 + bytes(16384)


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
def test_a_base_is_written_so_that_qemu_reads_it(tmp_path: Path, rng: random.Random, subformat: str) -> None:
    size = 20 * MiB
    base = disk.by_qemu(tmp_path / "base.vhdx", size, subformat, block=8 * MiB)
    before = base.stat().st_size
    content = disk.Content(size)
    with closing(disk.writer([base])) as writer:
        disk.apply(writer, disk.increment(rng, size, (8 * MiB,)), content)
    assert subformat == "dynamic" or base.stat().st_size == before, "a fixed disk doesn't grow"
    subprocess.run(["qemu-img", "check", "-q", "-f", "vhdx", str(base)], check=True)
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "vhdx", "-O", "raw", str(base), str(raw)], check=True)
    shown = raw.read_bytes()
    assert [shown[at : at + length] for at, length in content.ranges()] == content.expected()


def test_the_largest_disk_is_written_to_its_last_sector(tmp_path: Path) -> None:
    size = 64 * TiB
    avhdx.create_dynamic(tmp_path / "base.vhdx", size, 256 * MiB)
    paths = disk.child([tmp_path / "base.vhdx"], "leaf", 32 * MiB)
    with closing(disk.writer(paths)) as writer:
        writer.write(size - 65536, b"e" * 65536)
        writer.write(32 * TiB, b"m" * 65536)
        writer.flush()
        with pytest.raises(ValueError, match="outside a disk"):
            writer.write(size - 512, bytes(1024))
    ranges = [(size - 131072, 131072), (32 * TiB, 65536)]
    assert agreed(paths, ranges) == [bytes(65536) + b"e" * 65536, b"m" * 65536]
    with closing(disk.opened(paths)) as reader:
        extents = list(reader.extents(0, size))
    assert [(at, length) for at, length, zero in extents if not zero] == [(32 * TiB, 65536), (size - 65536, 65536)]
    assert all(at + length == after for (at, length, _), (after, _, _) in pairwise(extents))


def test_a_whole_block_needs_no_bitmap(tmp_path: Path) -> None:
    paths = disk.child([disk.by_qemu(tmp_path / "base.vhdx", 64 * MiB)], "leaf")
    with closing(disk.writer(paths)) as writer:
        for at in range(0, 6 * MiB, 65536):
            writer.write(at, b"w" * 65536)
        writer.flush()
    assert paths[0].stat().st_size < 3 * 2 * MiB + 5 * MiB, "three blocks, and no bitmap"
    assert agreed(paths, [(0, 7 * MiB)]) == [b"w" * 6 * MiB + bytes(MiB)]


def test_zeros_take_no_room_where_there_is_nothing(tmp_path: Path) -> None:
    paths = [disk.by_qemu(tmp_path / "base.vhdx", 64 * MiB)]
    with closing(disk.writer(paths)) as writer:
        writer.write(MiB, b"x" * MiB)
        writer.flush()
    paths = disk.child(paths, "leaf")
    size = paths[0].stat().st_size
    with closing(disk.writer(paths)) as writer:
        writer.zero(32 * MiB, 32 * MiB)
        writer.flush()
        assert paths[0].stat().st_size == size
        writer.zero(0, 64 * MiB)
        writer.flush()
    assert agreed(paths, [(0, 4 * MiB)]) == [bytes(4 * MiB)]


def test_a_disk_that_was_enlarged_is_zero_behind_its_parent(tmp_path: Path) -> None:
    base = disk.by_qemu(tmp_path / "base.vhdx", 8 * MiB)
    with closing(disk.writer([base])) as writer:
        writer.write(0, b"x" * 8 * MiB)
        writer.flush()
    paths = disk.child([base], "leaf")
    resize(paths[0], 12 * MiB)
    with closing(disk.opened(paths)) as reader:
        assert reader.size_bytes == 12 * MiB
        assert reader.read(7 * MiB, 3 * MiB) == b"x" * MiB + bytes(2 * MiB)
        assert list(reader.extents(0, 12 * MiB)) == [(0, 8 * MiB, False), (8 * MiB, 4 * MiB, True)]


def resize(path: Path, size: int) -> None:
    """Enlarge a leaf's disk as Resize-VHD does, within what its BAT has room for."""
    raw = path.read_bytes()
    at = raw.index((8 * MiB).to_bytes(8, "little"), 2 * MiB + 65536)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(size.to_bytes(8, "little"))


def test_the_ids_change_with_the_first_write_and_not_before(tmp_path: Path) -> None:
    base = disk.by_qemu(tmp_path / "base.vhdx", 8 * MiB)
    paths = disk.child([base], "leaf")
    with closing(LocalFile(paths[0])) as file:
        before = identify(file)
    with closing(disk.writer(paths)) as writer:
        writer.flush()
        writer.zero(0, 8 * MiB)
        with closing(LocalFile(paths[0])) as file:
            assert identify(file) == before, "nothing has changed what the disk shows"
        writer.write(0, b"x" * 512)
        with closing(LocalFile(paths[0])) as file:
            after = identify(file)
    assert after.data_write_id != before.data_write_id
    assert after.file_write_id != before.file_write_id
    assert after.metadata == before.metadata
    assert before.metadata.parent is not None
    with closing(LocalFile(base)) as file:
        assert before.metadata.parent.names(identify(file).data_write_id)


def test_a_leaf_is_clean_until_it_holds_a_block(tmp_path: Path) -> None:
    paths = disk.child([disk.by_qemu(tmp_path / "base.vhdx", 8 * MiB)], "leaf")
    with closing(disk.opened(paths)) as reader:
        assert reader.images[0].is_clean()
    with closing(disk.writer(paths)) as writer:
        writer.write(0, b"x" * 512)
        writer.flush()
    with closing(disk.opened(paths)) as reader:
        assert not reader.images[0].is_clean()
