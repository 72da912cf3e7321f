"""The list of disks: on files and loop devices, and on what lsblk says of machines that aren't at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.diskview import draw, public
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import GiB, MiB
from bootpoint_producer.diskmap import inventory, resolve
from tests.integration.source.built import blank, file_system, put, table
from tests.integration.source.loop import Attach, Mount, run
from tests.integration.source.program import Programs, node, part

GOLDEN = Path(__file__).parents[2] / "golden"

#: Fields of `disk list`: of a disk, a partition, and what lies on a partition.
ITEM = {
    "id", "path", "size_bytes", "logical_sector_bytes", "physical_sector_bytes", "table", "eligible", "reason",
    "protected_by", "snapshot", "tracker", "used_bytes", "partitions",
}  # fmt: skip
PARTITION = {"number", "path", "start_bytes", "size_bytes", "fs", "label", "uuid", "mount", "used_bytes", "holds"}
HELD = {"kind", "path", "fs", "size_bytes", "mount", "used_bytes"}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path / "bin", monkeypatch)


def items_of(*files: Path) -> list[dict[str, Any]]:
    return [item for item in public(inventory(files))["items"] if item["id"].startswith("file:")]


@pytest.fixture
def partitioned(tmp_path: Path) -> Path:
    """A raw file with GPT, an ext4 file system in partition 1 and swap in partition 3."""
    path = table(blank(tmp_path / "disk.img"), "label: gpt\n1: start=2048 size=65536\n3: size=32768\n")
    uuid = "11111111-2222-3333-4444-555555555555"
    put(path, file_system(tmp_path, "ext4", 32 * MiB, "-L", "root", "-U", uuid), MiB)
    return put(path, file_system(tmp_path, "swap"), 33 * MiB)


def test_the_partitions_of_a_file(partitioned: Path) -> None:
    with partitioned.open("rb") as file:
        os.fsync(file.fileno())  # else its blocks change when they are written out
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
    told = [item for item in inventory([idle, busy])["items"] if item["id"].startswith("file:")]
    assert {item["snapshot_reason"] for item in told} == {"it is a file on storage that copies by reference"}
    (why,) = {item["tracker_reason"] for item in told}
    assert why.startswith("ebpf: it is a file, and the block layer knows the disk only that the file lies on")


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


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """What stands for the node of a disk that lsblk is made to list."""
    return blank(tmp_path / "sdx")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "uninitialised"),
        ({"pttype": "gpt"}, "unpartitioned"),
        ({"pttype": "gpt", "children": [part("sdx1", "swap")]}, "swap_only"),
        ({"fstype": "swap"}, "swap_only"),
        ({"rm": True, "pttype": "dos", "children": [part("sdx1", "vfat")]}, "removable"),
        ({"rm": "1", "pttype": "dos", "children": [part("sdx1", "vfat")]}, "removable"),
        ({"tran": "usb", "pttype": "dos", "children": [part("sdx1", "vfat")]}, "removable"),
        ({"state": "offline"}, "offline"),
        ({"state": "transport-offline"}, "offline"),
        ({"state": "dead"}, "offline"),
        ({"log-sec": 520}, "sector_size"),
        ({"pttype": "dos", "children": [part("sdx1", None, parttype="0x42")]}, "ldm"),
        (
            {"pttype": "gpt", "children": [part("sdx1", None, parttype="e75caf8f-f680-4cee-afa3-b001e56efc2d")]},
            "storage_spaces",
        ),
    ],
)
def test_disks_that_can_be_no_source(programs: Programs, disk: Path, fields: dict[str, Any], reason: str) -> None:
    programs.list(node("sdx", path=str(disk), **fields))
    (item,) = public(inventory())["items"]
    assert (item["eligible"], item["reason"], item["snapshot"], item["tracker"]) == (False, reason, None, None)


def test_lvm_is_shown_beneath_its_partition(programs: Programs, disk: Path) -> None:
    root = node(
        "dm-0", type="lvm", path="/dev/mapper/vg0-root", fstype="ext4", size=60 * GiB, mountpoints=["/srv", "/"],
        fsused="21468545024",
    )  # fmt: skip
    boot = part("sdx1", "vfat", mountpoints=["/boot/efi"], fsused="6291456")
    lvm = part("sdx2", "LVM2_member", children=[root])
    programs.list(node("sdx", path=str(disk), serial="S3Z8NB0K", pttype="gpt", children=[boot, lvm]))
    (item,) = public(inventory())["items"]
    assert (item["id"], item["reason"]) == ("serial:S3Z8NB0K", None)
    assert item["used_bytes"] == 21468545024 + 6291456
    (held,) = item["partitions"][1]["holds"]
    assert set(held) == HELD
    assert (held["kind"], held["path"], held["mount"], held["used_bytes"]) == ("lv", "/dev/vg0/root", "/", 21468545024)


def test_what_lies_on_what_is_told_to_the_last_level(programs: Programs, disk: Path, tmp_path: Path) -> None:
    home = node("dm-2", type="lvm", path="/dev/mapper/vg--a-home", fstype="ext4", mountpoints=["/home"], fsused=GiB)
    volume = node("dm-1", type="crypt", path="/dev/mapper/secret", fstype="LVM2_member", children=[home])
    array = node("md0", type="raid1", path="/dev/md0", fstype="crypto_LUKS", children=[volume])
    member = {"pttype": "gpt", "children": [part("sdx1", "linux_raid_member", children=[array])]}
    other = blank(tmp_path / "sdy")
    programs.list(node("sdx", path=str(disk), **member), node("sdy", path=str(other), **member))
    for item in inventory()["items"]:
        (partition,) = item["partitions"]
        assert [(held["kind"], held["path"], held["on"]) for held in partition["holds"]] == [
            ("md", "/dev/md0", partition["path"]),
            ("luks", "/dev/mapper/secret", "/dev/md0"),
            ("lv", "/dev/vg-a/home", "/dev/mapper/secret"),
        ]
        assert item["used_bytes"] == GiB
        assert item["eligible"]


def test_a_volume_on_two_partitions_of_a_disk_is_used_once(programs: Programs, disk: Path) -> None:
    root = node("dm-0", type="lvm", path="/dev/mapper/vg0-root", fstype="ext4", fsused=GiB, mountpoints=["/"])
    both = [part(name, "LVM2_member", children=[root]) for name in ("sdx1", "sdx2")]
    programs.list(node("sdx", path=str(disk), pttype="gpt", children=both))
    (item,) = inventory()["items"]
    assert item["used_bytes"] == GiB


def test_a_shared_serial_number_names_no_disk(programs: Programs, tmp_path: Path) -> None:
    paths = [blank(tmp_path / name) for name in ("sdx", "sdy", "sdz")]
    fields = [{"serial": "0123", "wwn": "0x5000a"}, {"serial": "0123"}, {"serial": "Z", "wwn": "0x5b"}]
    programs.list(*(node(path.name, path=str(path), **each) for path, each in zip(paths, fields, strict=True)))
    first, second, third = (item["id"] for item in inventory()["items"])
    assert first == "wwn:0x5000a"
    assert second.startswith("path:")
    assert third == "serial:Z"
    assert resolve("wwn:0x5b") == resolve("serial:Z") == paths[2]
    with pytest.raises(BootpointError):
        resolve("serial:0123")


def test_what_only_looks_like_a_disk_is_left_out(programs: Programs) -> None:
    listed = [node("zram0"), node("nbd0", size=0), node("loop0", type="loop"), node("sr0", type="rom")]
    programs.list(*listed, node("mmcblk0boot0"), node("fd0"))
    assert inventory()["items"] == []


def test_a_recorded_machine(programs: Programs, tmp_path: Path) -> None:
    """What lsblk and sfdisk said in a VM: LUKS, a volume group over two disks, and a mirror with a thin pool on it."""
    said = (GOLDEN / "disks.json").read_text().replace('"/dev/vd', f'"{tmp_path}/vd')
    recorded = json.loads(said)
    programs.say("lsblk", json.dumps({"blockdevices": recorded["blockdevices"]}))
    for device in recorded["blockdevices"]:
        blank(Path(device["path"]), device["size"])
        table_of = recorded["tables"].get(device["name"])
        if table_of is not None:
            (tmp_path / f"{device['name']}.table").write_text(json.dumps(table_of))
    programs.do("sfdisk", 'exec cat "$2.table"')
    found = inventory()
    assert [(item["id"], item["table"], item["reason"]) for item in found["items"]] == [
        ("serial:vdb", "gpt", None), ("serial:vdc", "gpt", None), ("serial:vdd", None, None),
        ("serial:vde", None, None), ("serial:vdf", None, "swap_only"),
    ]  # fmt: skip
    efi, luks = found["items"][0]["partitions"]
    assert (efi["number"], efi["start_bytes"], efi["size_bytes"]) == (1, MiB, 64 * MiB)
    assert (efi["fs"], efi["label"], efi["uuid"], efi["mount"]) == ("vfat", "EFI", "DB03-5D1D", "/efi")
    assert [(held["kind"], held["path"], held["fs"], held["mount"]) for held in luks["holds"]] == [
        ("luks", "/dev/mapper/secret", "LVM2_member", None),
        ("lv", "/dev/vg-a/root", "ext4", "/m nt"),
    ]
    (second,) = found["items"][1]["partitions"]
    assert [(held["path"], held["on"]) for held in second["holds"]] == [("/dev/vg-a/data", f"{tmp_path}/vdc1")]
    for mirror in found["items"][2:4]:
        (whole,) = mirror["partitions"]
        assert (whole["number"], whole["fs"]) == (0, "linux_raid_member")
        assert [(held["kind"], held["path"], held["on"]) for held in whole["holds"]] == [
            ("md", "/dev/md0", mirror["path"]),
            ("lv", "/dev/mapper/thin-pool_tdata", "/dev/md0"),
            ("lv", "/dev/mapper/thin-pool-tpool", "/dev/mapper/thin-pool_tdata"),
            ("lv", "/dev/thin/pool", "/dev/mapper/thin-pool-tpool"),
            ("lv", "/dev/thin/vol", "/dev/mapper/thin-pool-tpool"),
            ("lv", "/dev/mapper/thin-pool_tmeta", "/dev/md0"),
        ]
    for width in range(60, 201):
        assert all(line.cell_len <= width for line in draw(found, width))
    text = "\n".join(line.plain for line in draw(found, 200))
    assert f"also on {tmp_path}/vde" in text


# -- programs that say nothing, or nonsense --------------------------------------------------------------------


def test_without_lsblk_the_disks_are_those_of_sys(programs: Programs) -> None:
    before = inventory()["items"]
    programs.lack("lsblk")
    found = inventory()
    assert [(item["id"], item["size_bytes"], item["eligible"]) for item in found["items"]] == [
        (item["id"], item["size_bytes"], item["eligible"]) for item in before
    ]
    (problem,) = found["problems"]
    assert problem == "lsblk isn't installed: the disks are listed as /sys has them (it comes with util-linux)"


@pytest.mark.parametrize(
    "said", ["", "nonsense", "[]", "{}", '{"blockdevices": 7}', '{"blockdevices": {"a": 1}}', b"\xff{"]
)
def test_what_lsblk_says_makes_no_sense(programs: Programs, said: str | bytes) -> None:
    before = [item["id"] for item in inventory()["items"]]
    programs.say("lsblk", said)
    found = inventory()
    assert [item["id"] for item in found["items"]] == before
    assert [problem.partition(":")[0] for problem in found["problems"]] == ["lsblk makes no sense"]


@pytest.mark.parametrize(
    "device",
    [
        7, None, [], {}, {"name": 7}, {"name": "sdq", "size": "many"}, {"name": "sdq", "size": -1},
        {"name": "sdq", "size": GiB, "children": "none", "mountpoints": 3, "rm": [], "log-sec": "x", "serial": 9},
    ],
)  # fmt: skip
def test_a_device_of_nonsense_costs_that_device_only(programs: Programs, disk: Path, device: Any) -> None:
    programs.list(device, node("sdx", path=str(disk), fstype="ext4"))
    assert [item["path"] for item in inventory()["items"]] == [str(disk)]


def test_without_blkid_nothing_is_said_to_be_empty(programs: Programs, disk: Path, partitioned: Path) -> None:
    programs.list(node("sdx", path=str(disk)))
    programs.lack("blkid")
    found = inventory([partitioned])
    assert [item["reason"] for item in found["items"]] == [None, None]
    assert [part["fs"] for part in found["items"][1]["partitions"]] == [None, None]
    assert found["problems"] == ["blkid isn't installed: file systems are not recognised (it comes with util-linux)"]


def test_without_sfdisk_the_kernel_is_believed(programs: Programs, disk: Path) -> None:
    programs.list(node("sdx", path=str(disk), pttype="gpt", children=[part("sdx1", "ext4")]))
    programs.lack("sfdisk")
    found = inventory()
    (item,) = found["items"]
    assert (item["reason"], item["table"], item["partitions"][0]["fs"]) == (None, "gpt", "ext4")
    assert [problem.partition(":")[0] for problem in found["problems"]] == ["sfdisk isn't installed"]


@pytest.mark.parametrize(
    "said",
    ["nonsense", "{}", '{"partitiontable": []}', '{"partitiontable": {"label": 3, "partitions": [{}, 4, null]}}'],
)
def test_nonsense_of_sfdisk_and_blkid_is_no_table(programs: Programs, partitioned: Path, said: str) -> None:
    programs.say("sfdisk", said)
    programs.say("blkid", b"ID_FS_TYPE\n=\n\xff\xfe\nID_FS_LABEL_ENC=\\xZZ\xff\n")
    programs.list()
    (item,) = inventory([partitioned])["items"]
    assert (item["table"], item["eligible"], item["partitions"]) == (None, True, [])


def test_a_disk_that_vanishes_while_it_is_listed_is_left_out(programs: Programs, disk: Path, tmp_path: Path) -> None:
    other = blank(tmp_path / "sdy")
    programs.list(node("sdx", path=str(disk), fstype="ext4"), node("sdy", path=str(other), fstype="xfs"))
    programs.do("sfdisk", f"rm -f '{disk}'\nexec $real \"$@\"")
    assert [item["path"] for item in inventory()["items"]] == [str(other)]


def test_a_listed_file_that_vanishes_while_it_is_listed_is_offline(programs: Programs, partitioned: Path) -> None:
    programs.list()
    programs.do("sfdisk", f"rm -f '{partitioned}'\nexec $real \"$@\"")
    (item,) = inventory([partitioned])["items"]
    assert (item["eligible"], item["reason"], item["partitions"]) == (False, "offline", [])
