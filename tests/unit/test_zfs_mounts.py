"""Which dataset a file lies in, where mount points have any names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootpoint_producer.snapshots import zfs


@pytest.mark.parametrize("odd", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_mount_point_that_holds_what_looks_like_the_end_of_a_line_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    (tmp_path / "disk.raw").touch()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"36 25 8:1 / /media/of{odd}somebody rw - ext4 /dev/sda1 rw\n37 25 0:41 / {tmp_path} rw - zfs tank/erp rw\n"
    )
    monkeypatch.setattr(zfs, "_MOUNTS", mounts)
    assert zfs.dataset_of(tmp_path / "disk.raw") == zfs.Dataset("tank/erp", tmp_path, "disk.raw")
