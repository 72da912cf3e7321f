"""Chains of VHDX files of every size, and cut off at every moment, as independent readers see them."""

from __future__ import annotations

import random
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GiB, MiB, TiB
from tests.hyperv import avhdx, vhdtest
from tests.service.component import need
from tests.vhdx import disk
from tests.vhdx.judge import agreed
from tests.vhdx.powercut import cut_everywhere

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("block", [MiB, 2 * MiB, 32 * MiB, 256 * MiB])
def test_every_moment_of_an_increment(tmp_path: Path, rng: random.Random, block: int) -> None:
    assert cut_everywhere(tmp_path, rng, block=block, flushes=4, variants=3) > 150


@pytest.mark.parametrize(
    ("size", "sector", "fixed"),
    [
        (MiB, 512, False),
        (100 * MiB + 32768, 512, True),
        (13 * GiB + 3 * MiB, 512, False),
        (70 * GiB + 32768, 4096, False),
        (10 * TiB, 512, False),
        (64 * TiB, 4096, False),
    ],
    ids=str,
)
def test_thirty_points_of_any_size(tmp_path: Path, rng: random.Random, size: int, sector: int, fixed: bool) -> None:
    """Each point, and the newest one, reads as it was written; the leafs' blocks have every size."""
    chunk = (sector << 23) % size
    base = tmp_path / "base.vhdx"
    make = avhdx.create_fixed if fixed else avhdx.create_dynamic
    make(base, size, rng.choice((MiB, 32 * MiB, 256 * MiB)), sector)
    paths, content, points = [base], disk.Content(size), []
    for number in range(30):
        with closing(disk.writer(paths)) as writer:
            disk.apply(writer, disk.increment(rng, size, (chunk, 2 * chunk % size, 32 * MiB % size), 6), content)
        points.append((paths, content.copy()))
        paths = disk.child(paths, f"point{number}", rng.choice((MiB, 2 * MiB, 32 * MiB, 256 * MiB)))
    for chain, then in points:
        ranges = then.ranges() if chain is points[-1][0] else rng.sample(then.ranges(), min(20, len(then.ranges())))
        expected = [then.units.get(at // disk.UNIT, bytes(length)) for at, length in ranges]
        assert agreed(chain, ranges) == expected
        with closing(disk.opened(chain)) as reader:
            assert [bytes(data) for _, data in reader.stream(ranges)] == expected
    if size <= 10 * TiB:
        vhdtest.check_chain(points[-1][0][0])


def test_a_full_file_system_fails_the_increment_and_spoils_nothing(tmp_path: Path, rng: random.Random) -> None:
    need("root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], check=True)
    try:
        paths = [disk.by_qemu(place / "base.vhdx", 64 * MiB)]
        old = rng.randbytes(4 * MiB)
        with closing(disk.writer(paths)) as writer:
            writer.write(0, old)
            writer.flush()
        paths = disk.child(paths, "leaf")
        new = rng.randbytes(32 * MiB)
        with closing(disk.writer(paths)) as writer:
            with pytest.raises(BootpointError) as caught:
                writer.write(0, new)
            assert caught.value.code is Code.HOST_FULL
            with pytest.raises(BootpointError):
                writer.flush()
        assert agreed(paths, [(0, 8 * MiB)]) == [old + bytes(4 * MiB)]
    finally:
        subprocess.run(["umount", str(place)], check=True)
