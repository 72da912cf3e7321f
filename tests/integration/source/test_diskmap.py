"""The list of disks: on files and loop devices, and on what lsblk says of machines that aren't at hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GiB, MiB
from bootpoint_producer import diskmap
from bootpoint_producer.diskmap import inventory, resolve
from tests.integration.source.loop import Attach, Mount, run

#: Fields of `disk list`: of a disk, a partition, and what lies on a partition.
ITEM = {
    "id", "path", "size_bytes", "logical_sector_bytes", "physical_sector_bytes", "table", "eligible", "reason",
    "protected_by", "snapshot", "tracker", "used_bytes", "partitions",
}  # fmt: skip
PARTITION = {"number", "path", "start_bytes", "size_bytes", "fs", "label", "uuid", "mount", "used_bytes", "holds"}
HELD = {"kind", "path", "fs", "size_bytes", "mount", "used_bytes"}


def items_of(*files: Path) -> list[dict[str, Any]]:
    return [item for item in inventory(files)["items"] if item["id"].startswith("file:")]


@pytest.fixture
def partitioned(tmp_path: Path) -> Path:
    """A raw file with GPT, an ext4 file system in partition 1 and swap in partition 3."""
    path, part = tmp_path / "disk.img", tmp_path / "part.img"
    run("truncate", "--size", "64M", path)
    script = "label: gpt\n1: start=2048 size=65536\n3: size=32768\n"
    subprocess.run(["sfdisk", "--quiet", path], input=script, text=True, check=True)
    run("truncate", "--size", "32M", part)
    run("mkfs.ext4", "-q", "-L", "root", "-U", "11111111-2222-3333-4444-555555555555", part)
    with path.open("r+b") as file:
        file.seek(MiB)
        file.write(part.read_bytes())
    part.unlink()
    run("truncate", "--size", "16M", part)
    run("mkswap", "--quiet", part)
    with path.open("r+b") as file:
        file.seek(33 * MiB)
        file.write(part.read_bytes())
    return path


def test_the_partitions_of_a_file(partitioned: Path) -> None:
    (item,) = items_of(partitioned)
    assert set(item) == ITEM
    assert (item["id"], item["path"]) == (f"file:{partitioned}", str(partitioned))
    assert (item["eligible"], item["reason"], item["tracker"], item["table"]) == (True, None, "hash", "gpt")
    assert item["size_bytes"] == 64 * MiB
    assert item["used_bytes"] == partitioned.stat().st_blocks * 512 < 64 * MiB
    first, third = item["partitions"]
    assert set(first) == PARTITION
    assert (first["number"], first["fs"], first["label"]) == (1, "ext4", "root")
    assert (first["start_bytes"], first["size_bytes"]) == (MiB, 32 * MiB)
    assert first["uuid"] == "11111111-2222-3333-4444-555555555555"
    assert (third["number"], third["fs"], third["start_bytes"]) == (3, "swap", 33 * MiB)


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_listed_device(tmp_path: Path, attach: Attach, sector: int) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(MiB))
    device = attach(path, "--sector-size", str(sector))
    (item,) = items_of(device)
    assert (item["size_bytes"], item["logical_sector_bytes"]) == (MiB, sector)
    assert item["eligible"]
    assert resolve(f"file:{device}", [device]) == device


def test_a_mounted_file_on_reflink_storage_is_frozen_for_its_snapshot(mounted: Mount) -> None:
    store = mounted("xfs", "store", size="700M")
    idle, busy = store / "idle.img", store / "busy.img"
    idle.write_bytes(os.urandom(MiB))
    mounted("ext4", "busy", store, "64M")
    assert [item["snapshot"] for item in items_of(idle, busy)] == ["reflink", "fsfreeze"]


@pytest.mark.parametrize(("size", "reason"), [(None, "offline"), (0, "offline"), (1000, "sector_size")])
def test_files_that_are_no_disks(tmp_path: Path, size: int | None, reason: str) -> None:
    path = tmp_path / "disk.img"
    if size is not None:
        path.write_bytes(b"x" * size)
    (item,) = items_of(path)
    assert (item["eligible"], item["reason"], item["snapshot"], item["tracker"]) == (False, reason, None, None)


def test_the_machine() -> None:
    found = inventory(agent="erp-db")
    assert found["agent"] == "erp-db"
    machine = found["machine"]
    assert set(machine) == {"os", "kernel", "firmware", "cpus", "memory_bytes", "nics"}
    assert machine["kernel"] == run("uname", "-r")
    assert machine["cpus"] == os.cpu_count()
    assert machine["memory_bytes"] >= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for nic in machine["nics"]:
        assert set(nic) == {"name", "mac", "addresses", "gateway"}


@pytest.mark.parametrize(
    ("disk_id", "code"),
    [
        ("file:/etc/shadow", Code.SOURCE_INELIGIBLE),
        ("file:/no/such/disk", Code.DISK_MISSING),
        ("serial:NOSUCH", Code.DISK_MISSING),
        ("wwn:0x0", Code.DISK_MISSING),
    ],
)
def test_names_that_are_no_disk(disk_id: str, code: Code) -> None:
    with pytest.raises(BootpointError) as caught:
        resolve(disk_id, ["/no/such/disk"])
    assert caught.value.code == code


# -- machines that aren't at hand ----------------------------------------------------------------------------


def node(name: str, **fields: Any) -> dict[str, Any]:
    """What lsblk says of a device; what isn't given is as with a plain disk."""
    plain: dict[str, Any] = {
        "name": name, "kname": name, "path": f"/dev/{name}", "type": "disk", "size": 64 * GiB, "log-sec": 512,
        "phy-sec": 4096, "serial": None, "wwn": None, "state": "running", "rm": False, "tran": "sata", "pttype": None,
        "fstype": None, "label": None, "uuid": None, "mountpoints": [None], "fsused": None,
    }  # fmt: skip
    return {**plain, **fields}


def part(name: str, fs: str, **fields: Any) -> dict[str, Any]:
    return node(name, type="part", fstype=fs, **fields)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What lsblk says; to be filled."""
    nodes: list[dict[str, Any]] = []
    monkeypatch.setattr(diskmap, "ask_json", lambda *_: {"blockdevices": nodes})
    monkeypatch.setattr(diskmap, "signature", lambda *_: {})
    return nodes


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (node("sdx"), "uninitialised"),
        (node("sdx", pttype="gpt"), "unpartitioned"),
        (node("sdx", pttype="gpt", children=[part("sdx1", "swap")]), "swap_only"),
        (node("sdx", fstype="swap"), "swap_only"),
        (node("sdx", rm=True, pttype="dos", children=[part("sdx1", "vfat")]), "removable"),
        (node("sdx", tran="usb", pttype="dos", children=[part("sdx1", "vfat")]), "removable"),
        (node("sdx", state="offline"), "offline"),
        (node("sdx", **{"log-sec": 520}), "sector_size"),
    ],
)
def test_disks_that_can_be_no_source(said: list[dict[str, Any]], disk: dict[str, Any], reason: str) -> None:
    said.append(disk)
    (item,) = inventory()["items"]
    assert (item["eligible"], item["reason"], item["snapshot"], item["tracker"]) == (False, reason, None, None)


def test_lvm_is_shown_beneath_its_partition(said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    root = node(
        "dm-0", type="lvm", path="/dev/vg0/root", fstype="ext4", size=60 * GiB, mountpoints=["/"], fsused="21468545024"
    )
    boot = part("sdx1", "vfat", mountpoints=["/boot/efi"], fsused="6291456")
    said.append(
        node("sdx", serial="S3Z8NB0K", pttype="gpt", children=[boot, part("sdx2", "LVM2_member", children=[root])])
    )
    monkeypatch.setattr(diskmap, "_item", lambda disk_id, _, reason: {"id": disk_id, "reason": reason})
    (item,) = inventory()["items"]
    assert (item["id"], item["reason"]) == ("serial:S3Z8NB0K", None)
    assert item["used_bytes"] == 21468545024 + 6291456
    (held,) = item["partitions"][1]["holds"]
    assert set(held) == HELD
    assert (held["kind"], held["path"], held["mount"], held["used_bytes"]) == ("lv", "/dev/vg0/root", "/", 21468545024)


def test_a_shared_serial_number_names_no_disk(said: list[dict[str, Any]]) -> None:
    said += [node("sdx", serial="0123", wwn="0x5000a"), node("sdy", serial="0123"), node("sdz", serial="Z", wwn="0x5b")]
    first, second, third = (item["id"] for item in inventory()["items"])
    assert first == "wwn:0x5000a"
    assert second.startswith("path:")
    assert third == "serial:Z"
    assert resolve("wwn:0x5b") == resolve("serial:Z") == Path("/dev/sdz")
    with pytest.raises(BootpointError):
        resolve("serial:0123")


def test_what_only_looks_like_a_disk_is_left_out(said: list[dict[str, Any]]) -> None:
    said += [node("zram0"), node("nbd0", size=0), node("loop0", type="loop"), node("sr0", type="rom")]
    assert inventory()["items"] == []
