"""What ``bootpoint point mount`` and ``umount`` refuse; a mount itself needs a VM: tests/long/test_mount_long.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bootpoint_ops.appliance import _DEVICE, _MOUNT_POINT, _place_of, _quoted
from bootpoint_ops.cli import main


def refused(database: str, tmp_path: Path, *words: object) -> dict[str, Any]:
    env = {"BOOTPOINT_STATE": str(tmp_path / "state"), "BOOTPOINT_DATABASE_URL": database}
    result = CliRunner().invoke(main, ["point", *map(str, words), "-o", "json"], env=env)
    assert result.exit_code != 0
    found: dict[str, Any] = json.loads(result.stderr)
    return {**found, "exit_code": result.exit_code}


def test_a_mount_begins_only_at_an_empty_directory(database: str, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    assert refused(database, tmp_path, "mount", "erp", "latest", full)["code"] == "spec_invalid"
    assert refused(database, tmp_path, "mount", "erp", "latest", tmp_path / "nowhere")["exit_code"] == 2
    assert (full / "file").read_text() == "mine"


def test_what_the_holder_meets_is_said_by_the_command(database: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    found = refused(database, tmp_path, "mount", "nobody", "latest", empty)
    assert (found["code"], found["exit_code"]) == ("no_such_job", 3)
    assert list((tmp_path / "state/mounts").glob("*.json")) == []


def test_only_what_bootpoint_mounted_is_unmounted(database: str, tmp_path: Path) -> None:
    assert refused(database, tmp_path, "umount", tmp_path)["code"] == "spec_invalid"
    assert refused(database, tmp_path, "umount", "/proc")["code"] == "spec_invalid"


@pytest.mark.parametrize(
    "hostile",
    ["/mnt\nrun", "/x;!id", "/a b", '/"', "/x|sh", "/dev/sda1\necho x", "/dev/sda1 /", "/$(id)", "/~root", ""],
)
def test_words_from_a_disk_are_plain_paths_or_nothing(hostile: str) -> None:
    assert _DEVICE.fullmatch(hostile) is None
    assert _MOUNT_POINT.fullmatch(hostile) is None
    assert _quoted('/my "files"\\') == '"/my \\"files\\"\\\\"'


def test_each_file_system_has_a_place_by_its_disk() -> None:
    slots = ["system", "data"]
    places = {device: _place_of(device, slots) for device in ("/dev/sda1", "/dev/sdb", "/dev/vdb12", "/dev/vg0/root")}
    assert list(places.values()) == ["/system/1", "/data/disk", "/data/12", "/lvm/vg0-root"]
