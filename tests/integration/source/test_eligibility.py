"""Every reason why a disk can't be a source, on disks built for it: as files, and as loop devices of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.units import MiB
from bootpoint_producer.diskmap import inventory
from tests.integration.source.built import (
    FIRST,
    LDM_DATA,
    LDM_METADATA,
    LINUX,
    MICROSOFT_RESERVED,
    SIZE,
    STORAGE_SPACES,
    blank,
    dynamic,
    file_system,
    gpt,
    private_header,
    put,
    table,
)
from tests.integration.source.loop import Attach, run
from tests.integration.source.program import Programs, node
from tests.service.component import need

#: What makes an image of a case.
Build = Callable[[Path], Path]

SECTOR = 512
DOS = "label: dos\n"
EXTENDED = f"{DOS}1: start=1024,type=5\n5: start=2048,type=82\n"


def whole(kind: str) -> Build:
    """A disk without a table that holds a file system."""
    return lambda path: put(blank(path), file_system(path.parent, kind, 32 * MiB), 0)


def in_partition(kind: str, script: str = "label: gpt\nstart=2048\n") -> Build:
    """A disk whose first partition holds a file system."""
    return lambda path: put(table(blank(path), script), file_system(path.parent, kind), FIRST)


def header_only(sector: int, **changes: Any) -> Build:
    """A disk without a table, with one header of LDM."""
    return lambda path: put(blank(path), private_header(**changes), sector * SECTOR)


def stale_header(path: Path) -> Path:
    """A disk that was dynamic, and was partitioned anew: its table is Linux's, a header was left."""
    return put(in_partition("ext4", f"{DOS}start=2048\n")(path), private_header(), 6 * SECTOR)


def luks(path: Path) -> Path:
    blank(path)
    run("sh", "-c", f"echo x | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 '{path}' -")
    return path


LAST = SIZE // SECTOR - 1

CASES: list[tuple[str, Build, str | None]] = [
    ("dynamic disk", dynamic, "ldm"),
    ("type 0x42 beside others", lambda path: table(blank(path), f"{DOS}size=8M,type=83\nsize=8M,type=42\n"), "ldm"),
    ("dynamic disk with GPT", lambda path: gpt(path, LDM_METADATA, MICROSOFT_RESERVED, LDM_DATA), "ldm"),
    ("LDM metadata", lambda path: gpt(path, LINUX, LDM_METADATA), "ldm"),
    ("first header, no table", header_only(6), "ldm"),
    ("second header, no table", header_only(LAST + 1 - 2048 + 1856), "ldm"),
    ("last header, no table", header_only(LAST), "ldm"),
    ("Storage Spaces", lambda path: gpt(path, MICROSOFT_RESERVED, STORAGE_SPACES), "storage_spaces"),
    ("zeros", blank, "uninitialised"),
    ("header of another version", header_only(6, version=3), "uninitialised"),
    ("header elsewhere", header_only(7), "uninitialised"),
    ("header of another disk's size", header_only(6, size=2 * SIZE), "uninitialised"),
    ("other letters", header_only(6, magic=b"PRIVHEAP"), "uninitialised"),
    ("noise", lambda path: put(blank(path), os.urandom(MiB), 2 * MiB), "uninitialised"),
    ("GPT without partitions", gpt, "unpartitioned"),
    ("MBR without partitions", lambda path: table(blank(path), DOS), "unpartitioned"),
    ("only reserved for Windows", lambda path: gpt(path, MICROSOFT_RESERVED), "unpartitioned"),
    ("only an empty extended partition", lambda path: table(blank(path), f"{DOS}size=8M,type=5\n"), "unpartitioned"),
    ("swap in a partition", in_partition("swap"), "swap_only"),
    ("swap without a table", whole("swap"), "swap_only"),
    ("swap in an extended partition", in_partition("swap", EXTENDED), "swap_only"),
    ("stale header", stale_header, None),
    ("file system in a partition", in_partition("ext4"), None),
    ("unknown content in a partition", lambda path: gpt(path, LINUX), None),
    ("ext4 without a table", whole("ext4"), None),
    ("vfat without a table", whole("vfat"), None),
    ("LUKS without a table", luks, None),
]  # fmt: skip


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path / "bin", monkeypatch)


@pytest.mark.parametrize(("build", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_disk_of_the_machine(
    programs: Programs, attach: Attach, tmp_path: Path, build: Build, reason: str | None
) -> None:
    need("gdisk", "cryptsetup")
    device = attach(build(tmp_path / "disk.img"))
    programs.list(node(device.name, path=str(device), size=SIZE))
    (item,) = inventory()["items"]
    assert (item["eligible"], item["reason"]) == (reason is None, reason)
    assert (item["snapshot"] is None, item["tracker"] is None) == (reason is not None, reason is not None)


@pytest.mark.parametrize(("build", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_listed_file_needs_not_hold_anything_known(
    programs: Programs, tmp_path: Path, build: Build, reason: str | None
) -> None:
    need("gdisk", "cryptsetup")
    programs.list()
    (item,) = inventory([build(tmp_path / "disk.img")])["items"]
    chosen = reason in ("uninitialised", "unpartitioned")
    assert item["reason"] == (None if chosen else reason)


def test_a_physical_volume_without_a_table_is_a_data_disk(programs: Programs, attach: Attach, tmp_path: Path) -> None:
    need("lvm")
    device = attach(blank(tmp_path / "disk.img"))
    run("pvcreate", "--quiet", "--devices", device, device)
    programs.list(node(device.name, path=str(device), size=SIZE))
    (item,) = inventory()["items"]
    assert (item["eligible"], item["table"], item["partitions"][0]["fs"]) == (True, None, "LVM2_member")


def test_a_member_of_an_array_without_a_table_is_a_data_disk(
    programs: Programs, attach: Attach, tmp_path: Path
) -> None:
    device = attach(put(blank(tmp_path / "disk.img"), array_member(), 4096))
    programs.list(node(device.name, path=str(device), size=SIZE))
    (item,) = inventory()["items"]
    assert (item["eligible"], item["partitions"][0]["fs"]) == (True, "linux_raid_member")


def array_member() -> bytes:
    """A superblock of md 1.2: linux/raid/md_p.h; 8 sectors from the start."""
    block = bytearray(256)

    def put_at(offset: int, value: int, size: int) -> None:
        block[offset : offset + size] = value.to_bytes(size, "little")

    for offset, value, size in (
        (0, 0xA92B4EFC, 4), (4, 1, 4), (72, 1, 4), (80, SIZE // SECTOR - 2048, 8), (92, 2, 4), (128, 2048, 8),
        (136, SIZE // SECTOR - 2048, 8), (144, 8, 8),
    ):  # fmt: skip
        put_at(offset, value, size)
    block[16:32] = bytes(range(16))
    words = [int.from_bytes(block[at : at + 4], "little") for at in range(0, 256, 4)]
    total = sum(words)
    put_at(216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF, 4)
    return bytes(block)


def test_sectors_of_4096_bytes_are_no_obstacle_here(programs: Programs, attach: Attach, tmp_path: Path) -> None:
    """Which hosts can do them the preflight knows; the facts are told."""
    need("gdisk")
    device = attach(blank(tmp_path / "disk.img"), "--sector-size", "4096")
    run("sgdisk", "-n1:0:+16M", f"-t1:{LDM_DATA}", device)
    programs.list(node(device.name, path=str(device), size=SIZE, **{"log-sec": 4096}))
    assert inventory()["items"][0]["reason"] == "ldm"
    run("sgdisk", f"-t1:{LINUX}", device)
    (item,) = inventory()["items"]
    assert (item["eligible"], item["logical_sector_bytes"], item["table"]) == (True, 4096, "gpt")
    assert item["partitions"][0]["start_bytes"] == MiB
    assert item["partitions"][0]["size_bytes"] == 16 * MiB
