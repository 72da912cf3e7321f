"""Replicas of the used blocks of the file systems that are rarer, or that other drivers write."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.source.replica import require_every_file
from tests.service.component import need


@pytest.mark.parametrize("fs", ["ext2", "ext3", "ntfs", "vfat", "exfat"])
def test_a_replica_of_the_used_blocks_has_every_file(fs: str, tmp_path: Path, rng: random.Random) -> None:
    need("root", "loop", "partclone", "file-systems")
    require_every_file(fs, tmp_path, rng)
