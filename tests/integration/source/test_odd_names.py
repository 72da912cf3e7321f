"""Names that hold spaces, newlines and bytes that are no UTF-8: listed, sent, and found again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bootpoint_common.diskview import draw, lines, public
from bootpoint_common.errors import BootpointError
from bootpoint_common.job import read_toml
from bootpoint_common.units import MiB
from bootpoint_producer.diskmap import inventory, resolve
from tests.integration.source.built import blank, file_system, put
from tests.integration.source.loop import Attach, run, unmount
from tests.integration.source.program import Programs, node

#: What a name may hold, how it is shown, and how it stands in an id, which has to fit into a line of a job file.
NAMES = [
    (b"with  two spaces", "with  two spaces", "with  two spaces"),
    (b"line\nbreak", "line\nbreak", r"line\x0abreak"),
    (b"latin-\xe9\xff", r"latin-\xe9\xff", r"latin-\xe9\xff"),
    ("größe-鷹".encode(), "größe-鷹", "größe-鷹"),
    (b"quote\"back\\slash'", "quote\"back\\slash'", "quote\"back\\slash'"),
    (b"\x0c\x1b[31m\x85", "\x0c\x1b[31m\\x85", r"\x0c\x1b[31m\x85"),
    (b"ends with a space ", "ends with a space ", r"ends with a space\x20"),
]


def named(folder: Path, name: bytes) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def as_sent(found: dict[str, Any]) -> dict[str, Any]:
    """A list of disks as it comes out at the other end: packed, and kept as JSON that PostgreSQL takes."""
    unpacked = msgspec.msgpack.decode(msgspec.msgpack.encode(found))
    text = json.dumps(unpacked)
    assert "\\u0000" not in text
    value: dict[str, Any] = json.loads(text)
    return value


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path / "bin", monkeypatch)


@pytest.mark.parametrize(("name", "text", "in_id"), NAMES)
def test_a_listed_file_is_found_by_the_id_that_is_shown(
    programs: Programs, tmp_path: Path, name: bytes, text: str, in_id: str
) -> None:
    path = put(blank(named(tmp_path, name)), file_system(tmp_path, "ext4"), 0)
    programs.list()
    (item,) = as_sent(inventory([path]))["items"]
    assert (item["id"], item["path"]) == (f"file:{tmp_path}/{in_id}", f"{tmp_path}/{text}")
    assert (item["eligible"], item["partitions"][0]["fs"]) == (True, "ext4")
    assert resolve(item["id"], [tmp_path / "other", path]) == path
    quoted = json.dumps(item["id"])  # a TOML string takes JSON's escapes
    spec = read_toml(
        f'name = "a"\n[source]\nagent = "b"\ndisks = [{{ slot = "s", id = {quoted} }}]\n[[target]]\nhost = "h"\n'
    )
    assert spec.source.disks is not None
    assert resolve(spec.source.disks[0].id, [path]) == path


def test_two_files_that_would_be_called_the_same_are_neither(programs: Programs, tmp_path: Path) -> None:
    paths = [blank(named(tmp_path, name)) for name in (b"a\xff", b"a\\xff")]
    with pytest.raises(BootpointError):
        resolve(f"file:{tmp_path}/a\\xff", paths)


@pytest.mark.parametrize(("name", "text"), [each[:2] for each in NAMES])
def test_labels_and_mount_points(
    programs: Programs, attach: Attach, tmp_path: Path, name: bytes, text: str
) -> None:
    label = name[:16]
    image = blank(tmp_path / "disk.img", 16 * MiB)
    run("mkfs.ext4", "-q", "-L", os.fsdecode(label), image)
    device = attach(image)
    point = named(tmp_path, b"mount-" + name)
    point.mkdir()
    run("mount", device, point)
    try:
        # What lsblk makes of the name goes on as it is, but that the device is a disk.
        programs.do("lsblk", f"$real \"$@\" {device} | sed 's/\"type\": \"loop\"/\"type\": \"disk\"/'")
        (item,) = as_sent(inventory())["items"]
    finally:
        unmount(point)
    (whole,) = item["partitions"]
    assert whole["mount"] == f"{tmp_path}/mount-{text}"
    assert whole["label"] == label.decode(errors="backslashreplace")
    assert whole["used_bytes"] is not None
    for cells in lines({"items": [item]}):
        assert all(cell.isprintable() for cell in cells)
    for line in draw({"items": [item]}, 60):
        assert line.plain.isprintable()
        assert line.cell_len <= 60


def test_bytes_that_lsblk_passes_on_do_not_stop_the_list(programs: Programs, tmp_path: Path) -> None:
    disk = blank(tmp_path / "sdx")
    device = node("sdx", path=str(disk), fstype="ext4", label="LABEL", serial="SER\u0000IAL")
    said = json.dumps({"blockdevices": [device]})
    said = said.replace("LABEL", "\\ud800 LABEL")
    programs.say("lsblk", said.encode().replace(b"LABEL", b"a\xff\x01b"))
    (item,) = as_sent(public(inventory()))["items"]
    assert item["id"] == r"serial:SER\x00IAL"
    assert item["partitions"][0]["label"].endswith("a\\xff\x01b")
