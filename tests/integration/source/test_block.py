"""Block devices as sources: sizes, sectors, errors, and content that is never out of date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bootpoint_common.blockmap import BlockMap
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.chunk import Counters
from bootpoint_producer.scan import scan
from bootpoint_producer.sources import open_source
from bootpoint_producer.sources.block import BlockSource
from bootpoint_producer.trackers.hash import HashTracker
from tests.integration.source.loop import Attach


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(MiB) + bytes(2 * MiB) + os.urandom(4096))
    return path


@pytest.mark.parametrize("sector", [512, 4096])
def test_size_sectors_and_content(file: Path, attach: Attach, sector: int) -> None:
    source = open_source(attach(file, "--sector-size", str(sector)))
    assert isinstance(source, BlockSource)
    assert source.size_bytes == 3 * MiB + 4096
    assert source.logical_sector_bytes == sector
    assert source.physical_sector_bytes >= sector
    assert source.read(0, source.size_bytes) == file.read_bytes()
    assert list(source.data_extents(GRAIN, MiB)) == [Extent(GRAIN, MiB)]
    source.close()


def test_what_was_written_past_the_page_cache_is_read(file: Path, attach: Attach) -> None:
    device = attach(file)
    with device.open("rb") as other:  # keeps the device's cache alive, as a mounted partition does
        old = other.read(MiB)
        with file.open("r+b") as backing:
            backing.write(b"new" * 1000)
        assert os.pread(other.fileno(), MiB, 0) == old, "nothing was cached: the test shows nothing"
        source = open_source(device)
        assert source.read(0, 3000) == b"new" * 1000
        source.close()


def test_a_scan_of_a_device_sends_no_zeros(file: Path, attach: Attach, tmp_path: Path) -> None:
    source, counters = open_source(attach(file)), Counters()
    with BlockMap.create(tmp_path / "map", source.size_bytes) as candidate:
        chunks = list(scan(source, HashTracker(), candidate, counters=counters))
    source.close()
    assert [extent for chunk in chunks for extent in chunk.extents] == [Extent(0, MiB), Extent(3 * MiB, 4096)]
    assert b"".join(chunk.payload for chunk in chunks) == file.read_bytes()[:MiB] + file.read_bytes()[3 * MiB :]
    assert (counters.scanned_bytes, counters.changed_bytes) == (3 * MiB + 4096, MiB + 4096)


def test_a_device_that_can_not_be_read_says_where(file: Path, attach: Attach) -> None:
    source = open_source(attach(file))
    os.truncate(file, MiB)
    assert len(source.read(0, MiB)) == MiB
    with pytest.raises(BootpointError) as caught:
        source.read(2 * MiB, GRAIN)
    source.close()
    assert caught.value.code == Code.DISK_READ_ERROR
    assert caught.value.retryable
    assert "at byte 2097152" in caught.value.message
