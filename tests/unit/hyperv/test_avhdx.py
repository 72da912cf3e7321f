"""The stand-in's VHDX files are what other readers take for VHDX files."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from bootpoint_common.units import GiB, MiB, TiB
from tests.hyperv import avhdx, front, layout
from tests.hyperv.avhdx import Vhdx
from tests.hyperv.front import VhdxError
from tests.hyperv.readers import by_dissect, by_libvhdi
from tests.hyperv.vhdtest import check_chain
from tests.service.component import need

#: Sectors of the disks here, in bytes.
SECTOR = 512

#: What dissect reads right, in bytes.
GRAIN = 4096


def scribble(disk: Vhdx, model: dict[int, bytes], rng: random.Random, times: int, grain: int = SECTOR) -> None:
    """Write grains of bytes anywhere, and around the borders of blocks and chunks, and note them in a model."""
    size, block = disk.shape.size, disk.shape.block_size
    for _ in range(times):
        around = rng.choice([rng.randrange(size), block * rng.randrange(disk.shape.blocks), size])
        count = rng.randint(1, 20)
        first = max(0, min(around // grain - rng.randint(0, count), size // grain - count))
        data = rng.randbytes(count * grain)
        disk.write(first * grain, data)
        model |= {first + number: data[number * grain :][:grain] for number in range(count)}


@pytest.mark.parametrize("grain", [SECTOR, GRAIN])
def test_chains(tmp_path: Path, rng: random.Random, grain: int) -> None:
    """A chain over several chunks and of several block sizes reads alike in three readers, point by point."""
    size = 9 * GiB + 7 * MiB
    path = tmp_path / "base.vhdx"
    avhdx.create_dynamic(path, size)
    model: dict[int, bytes] = {}
    for number, block in enumerate((MiB, 2 * MiB, 32 * MiB, 2 * MiB)):
        with Vhdx(path, writable=True) as disk:
            scribble(disk, model, rng, 20, grain)
        check_chain(path)
        with Vhdx(path) as ours:
            for first in rng.sample(sorted(model), 60):
                offset, length = first * grain, min(3, size // grain - first) * grain
                wanted = b"".join(model.get(first + each, bytes(grain)) for each in range(length // grain))
                assert ours.read(offset, length) == wanted
                assert by_libvhdi(path, offset, length) == wanted
                assert grain < GRAIN or by_dissect(path, offset, length) == wanted
        child = tmp_path / f"leaf{number}.avhdx"
        avhdx.create_child(child, path, block_size=block)
        path = child


@pytest.mark.parametrize(("fixed", "block"), [(False, MiB), (True, 256 * MiB)])
def test_bases_as_qemu_reads_them(tmp_path: Path, fixed: bool, block: int) -> None:
    need("qemu-img")
    path = tmp_path / "base.vhdx"
    (avhdx.create_fixed if fixed else avhdx.create_dynamic)(path, 300 * MiB + SECTOR, block)
    data = random.Random(block).randbytes(3 * SECTOR)
    with Vhdx(path, writable=True) as disk:
        for offset in (0, 256 * MiB - SECTOR, 300 * MiB - 2 * SECTOR):
            disk.write(offset, data)
    check_chain(path)
    subprocess.run(["qemu-img", "check", "-q", path], check=True)
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    with raw.open("rb") as file, Vhdx(path) as disk:
        assert raw.stat().st_size == 300 * MiB + SECTOR
        for offset in (0, 128 * MiB, 256 * MiB - SECTOR, 300 * MiB - 2 * SECTOR):
            file.seek(offset)
            assert file.read(3 * SECTOR) == disk.read(offset, 3 * SECTOR)


def test_bases_of_qemu(tmp_path: Path) -> None:
    """What qemu-img makes is read and goes through Test-VHD."""
    need("qemu-img")
    raw, path = tmp_path / "raw", tmp_path / "base.vhdx"
    data = random.Random(1).randbytes(5 * MiB)
    raw.write_bytes(data)
    subprocess.run(["qemu-img", "convert", "-O", "vhdx", raw, path], check=True)
    check_chain(path)
    with Vhdx(path) as disk:
        assert disk.read(0, 5 * MiB) == data


@pytest.mark.parametrize("size", [MiB, 10 * TiB, 64 * TiB])
def test_the_edges_of_sizes(tmp_path: Path, size: int) -> None:
    path, leaf = tmp_path / "base.vhdx", tmp_path / "leaf.avhdx"
    avhdx.create_dynamic(path, size)
    avhdx.create_child(leaf, path, block_size=32 * MiB)
    with Vhdx(leaf, writable=True) as disk:
        disk.write(size - SECTOR, b"\xa5" * SECTOR)
    assert by_dissect(leaf, size - GRAIN, GRAIN) == bytes(GRAIN - SECTOR) + b"\xa5" * SECTOR


def test_a_merge_keeps_what_is_seen(tmp_path: Path, rng: random.Random) -> None:
    """Merging the middle of a chain into the base changes nothing for those above, which are told of it."""
    size, paths = 20 * MiB, [tmp_path / "base.vhdx"]
    model: dict[int, bytes] = {}
    avhdx.create_dynamic(paths[0], size)
    for number in range(3):
        with Vhdx(paths[-1], writable=True) as disk:
            scribble(disk, model, rng, 10, GRAIN)
        paths.append(tmp_path / f"{number}.avhdx")
        avhdx.create_child(paths[-1], paths[-2])
    base, middle, upper, leaf = paths
    with Vhdx(leaf) as disk:
        before = disk.read(0, size)
    avhdx.merge(middle, base)
    check_chain(leaf)
    with Vhdx(upper, writable=True) as disk:
        disk.set_parent(base)
    middle.unlink()
    check_chain(leaf)
    assert by_dissect(leaf, 0, size) == before
    assert by_libvhdi(leaf, 0, size) == before


def test_a_parent_that_was_written_to(tmp_path: Path) -> None:
    """A child knows that it isn't what it was made on any more."""
    base, leaf = tmp_path / "base.vhdx", tmp_path / "leaf.avhdx"
    avhdx.create_dynamic(base, MiB)
    avhdx.create_child(leaf, base)
    with Vhdx(base, writable=True) as disk:
        disk.write(0, b"x" * SECTOR)
    with pytest.raises(VhdxError) as caught:
        check_chain(leaf)
    assert caught.value.code == front.PARENT_MISMATCH


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_what_test_vhd_refuses(tmp_path: Path) -> None:
    """A torn header, a log that isn't empty, a block behind the end, and two at one place."""
    base, leaf = tmp_path / "base.vhdx", tmp_path / "leaf.avhdx"
    avhdx.create_dynamic(base, 64 * MiB)
    avhdx.create_child(leaf, base)
    with Vhdx(leaf, writable=True) as disk:
        disk.write(0, bytes(2 * MiB))
        disk.write(2 * MiB, bytes(SECTOR))
        first = disk.bat()[0]
    whole = leaf.read_bytes()
    for offset, data, code in (
        (layout.HEADERS[1] + 8, b"\xff", front.HEADER_CORRUPT),
        (layout.HEADERS[1], layout.header(9, bytes(16), bytes(16), b"\1" * 16), front.HEADER_CORRUPT),
        (layout.BAT_OFFSET + 8, (first + (1 << 40)).to_bytes(8, "little"), front.BAT_CORRUPT),
        (layout.BAT_OFFSET + 8, first.to_bytes(8, "little"), front.BAT_CORRUPT),
        (layout.BAT_OFFSET + 8 * disk.shape.bitmap_entry(0), bytes(8), front.BAT_CORRUPT),
        (0, b"vhdxfail", front.FORMAT_UNKNOWN),
    ):
        leaf.write_bytes(whole)
        damage(leaf, offset, data)
        with pytest.raises(VhdxError) as caught:
            check_chain(leaf)
        assert caught.value.code == code
    leaf.write_bytes(whole)
    check_chain(leaf)
